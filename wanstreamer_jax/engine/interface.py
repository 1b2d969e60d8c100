"""What callers may rely on: phases of a unit, its result, the calls of an engine. This module does not import jax."""

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
  """The agent's video, audio and text of one unit."""

  video: np.ndarray  # uint8 [frames, height, width, 3]
  audio: np.ndarray  # float32 [samples] in [-1, 1]
  text: str  # newly written: the texts of all units, joined, are the transcript; words begin with a space
  speaking: bool  # derived (from loudness or text), never fed back
  times: dict[str, float]  # milliseconds of each of PHASES; "commit" ran before the user's unit was there


class SlotEngine(abc.ABC):
  """The interface of an engine that serves `slots` sessions in lockstep; `Engine` implements it.

  A unit of all slots is `perform(think(users, typed))`. Calls come from one thread, except that `perform` may have a
  thread of its own. An engine that only plays back needs only these two methods.
  """

  media: MediaConfig
  slots: int = 1
  capacity: int | None = None  # units of history that a session may have; None where older ones are forgotten anyway
  overlaps: bool = False  # whether a unit may be thought while the one before is being performed

  def prepare(self, tell: Callable[[str], None] | None = None) -> None:
    """Compiles everything that sessions will need. tell: is called with a line of text after every step."""

  def check(self, request: Request) -> None:
    """Raises DataError for a request that `join` would refuse. May be called from any thread."""

  def join(self, slot: int, request: Request) -> None:
    """Begins a session in a slot. Raises UserError if it cannot; the other sessions are unchanged."""

  def reset(self) -> None:
    """Ends all sessions after any other error, when no call is running any more. The engine can be used again."""

  def commit(self) -> None:
    """Does what can be done before the users' next units arrive. `think` calls it if nobody has."""

  @abc.abstractmethod
  def think(self, users: Sequence[MediaUnit | None], typed: Sequence[list[str]]) -> Any:
    """One unit of every slot's user (None for an empty slot) and typed texts -> the argument of `perform`."""

  @abc.abstractmethod
  def perform(self, thought: Any) -> list[UnitOutput | None]:
    """The answers by slot; None for an empty slot and for a session that is no longer finite."""

  def unread(self, slot: int) -> int:
    """Number of typed tokens of a slot that still wait for room."""
    return 0

  def save(self, folder: Path) -> None:
    """Writes the state of all slots into a folder."""

  def restore(self, folder: Path) -> None:
    """Restores what `save` wrote. Raises CheckpointError if it belongs to another agent."""

  def step(self, user: MediaUnit, typed: Sequence[str] = ()) -> UnitOutput:
    """Answers one unit of the session of an engine that has one slot.

    typed: texts that fill as many text slots of this and the next units as they need. Raises CheckpointError when the
    session is no longer finite.
    """
    if self.slots != 1:
      raise ValueError(f"this engine has {self.slots} slots: `step` is for one; use `think` and `perform`")
    (output,) = self.perform(self.think([user], [list(typed)]))
    if output is None:
      raise CheckpointError("the agent's state is no longer finite: its weights are damaged, or training diverged")
    return output
