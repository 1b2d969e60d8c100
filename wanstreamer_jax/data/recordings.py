"""Reads recordings of two people as sessions. A JSON-lines manifest lists the media files.

One line per recording; paths are relative to the manifest, times are seconds from the recording's start:

    {"id": "monday-3",
     "user":  {"video": "a.mp4", "audio": "a.wav", "words": [{"text": "hello", "start": 0.4, "end": 0.7}]},
     "agent": {"video": "b.mp4", "words": [{"text": "hi", "start": 1.2, "end": 1.4}]},
     "world": {"fields": {"name": "Ada"}, "portrait": "ada.png"},
     "events": [{"start": 1.0, "end": 2.0, "actor": "agent", "kind": "nod"}]}

Audio comes from "audio", or else from the video file; a side may lack audio or video. A line `{"path": "talk.wav",
"duration": 61.5}` names one two-channel file, agent left and user right (the moshi-finetune form); the other keys may
be added to it, and a stated duration must be positive. Any frame size, frame rate and sample rate will do. A
recording ends with its shorter side and gives as many sessions of `units` units as fit into it.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config, MediaConfig, unknown_name
from wanstreamer_jax.data.session import AGENT, USER, Event, Session, Side, Word, World
from wanstreamer_jax.data.world_file import check_world, world_of
from wanstreamer_jax.errors import DataError, one_line

LINE_KEYS = ("id", "path", "duration", "user", "agent", "world", "events")
SIDE_KEYS = ("video", "audio", "words")
MAX_TIME = 1e9  # seconds
LEADS = (0, 1, 2)  # units by which a word is written before it sounds; one is chosen for each recording


@dataclasses.dataclass(frozen=True)
class ManifestLine:
  """One checked line of a manifest."""

  id: str
  where: str  # "manifest.jsonl:3", for messages
  media: dict[str, dict[str, str]]  # side -> {"video" | "audio": path}
  stereo: str | None
  words: dict[str, tuple[tuple[str, float, float], ...]]  # side -> (text, start, end)
  world: dict[str, Any]
  events: tuple[Event, ...]


@dataclasses.dataclass(frozen=True)
class BadLine:
  """A line of a manifest that cannot be used, and why."""

  where: str
  reason: str


def read_manifest(path: str | pathlib.Path, skip_bad: bool = False) -> list[ManifestLine | BadLine]:
  """All lines of a manifest, checked.

  Raises DataError with the file's name and line number for the first bad one; with `skip_bad` such lines become
  BadLine.
  """
  path = pathlib.Path(path)
  try:
    lines = path.read_text().split("\n")
  except OSError as error:
    raise DataError(f"recordings manifest {path}: {error.strerror}") from error
  except UnicodeDecodeError as error:
    raise DataError(f"recordings manifest {path}: not a text file ({one_line(error)})") from error
  found: list[ManifestLine | BadLine] = []
  used: dict[str, str] = {}  # id -> where
  for number, line in enumerate(lines, 1):
    where = f"{path}:{number}"
    try:
      if line.strip():
        found.append(_checked_line(line, path.parent, where, used))
    except DataError as error:
      if not skip_bad:
        raise
      found.append(BadLine(where, str(error).removeprefix(f"{where}: ")))
  if not found:
    raise DataError(f"recordings manifest {path} has no line; write one JSON object per recording")
  return found


def _checked_line(line: str, folder: pathlib.Path, where: str, used: dict[str, str]) -> ManifestLine:
  """One line of a manifest, checked; its id is added to `used`. Raises DataError."""
  try:
    value = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise DataError(f"{where}: not JSON ({one_line(error)})") from error
  _keys(value, LINE_KEYS, where)
  stereo = value.get("path")
  if stereo is not None:
    _file(stereo, folder, f"{where}: path")
  if "duration" in value:
    _number(value["duration"], f"{where}: duration", above=0.0)
  sides = {name: value.get(name, {}) for name in (USER, AGENT)}
  media, words = {}, {}
  for name, side in sides.items():
    _keys(side, SIDE_KEYS, f"{where}: {name}")
    media[name] = {key: side[key] for key in ("video", "audio") if side.get(key) is not None}
    for key, file in media[name].items():
      _file(file, folder, f"{where}: {name}.{key}")
    if not media[name] and stereo is None:
      raise DataError(f"{where}: {name} has neither video nor audio; name a file, or give a two-channel path")
    words[name] = _words(side.get("words", []), f"{where}: {name}.words")
  for file in check_world(_at(folder, where), value.get("world", {}))[1:]:
    if file is not None:
      _file(file.name if file.parent == folder else str(file), folder, f"{where}: world")
  identity = value.get("id", stereo or next(iter(media[AGENT].values()), None))
  if not isinstance(identity, str) or not identity:
    raise DataError(f"{where}: id {identity!r} is not text")
  events = tuple(_events(value.get("events", []), f"{where}: events"))
  if used.setdefault(identity, where) != where:
    raise DataError(f"{where}: id {identity!r} was used at {used[identity]}; ids must be unique")
  return ManifestLine(identity, where, media, stereo, words, value.get("world", {}), events)


def _at(folder: pathlib.Path, where: str) -> pathlib.Path:
  """A path for the messages of `world_file` that names the line of a manifest which holds the world."""
  return folder / f"{pathlib.Path(where).name}: world"


def _keys(value: Any, known: tuple[str, ...], where: str) -> None:
  if not isinstance(value, dict):
    raise DataError(f"{where}: expected an object, found {type(value).__name__}")
  for key in value:
    if key not in known:
      raise DataError(f"{where}: {unknown_name(key, list(known), 'key')}")


def _file(name: Any, folder: pathlib.Path, where: str) -> None:
  if not isinstance(name, str) or not (folder / name).is_file():
    raise DataError(f"{where}: {name!r} is not a file in {folder}")


def _number(value: Any, where: str, above: float = -math.inf) -> float:
  known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_TIME
  if not known or value <= above:
    shown = one_line(ValueError(repr(value)))
    raise DataError(f"{where}: {shown} is not a number{f' above {above:g}' if above > -math.inf else ''}")
  return float(value)


def _interval(value: Any, where: str) -> tuple[float, float]:
  start, end = (_number(value.get(key), f"{where}.{key}") for key in ("start", "end"))
  if not 0 <= start <= end:
    raise DataError(f"{where}: from {start:g} s to {end:g} s is not an interval: expected 0 <= start <= end")
  return start, end


def _words(values: Any, where: str) -> tuple[tuple[str, float, float], ...]:
  if not isinstance(values, list):
    raise DataError(f"{where}: expected a list, found {type(values).__name__}")
  words = []
  for index, value in enumerate(values):
    _keys(value, ("text", "start", "end"), f"{where}[{index}]")
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
      raise DataError(f"{where}[{index}]: text {text!r} is not a word")
    words.append((text.strip(), *_interval(value, f"{where}[{index}]")))
  return tuple(sorted(words, key=lambda word: word[1]))


def _events(values: Any, where: str) -> Iterator[Event]:
  if not isinstance(values, list):
    raise DataError(f"{where}: expected a list, found {type(values).__name__}")
  for index, value in enumerate(values):
    _keys(value, ("start", "end", "actor", "kind", "detail"), f"{where}[{index}]")
    start, end = _interval(value, f"{where}[{index}]")
    actor, kind, detail = value.get("actor"), value.get("kind"), value.get("detail", {})
    if actor not in (USER, AGENT) or not isinstance(kind, str) or not isinstance(detail, dict):
      raise DataError(f'{where}[{index}]: needs an actor ("user" or "agent"), a kind, and an object as detail')
    yield Event(start, end, actor, kind, detail)


@dataclasses.dataclass(frozen=True)
class RecordingsSource:
  """A `make.SessionSource` over a manifest: one item per recording. `units` is the length of a session."""

  manifest: pathlib.Path
  media: MediaConfig
  units: int
  recordings: tuple[ManifestLine | BadLine, ...]
  tracks: tuple[str, ...] = ()

  @classmethod
  def open(cls, manifest: str | pathlib.Path, config: Config, skip_bad: bool = False) -> "RecordingsSource":
    """Reads and checks the manifest. Raises DataError for its first bad line; with `skip_bad` only that item does."""
    units = config.data.session_units
    return cls(pathlib.Path(manifest), config.media, units, tuple(read_manifest(manifest, skip_bad)))

  @property
  def items(self) -> int:
    return len(self.recordings)

  def describe(self) -> dict[str, Any]:
    digest = hashlib.sha256(self.manifest.read_bytes()).hexdigest()
    known = {"manifest": self.manifest.name, "sha256": digest, "recordings": self.items}
    return {"name": "recordings", **known, "text_lead": None}  # chosen for each recording and stated in its world

  def spoken(self) -> Iterator[tuple[Word, ...]]:
    """The agent's words of every recording."""
    for recording in self.recordings:
      if isinstance(recording, ManifestLine):
        lead = lead_of(recording) * self.media.unit_ms / 1000
        yield tuple(Word(text, max(0.0, start - lead), start, end) for text, start, end in recording.words[AGENT])

  def where(self, item: int) -> str:
    return self.recordings[item].where

  def sessions(self, item: int) -> Generator[Session, None, int]:
    """Consecutive sessions of one recording. Raises DataError and MediaError for what cannot be read."""
    recording, folder = self.recordings[item], self.manifest.parent
    if isinstance(recording, BadLine):
      raise DataError(recording.reason)
    world = world_of(_at(folder, recording.where), recording.world, self.media)
    lead = lead_of(recording)
    world = dataclasses.replace(world, fields={**world.fields, "lead": str(lead)})
    both = zip(*(_units(recording, name, folder, self.media) for name in (USER, AGENT)))
    number, piece = 0, list(itertools.islice(both, self.units))
    while len(piece) == self.units:
      yield _session(recording, number, piece, world, lead * self.media.unit_ms / 1000, self.media)
      number, piece = number + 1, list(itertools.islice(both, self.units))
    return len(piece)


