"""Reads manifests of recordings: JSON lines, one recording of two people each.

Paths are relative to the manifest (or absolute), times are seconds of the recording's clock:

    {"id": "monday-3",
     "user":  {"video": "a.mp4", "audio": "a.wav", "words": [{"text": "hello", "start": 0.4, "end": 0.7}]},
     "agent": {"video": "b.mp4", "words": "b.json", "speaker": "ada"},
     "world": {"fields": {"name": "Ada"}, "portrait": "ada.png"},
     "events": [{"start": 1.0, "end": 2.0, "actor": "agent", "kind": "nod"}]}

Keys of a side; all are optional, but it needs a video or an audio:

    video, audio     its files; without "audio" the sound of the video. Both sides may name the same file
    video_track, audio_track    which of the file's tracks of that kind, from 0; else the first that can be decoded
    audio_channel    a channel of the track: a number from 0, "left" or "right"; else the mean of all
    crop             [left, top, width, height] in pixels, or in shares of the picture if no number is above 1; or
                     [{"time": 0, "box": [...]}, {"time": 12.5, "box": [...]}], each from its time on
    video_start, audio_start    when the file begins, in place of what its timestamps say
    words            a list, the name of a transcript (`transcripts.py`), or {"file": NAME, "speaker": NAME}. Without
                     it nobody knows what was said, and no text is learned; [] means that nothing was said
    speaker          who it is, the same name in all recordings (`data.by_speaker`)
    world            of this person as the agent: the line's "world" is short for that of "agent"

Keys of a line: `"roles": "both"` gives every session twice, the second with user and agent exchanged. `duration` is how
long the recording lasts; a stream that ends earlier is absent from then on. Without it the recording ends with its
first stream that ends. A stream that begins later is absent until then. `{"path": "talk.wav"}` names one two-channel
file, agent left and user right (the moshi-finetune form); its words are read from talk.json if that is a transcript
(those of SPEAKER_MAIN or of nobody are the agent's). The other keys may be added to it.
"""

import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from wanstreamer_jax.config import unknown_name
from wanstreamer_jax.data.session import AGENT, USER, Event
from wanstreamer_jax.data.transcripts import (
  MAX_TIME,
  TimedWord,
  Words,
  read_text_lines,
  read_transcript,
  words_of_speaker,
)
from wanstreamer_jax.data.world_file import check_world
from wanstreamer_jax.errors import DataError, one_line

LINE_KEYS = ("id", "path", "duration", "roles", "user", "agent", "world", "events")
SIDE_KEYS = (
  "video", "video_track", "video_start", "crop", "audio", "audio_track", "audio_channel", "audio_start", "words",
  "speaker", "world",
)  # fmt: skip
ROLES = ("agent", "both")  # "agent": as written
SWAPPED = "/swapped"  # ends the id of a recording whose user and agent are exchanged
CHANNELS = {"left": 0, "right": 1}
MOSHI_AGENT = "SPEAKER_MAIN"  # the left channel's speaker in moshi-finetune's transcripts


class Box(NamedTuple):
  """A part of the picture as it is displayed, from `time` on. Shares of the picture if no number is above 1."""

  time: float
  left: float
  top: float
  width: float
  height: float


@dataclasses.dataclass(frozen=True)
class Stream:
  """One video or audio stream of a side."""

  file: str
  track: int | None = None
  channel: int | None = None
  boxes: tuple[Box, ...] = ()
  start: float | None = None  # None: as the timestamps say
  optional: bool = False  # the sound of a video, which may have none
  two_channels: bool = False  # the file must have exactly two


@dataclasses.dataclass(frozen=True)
class SideLine:
  """One side of a recording, as the manifest says."""

  video: Stream | None
  audio: Stream | None
  words: Words | None  # None: unknown
  speaker: str
  world: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ManifestLine:
  """One checked line of a manifest."""

  id: str
  where: str  # "manifest.jsonl:3", for messages
  sides: dict[str, SideLine]
  events: tuple[Event, ...]
  roles: str
  duration: float | None

  def swapped(self) -> "ManifestLine":
    """The same recording with user and agent exchanged."""
    other = {USER: AGENT, AGENT: USER}
    events = tuple(dataclasses.replace(event, actor=other[event.actor]) for event in self.events)
    sides = {USER: self.sides[AGENT], AGENT: self.sides[USER]}
    return dataclasses.replace(self, id=self.id + SWAPPED, sides=sides, events=events)


@dataclasses.dataclass(frozen=True)
class BadLine:
  """A line of a manifest that cannot be used, and why."""

  where: str
  reason: str


