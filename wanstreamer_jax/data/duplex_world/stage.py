"""What both sides of a script share. The clock, the ground truth, and what the perfect agent is to answer."""

import dataclasses
from collections.abc import Generator

import numpy as np

from wanstreamer_jax.data.duplex_world.asides import Asides
from wanstreamer_jax.data.duplex_world.personas import Persona
from wanstreamer_jax.data.session import Event, Word

Play = Generator[None, bool, None]  # yields at the end of every unit, is sent whether the agent was speaking in it


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the perfect agent says: its words, those of them that must be right, and what it does besides.

  choices: all words that could stand for `right`, if the act's usual ones (`lexicon.answers`) do not fit.
  """

  words: tuple[str, ...]
  right: str
  choices: tuple[str, ...] = ()
  directive: str = ""


def answer(text: str, right: str, choices: tuple[str, ...] = (), directive: str = "") -> Answer:
  """An `Answer` from a text."""
  return Answer(tuple(text.split()), right, choices, directive)


@dataclasses.dataclass(frozen=True)
class ScriptRequest:
  """What an act of the user asks of the agent after `unit`: words, a directive, or both. A statement asks for none."""

  act: str
  words: tuple[str, ...]
  directive: str = ""
  unit: int = 0


@dataclasses.dataclass
class Scene:
  """The clock and the ground truth of a session that is planned to last `seconds`."""

  unit_seconds: float
  seconds: float
  rng: np.random.Generator
  held_out: bool
  small: bool
  persona: Persona
  camera_off: bool = False  # nobody sees the other
  asides: Asides | None = None  # of the user's sentences
  emphasis: float = 1.0  # how much oftener than usual the user asks what joins two things (`script.Act`), and coughs
  now: int = 0
  events: list[Event] = dataclasses.field(default_factory=list)
  requests: list[ScriptRequest] = dataclasses.field(default_factory=list)
  stops: list[int] = dataclasses.field(default_factory=list)  # units at whose end the agent must have fallen silent
  typed: list[Word] = dataclasses.field(default_factory=list)

  @property
  def time(self) -> float:
    return self.now * self.unit_seconds

  @property
  def left(self) -> float:
    """Seconds until the planned end, at least zero."""
    return max(0.0, self.seconds - self.time)

  def last_unit(self, time: float) -> int:
    """The unit in which something that ends at `time` ends."""
    return int(np.ceil(time / self.unit_seconds - 1e-9)) - 1

  def note(self, start: float, end: float, actor: str, kind: str, **detail: str | float | int | bool) -> None:
    self.events.append(Event(start, end, actor, kind, detail))

  def chance(self, probability: float) -> bool:
    return bool(self.rng.random() < probability)

  def pick(self, choices: tuple[str, ...] | list[str]) -> str:
    return choices[int(self.rng.integers(len(choices)))]

  def units(self, low: int, high: int) -> int:
    """A random number of units, low <= n < high."""
    return int(self.rng.integers(low, high))
