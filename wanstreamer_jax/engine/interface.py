"""What others know of an engine: the phases of a unit, what comes out of it, what it can be asked. No jax in here."""

# ruff: noqa: B027 (methods that do nothing unless an engine has something to do there)
import abc
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.session import MediaUnit
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import CheckpointError

PHASES = ("commit", "perceive", "think", "perform", "render")  # in the order in which an engine runs them
Span = tuple[str, float, float]  # a phase, from when to when, in seconds of time.perf_counter


@dataclasses.dataclass(frozen=True)
class UnitOutput:
  """What the agent shows, sounds and wrote during one unit."""

  video: np.ndarray  # uint8 [frames, height, width, 3]
  audio: np.ndarray  # float32 [samples] in [-1, 1]
  text: str  # newly written: the texts of all units, joined, are the transcript; words begin with a space
  speaking: bool  # derived (from loudness or text), never fed back
  times: dict[str, float]  # milliseconds of each of PHASES; "commit" ran before the user's unit was there


class SlotEngine(abc.ABC):
  """What serves `slots` sessions in lockstep, as `stream_file` and the scheduler know it; `Engine` is the real one.

  A unit of all slots is `perform(think(users, typed))`. Calls come from one thread, but for `perform`, which may have
  its own. An engine that only plays back needs no more than those two.
  """

  media: MediaConfig
  slots: int = 1
  capacity: int | None = None  # units of history that a session may have; None where older ones are forgotten anyway
  overlaps: bool = False  # whether a unit may be thought while the one before is being performed

  def prepare(self, tell: Callable[[str], None] | None = None) -> None:
    """Compiles everything that sessions will need. tell: is given a line for people after every step of it."""

  def check(self, request: Request) -> None:
    """Raises DataError for a request that `join` would not take. From any thread."""

  def join(self, slot: int, request: Request) -> None:
    """Begins a session in a slot. Raises UserError when it cannot begin and all others are as they were."""

  def reset(self) -> None:
    """After any other error, with nothing under way any more: all sessions are gone, the engine goes on."""

  def commit(self) -> None:
    """Does what can be done before the users' next units are there. `think` does it if nobody did."""

  @abc.abstractmethod
  def think(self, users: Sequence[MediaUnit | None], typed: Sequence[list[str]]) -> Any:
    """One unit of every slot's user, None where nobody is, and what they typed -> what `perform` wants."""

  @abc.abstractmethod
  def perform(self, thought: Any) -> list[UnitOutput | None]:
    """The answers by slot: None where nobody is, and where a session is no longer finite."""

  def unread(self, slot: int) -> int:
    """Tokens that were typed in a slot and wait for room."""
    return 0

  def save(self, folder: Path) -> None:
    """Writes the state of all slots into a folder."""

  def restore(self, folder: Path) -> None:
    """Takes up what `save` wrote. Raises CheckpointError when that was another agent's."""

  def step(self, user: MediaUnit, typed: Sequence[str] = ()) -> UnitOutput:
    """Answers one unit of the session of an engine that has one slot.

    typed: texts that enter as many of this and the next units' slots as they need. Raises CheckpointError when the
    session is no longer finite.
    """
    if self.slots != 1:
      raise ValueError(f"this engine has {self.slots} slots: `step` is for one; use `think` and `perform`")
    (output,) = self.perform(self.think([user], [list(typed)]))
    if output is None:
      raise CheckpointError("the agent's state is not finite any more: its weights are damaged, or training diverged")
    return output