def read_manifest(path: str | pathlib.Path, skip_bad: bool = False, roles: str = "") -> list[ManifestLine | BadLine]:
  """All lines of a manifest, checked. roles: for lines that do not say.

  Raises DataError with the file's name and line number for the first bad one; with `skip_bad` such lines become
  BadLine.
  """
  path = pathlib.Path(path)
  found: list[ManifestLine | BadLine] = []
  used: dict[str, str] = {}  # id -> where
  for number, line in enumerate(read_text_lines(path, "recordings manifest"), 1):
    where = f"{path}:{number}"
    try:
      if line.strip():
        found.append(_checked_line(line, path.parent, where, used, roles))
    except DataError as error:
      if not skip_bad:
        raise
      found.append(BadLine(where, str(error).removeprefix(f"{where}: ")))
  if not found:
    raise DataError(f"recordings manifest {path} has no line; write one JSON object per recording")
  return found


def _checked_line(
  line: str, folder: pathlib.Path, where: str, used: dict[str, str], roles: str
) -> ManifestLine:  # fmt: skip
  """One line of a manifest, checked; its id is added to `used`. Raises DataError."""
  try:
    value = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise DataError(f"{where}: not JSON ({one_line(error)})") from error
  _keys(value, LINE_KEYS, where)
  path = value.get("path")
  if path is not None:
    _file(path, folder, f"{where}: path")
  duration = _number(value["duration"], f"{where}: duration", above=0.0) if "duration" in value else None
  roles = value.get("roles", roles or ROLES[0])
  if roles not in ROLES:
    raise DataError(f"{where}: roles {roles!r}: expected {' or '.join(map(repr, ROLES))}")
  sides = {name: _side(name, value, folder, where) for name in (USER, AGENT)}
  files = [stream.file for side in (sides[AGENT],) for stream in (side.video, side.audio) if stream is not None]
  identity = value.get("id", path or next(iter(files), None))
  if not isinstance(identity, str) or not identity:
    raise DataError(f"{where}: id {identity!r} is not text")
  events = tuple(_events(value.get("events", []), f"{where}: events"))
  if used.setdefault(identity, where) != where:
    raise DataError(f"{where}: id {identity!r} was used at {used[identity]}; ids must be unique")
  return ManifestLine(identity, where, sides, events, roles, duration)


def _side(name: str, line: dict[str, Any], folder: pathlib.Path, where: str) -> SideLine:
  """One side of a line, checked. Raises DataError."""
  side, path, at = line.get(name, {}), line.get("path"), f"{where}: {name}"
  _keys(side, SIDE_KEYS, at)
  for key in ("video", "audio"):
    if side.get(key) is not None:
      _file(side[key], folder, f"{at}.{key}")
  video = audio = None
  if side.get("video") is not None:
    boxes = _boxes(side.get("crop"), f"{at}.crop")
    video = Stream(side["video"], _track(side, "video", at), None, boxes, _start(side, "video", at))
  for key in ("crop", "video_track", "video_start"):
    if video is None and side.get(key) is not None:
      raise DataError(f'{at}.{key} belongs to a picture, and there is none: name its file as "video"')
  track, channel, start = _track(side, "audio", at), _channel(side, at), _start(side, "audio", at)
  if side.get("audio") is not None:
    audio = Stream(side["audio"], track, channel, (), start)
  elif path is not None:
    side_of = (AGENT, USER).index(name) if channel is None else channel
    audio = Stream(path, track, side_of, (), start, two_channels=channel is None)
  elif video is not None:
    start, optional = video.start if start is None else start, track is None and channel is None
    audio = Stream(video.file, track, channel, (), start, optional)
  if video is None and audio is None:
    raise DataError(f"{at} has neither video nor audio; name a file, or give a two-channel path")
  speaker = side.get("speaker", "")
  if not isinstance(speaker, str):
    raise DataError(f"{at}.speaker {speaker!r:.60} is not text; give the same name in all recordings of a person")
  return SideLine(video, audio, _side_words(name, side, path, folder, at), speaker, _world(name, side, line, where))


def _world(name: str, side: dict[str, Any], line: dict[str, Any], where: str) -> dict[str, Any]:
  """The world of a side as the agent, checked with its files."""
  if name == AGENT and "world" in line and "world" in side:
    raise DataError(f"{where}: world is given for the line and for its agent; keep one")
  world = side.get("world", line.get("world", {}) if name == AGENT else {})
  for key, file in zip(("portrait", "voice"), check_world(world_path(where), world)[1:]):
    if file is not None and not os.path.isfile(file):
      raise DataError(f"{where}: world: {world[key]!r} is not a file in {world_path(where).parent}")
  return world


def world_path(where: str) -> pathlib.Path:
  """A path for the messages of `world_file` that names the line of a manifest which holds the world."""
  path, _, number = where.rpartition(":")
  return pathlib.Path(path).parent / f"{pathlib.Path(path).name}:{number}: world"