def lead_of(recording: ManifestLine) -> int:
  """How many units before they sound a recording's words are written; always the same for the same id."""
  return LEADS[int(hashlib.sha256(recording.id.encode()).hexdigest(), 16) % len(LEADS)]


Pair = tuple[np.ndarray | None, np.ndarray | None]  # video, audio of one unit


def _units(recording: ManifestLine, name: str, folder: pathlib.Path, media: MediaConfig) -> Iterator[Pair]:
  """The units of one side, up to the end of its shorter stream."""
  from wanstreamer_jax.data.media import MediaReader

  files = recording.media[name]
  sound: Iterator[np.ndarray | None]
  if "audio" in files:
    sound = (unit.audio for unit in MediaReader(folder / files["audio"], media))
  elif recording.stereo is not None:
    sound = _channel(folder / recording.stereo, (AGENT, USER).index(name), media)
  else:
    sound = itertools.repeat(None)
  if "video" not in files:
    yield from ((None, audio) for audio in sound)
    return
  for unit, audio in zip(MediaReader(folder / files["video"], media), sound):
    yield unit.video, unit.audio if audio is None else audio


def _channel(path: pathlib.Path, channel: int, media: MediaConfig) -> Iterator[np.ndarray]:
  """Whole units of one channel of a two-channel file, float32 [samples]."""
  import av

  from wanstreamer_jax.data.media_probe import decoded, probe

  sound = probe(path).audio
  if sound is None or sound.channels != 2:
    raise DataError(f"{path}: a recording's path must be a file with two audio channels, agent left and user right")
  kept = np.zeros(0, np.float32)
  resampler = av.AudioResampler(format="fltp", layout="stereo", rate=media.sample_rate)
  frames = itertools.chain(decoded(path, sound.index, []), [None])
  for frame in itertools.chain.from_iterable(map(resampler.resample, frames)):
    kept = np.concatenate([kept, frame.to_ndarray()[channel]])
    while len(kept) >= media.samples:
      yield kept[: media.samples]
      kept = kept[media.samples :]


