"""The session: both sides of one conversation on one clock. It holds media, timed text, world fields and events.

All code that makes or reads data uses this type: duplex_world makes sessions, recordings are read into sessions, and
records are written from sessions. Times are seconds from the session's start. Media are plain NumPy:
video uint8 [frames, height, width, 3] at `fps`, audio float32 [samples] in [-1, 1] at `sample_rate`.
"""

import dataclasses

import numpy as np

USER, AGENT = "user", "agent"


@dataclasses.dataclass(frozen=True)
class Word:
  """One word (or one parenthesised directive, or `<cut>`) of a side's text stream.

  `written` is when it enters the text stream; for agent speech that is `text_lead` units before `start`. Words that
  were planned but never voiced (interrupted) have `voiced = False` and start = end = their planned onset.
  """

  text: str
  written: float
  start: float
  end: float
  voiced: bool = True


@dataclasses.dataclass(frozen=True)
class Phone:
  """One phone of voiced speech, with its interval in seconds."""

  name: str
  start: float
  end: float


@dataclasses.dataclass(frozen=True)
class Event:
  """Something that happened: `actor` did `kind` during [start, end); `detail` says what, in words or JSON scalars."""

  start: float
  end: float
  actor: str
  kind: str
  detail: dict[str, str | float | int | bool] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Side:
  """What one participant shows, sounds and writes. A stream that does not exist is None (video, audio) or empty.

  A stream may exist in some units only: `*_valid`, bool [units], where None means in all. Where the text is not valid,
  nobody knows what was said.
  """

  video: np.ndarray | None
  audio: np.ndarray | None
  words: tuple[Word, ...] = ()  # user: typed text; agent: the text stream
  speech: tuple[Word, ...] = ()  # ground truth of what is voiced, also for the user (who has no text stream for it)
  phones: tuple[Phone, ...] = ()
  tracks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # per frame: mouth, gaze, nod, blink ...
  video_valid: np.ndarray | None = None
  audio_valid: np.ndarray | None = None
  text_valid: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class World:
  """What the agent knows before the session starts: text fields, a portrait, a voice sample."""

  fields: dict[str, str] = dataclasses.field(default_factory=dict)  # e.g. name, home, likes
  portrait: np.ndarray | None = None  # uint8 [height, width, 3]
  voice: np.ndarray | None = None  # float32 [samples]

  def text(self) -> str:
    """The fields as one line, in their order: `name: Ada. likes: tea.`"""
    return " ".join(f"{key}: {value}." for key, value in self.fields.items())

  def with_lead(self, lead: int) -> "World":
    """This world, which also tells how many units before its sound a word is written, unless it does already."""
    return self if "lead" in self.fields else dataclasses.replace(self, fields={"lead": str(lead), **self.fields})


@dataclasses.dataclass(frozen=True)
class Session:
  """Two sides, a world and events; `units` whole units long, of which the first `length` exist (None: all)."""

  user: Side
  agent: Side
  world: World
  events: tuple[Event, ...]
  units: int
  seed: int = 0
  source: str = ""
  length: int | None = None
  speaker: str = ""  # who the agent is, if that is known: the same name in other sessions
  events_complete: bool = False  # whether `events` tell all that the user held, asked and did (`labels.py`)


@dataclasses.dataclass(frozen=True)
class MediaUnit:
  """What the user showed and sounded during one unit; None where there is no such stream."""

  video: np.ndarray | None = None  # uint8 [frames, height, width, 3]
  audio: np.ndarray | None = None  # float32 [samples] in [-1, 1]