def _side_words(name: str, side: dict[str, Any], path: Any, folder: pathlib.Path, where: str) -> Words | None:
  """The words of a side: given, in a transcript, beside a moshi-finetune path, or unknown."""
  value = side.get("words")
  if isinstance(value, str) or (isinstance(value, dict) and "file" in value):
    if isinstance(value, dict):
      _keys(value, ("file", "speaker"), f"{where}.words")
    file, speaker = (value, None) if isinstance(value, str) else (value.get("file"), value.get("speaker"))
    _file(file, folder, f"{where}.words")
    if speaker is not None and not isinstance(speaker, str):
      raise DataError(f"{where}.words.speaker {speaker!r:.60} is not text; give the name that the transcript has")
    try:
      return words_of_speaker(folder / str(file), speaker)
    except DataError as error:
      raise DataError(f"{where}.words: {error}") from error
  if value is not None:
    return _words(value, f"{where}.words")
  beside = folder / pathlib.Path(path).with_suffix(".json") if path is not None else None
  if beside is None or not beside.is_file():
    return None
  try:
    spoken = read_transcript(beside, required=False)
  except DataError as error:
    raise DataError(f'{where}.words: {error}; or give "words" in the manifest') from error
  if spoken is None:
    return None
  if spoken and not spoken.keys() & {MOSHI_AGENT, ""}:
    raise DataError(
      f"{where}.words: {beside.name} has words of {', '.join(map(repr, sorted(spoken)))}, but none of {MOSHI_AGENT!r}, "
      f'the left channel of moshi-finetune: say whose they are, as in "words": {{"file": {beside.name!r}, '
      f'"speaker": {sorted(spoken)[0]!r}}}'
    )
  if name == AGENT:
    return spoken.get(MOSHI_AGENT, spoken.get("", ()))
  others = [words for speaker, words in spoken.items() if speaker not in (MOSHI_AGENT, "")]
  return tuple(sorted((word for words in others for word in words), key=lambda word: word.start)) if others else None


def _track(side: dict[str, Any], kind: str, where: str) -> int | None:
  value = side.get(f"{kind}_track")
  if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
    raise DataError(f"{where}.{kind}_track {value!r:.40}: expected a number from 0, among the file's {kind} tracks")
  return value


def _channel(side: dict[str, Any], where: str) -> int | None:
  value = side.get("audio_channel")
  value = CHANNELS.get(value, value) if isinstance(value, str) else value
  if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
    raise DataError(f'{where}.audio_channel {value!r:.40}: expected a number from 0, "left" or "right"')
  return value


def _start(side: dict[str, Any], kind: str, where: str) -> float | None:
  value = side.get(f"{kind}_start")
  return None if value is None else _number(value, f"{where}.{kind}_start")


def _boxes(value: Any, where: str) -> tuple[Box, ...]:
  """The boxes of a crop, by time. Raises DataError; whether they lie in the picture is known when it is opened."""
  if value is None:
    return ()
  if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
    boxes = []
    for index, entry in enumerate(value):
      _keys(entry, ("time", "box"), f"{where}[{index}]")
      boxes.append(
        _box(_number(entry.get("time"), f"{where}[{index}].time"), entry.get("box"), f"{where}[{index}].box")
      )
    if any(a.time >= b.time for a, b in itertools.pairwise(boxes)):
      raise DataError(f"{where}: the times of its boxes do not rise; sort them")
    return tuple(boxes)
  return (_box(0.0, value, where),)


def _box(time: float, value: Any, where: str) -> Box:
  if not isinstance(value, list) or len(value) != 4:
    raise DataError(f"{where} {value!r:.60}: expected [left, top, width, height]")
  left, top, width, height = (_number(number, where) for number in value)
  if left < 0 or top < 0 or width <= 0 or height <= 0:
    raise DataError(f"{where} {value}: expected left and top of at least 0, and a width and height above 0")
  return Box(time, left, top, width, height)


def _keys(value: Any, known: tuple[str, ...], where: str) -> None:
  if not isinstance(value, dict):
    raise DataError(f"{where}: expected an object, found {type(value).__name__}")
  for key in value:
    if key not in known:
      raise DataError(f"{where}: {unknown_name(key, list(known), 'key')}")


def _file(name: Any, folder: pathlib.Path, where: str) -> None:
  if not isinstance(name, str) or not os.path.isfile(folder / name):  # False for names that no file can have, too
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


def _words(values: Any, where: str) -> Words:
  if not isinstance(values, list):
    raise DataError(f"{where}: expected a list, found {type(values).__name__}")
  words = []
  for index, value in enumerate(values):
    _keys(value, ("text", "start", "end"), f"{where}[{index}]")
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
      raise DataError(f"{where}[{index}]: text {text!r} is not a word")
    words.append(TimedWord(text.strip(), *_interval(value, f"{where}[{index}]")))
  return tuple(sorted(words, key=lambda word: word.start))


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