def _session(
  recording: ManifestLine, number: int, piece: list[tuple[Pair, Pair]], world: World, lead: float, media: MediaConfig
) -> Session:
  """Session `number` of a recording: its media, and the words and events that touch it, on its own clock."""
  units, seconds = len(piece), media.unit_ms / 1000
  begin, length = number * units * seconds, units * seconds
  sides = {}
  for index, name in enumerate((USER, AGENT)):
    speech = tuple(
      Word(text, max(0.0, start - begin - lead), max(0.0, start - begin), min(end - begin, length))
      for text, start, end in recording.words[name]
      if end > begin and start < begin + length
    )
    written = tuple(  # within this session, even if it sounds after it; not a word that already sounds at its start
      Word(text, max(0.0, start - begin - lead), start - begin, end - begin)
      for text, start, end in recording.words[name]
      if start >= begin and start - lead < begin + length
    )
    video, audio = (_joined([pair[index][stream] for pair in piece]) for stream in (0, 1))
    sides[name] = Side(video, audio, written if name == AGENT else (), speech)
  events = tuple(
    dataclasses.replace(event, start=max(0.0, event.start - begin), end=min(event.end - begin, length))
    for event in recording.events
    if event.end >= begin and event.start < begin + length
  )
  seed = int(hashlib.sha256(f"{recording.id}/{number}".encode()).hexdigest()[:15], 16)
  return Session(sides[USER], sides[AGENT], world, events, units, seed, f"{recording.id}/{number}")


def _joined(pieces: list[np.ndarray | None]) -> np.ndarray | None:
  found = [piece for piece in pieces if piece is not None]
  return np.concatenate(found) if len(found) == len(pieces) else None
