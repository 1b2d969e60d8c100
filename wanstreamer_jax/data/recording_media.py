"""Opens the media of one recording and puts all its streams on one clock.

The clock. A recording may be one file, a file per person, or picture and sound apart. Timestamps of all its files
count from one zero: the earliest stamp of any of them. A picture file that says that it starts at 0.73 s starts 0.73
s after a sound file that starts at 0. Transport streams begin anywhere, and MP3 a little after 0: beside files of
other kinds each counts from its own first stamp. `video_start` and `audio_start` of the manifest replace what a file
says. Gaps and damaged packets keep their time: sound is silent and the picture is held.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.manifest import Box, ManifestLine, Stream
from wanstreamer_jax.data.media import SLACK, Region, blocks, ticks
from wanstreamer_jax.data.media_probe import AudioInfo, MediaInfo, VideoInfo, probe
from wanstreamer_jax.data.session import AGENT, USER
from wanstreamer_jax.errors import DataError

MAX_APART = 60.0  # seconds by which the first stamps of a recording's files may differ
UNEVEN_SECONDS, UNEVEN_SHARE = 2.0, 0.05  # streams may differ in length by either without a stated duration
LATE_WORD = 1.0  # seconds after the end at which a word may still start
OWN_CLOCKS = ("mpegts", "mp3", "aac")  # containers whose timestamps begin anywhere, or after the encoder's delay


class Track(NamedTuple):
  """One stream of one side, opened. `origin` is the file's time that is 0 of the recording; `end` is on its clock."""

  name: str  # "user.video", for messages
  stream: Stream
  file: MediaInfo
  info: VideoInfo | AudioInfo
  origin: float
  end: float

  @property
  def where(self) -> str:
    return f"{self.name} ({self.stream.file})"

  @property
  def begin(self) -> float:
    """When it begins, on the recording's clock; a still picture has no time of its own."""
    still = isinstance(self.info, VideoInfo) and self.info.cover
    return -math.inf if still else self.info.start - self.origin


class SideUnits(NamedTuple):
  """One unit of one side; None and False where a stream does not exist."""

  video: np.ndarray | None  # uint8 [frames, height, width, 3]
  audio: np.ndarray | None  # float32 [samples]
  video_valid: bool
  audio_valid: bool


class RecordingMedia:
  """The streams of a recording. Iterating gives {side: SideUnits} for each of its `units`; `seconds` is its length, and
  `cut` the seconds by which its longest stream is longer.

  Raises DataError and MediaError for files that cannot be read, for tracks, channels and crops that do not exist, and
  for streams whose lengths or clocks do not fit together.
  """

  def __init__(self, line: ManifestLine, folder: pathlib.Path, media: MediaConfig):
    self.media = media
    self.tracks = open_tracks(line, folder, probe)
    self.seconds = recording_length(self.tracks, line)
    self.cut = cut_off(self.tracks, self.seconds)
    self.units = max(1, math.ceil((self.seconds - SLACK) * 1000 / media.unit_ms))

  def __iter__(self) -> Iterator[dict[str, SideUnits]]:
    streams = {name: self._units(track) for name, track in self.tracks.items()}
    nothing = itertools.repeat((None, False))
    for _ in range(self.units):
      unit = {}
      for side in (USER, AGENT):
        (video, seen), (audio, heard) = (next(streams.get(f"{side}.{kind}", nothing)) for kind in ("video", "audio"))
        unit[side] = SideUnits(video, audio, seen, heard)
      yield unit

  def sound(self, side: str) -> Iterator[np.ndarray]:
    """The sound of one side, unit by unit: float32 [samples]. Nothing where it has none."""
    track = self.tracks.get(f"{side}.audio")
    if track is not None:
      yield from (audio for audio, _ in itertools.islice(self._units(track), self.units))

  def _units(self, track: Track) -> Iterator[tuple[np.ndarray, bool]]:
    """Endless (unit, whether the stream exists in the middle of it)."""
    media, seconds = self.media, self.media.unit_ms / 1000
    last = track.end >= self.seconds - SLACK  # it lasts as long as the recording, whose last unit may only have begun
    middles = [(number + 0.5) * seconds for number in range(self.units)]
    exists = [track.begin <= middle and (last or middle < track.end) for middle in middles]
    path, origin = track.file.path, track.origin
    if isinstance(track.info, VideoInfo):
      pictures = ticks(path, track.info, origin, media, regions_of(track))
      units: Iterator[np.ndarray]
      units = (np.stack(list(itertools.islice(pictures, media.frames))) for _ in itertools.count())
    else:
      units = blocks(path, track.info, origin, media)
    return zip(units, itertools.chain(exists, itertools.repeat(False)))


Prober = Callable[[pathlib.Path, int | None, int | None], MediaInfo]  # (file, video track, audio track)


def open_tracks(line: ManifestLine, folder: pathlib.Path, prober: Prober) -> dict[str, Track]:
  """All streams of a recording by name ("user.video"), on one clock. Raises DataError and MediaError.

  prober: `media_probe.probe`, or `read_header` for a quick look.
  """
  opened: dict[str, tuple[Stream, MediaInfo, VideoInfo | AudioInfo]] = {}
  probed: dict[tuple, MediaInfo] = {}
  for side in (USER, AGENT):
    for kind, stream in (("video", line.sides[side].video), ("audio", line.sides[side].audio)):
      if stream is None:
        continue
      key = (stream.file, *((stream.track, None) if kind == "video" else (None, stream.track)))
      if key not in probed:
        probed[key] = prober(folder / stream.file, *key[1:])
      file = probed[key]
      info = _chosen(f"{side}.{kind}", kind, stream, file)
      if info is not None:
        opened[f"{side}.{kind}"] = (stream, file, info)
  if not any(name.startswith(USER) for name in opened) or not any(name.startswith(AGENT) for name in opened):
    raise DataError("a side has neither a picture nor a sound that can be read")
  kinds = {file.container for _, file, _ in opened.values()}
  zero = _zero([(stream, file) for stream, file, _ in opened.values()], mixed=len(kinds) > 1)
  tracks = {}
  for name, (stream, file, info) in opened.items():
    origin = zero
    if stream.start is not None:
      origin = file.origin - stream.start
    elif len(kinds) > 1 and file.container in OWN_CLOCKS:
      origin = file.origin
    end = math.inf if isinstance(info, VideoInfo) and info.cover else info.end - origin
    tracks[name] = Track(name, stream, file, info, origin, end)
  return tracks


def _chosen(name: str, kind: str, stream: Stream, file: MediaInfo) -> VideoInfo | AudioInfo | None:
  """What a stream of the manifest names in an opened file; None for a sound that need not exist. Raises DataError."""
  info: VideoInfo | AudioInfo | None = file.video if kind == "video" else file.audio
  if info is None:
    if stream.optional:
      return None
    raise DataError(f"{name}: {file.path} has no {kind}; name a file that has, or leave {name} out")
  if isinstance(info, AudioInfo):
    if stream.two_channels and info.channels != 2:
      raise DataError(
        f"{file.path} has {info.channels} channels: a recording's path must be a file with two audio channels, agent "
        "left and user right"
      )
    if stream.channel is not None and stream.channel >= info.channels:
      raise DataError(f"{name}_channel {stream.channel}: {file.path} has {info.channels} channels, counted from 0")
    return dataclasses.replace(info, channel=stream.channel)
  for box in stream.boxes:
    check_box(box, *displayed_size(info), name.replace("video", "crop"), file.path)
  return info


def _zero(files: list[tuple[Stream, MediaInfo]], mixed: bool) -> float:
  """The time on the files' clocks that is 0 of the recording."""
  stamped = [file for stream, file in files if stream.start is None and not (mixed and file.container in OWN_CLOCKS)]
  if not stamped:
    return 0.0
  first, last = min(stamped, key=lambda file: file.origin), max(stamped, key=lambda file: file.origin)
  if last.origin - first.origin > MAX_APART:
    raise DataError(
      f"by their timestamps {first.path} starts at {first.origin:.1f} s and {last.path} at {last.origin:.1f} s: more "
      f'than {MAX_APART:g} s apart; say when each starts, as in "video_start": 0'
    )
  return first.origin


def recording_length(tracks: dict[str, Track], line: ManifestLine) -> float:
  """The length of a recording in seconds, infinite if its headers state none.

  Raises DataError for streams that differ too much, and for words after their end.
  """
  if all(isinstance(track.info, VideoInfo) and track.info.cover for track in tracks.values()):
    raise DataError("a recording of still pictures has no length; name its sound, or a video")
  ends = {track.where: track.end for track in tracks.values() if track.end < math.inf}
  if not ends:
    return math.inf
  for name, side in line.sides.items():
    late = [word for word in side.words or () if word.start > max(ends.values()) + LATE_WORD]
    if late:
      raise DataError(
        f"{name}.words: {len(late)} of {len(side.words or ())} start after the recording's end at "
        f"{max(ends.values()):.2f} s, the first, {late[0].text!r}, at {late[0].start:.2f} s; give times in seconds, of "
        "this recording"
      )
  return checked_length(ends, line.duration)


def cut_off(tracks: dict[str, Track], seconds: float) -> float:
  """Seconds of the longest stream past the end of a recording of this length."""
  return max(0.0, max((track.end for track in tracks.values() if track.end < math.inf), default=0.0) - seconds)


def checked_length(ends: dict[str, float], duration: float | None) -> float:
  """The length of a recording whose streams (by their names in messages) end at `ends` seconds. Raises DataError."""
  first, last = min(ends, key=ends.__getitem__), max(ends, key=ends.__getitem__)
  shortest, longest = ends[first], ends[last]
  if duration is not None:
    if duration > longest + max(1.0, UNEVEN_SHARE * longest):
      raise DataError(
        f"duration {duration:g} s: the last stream, {last}, ends at {longest:.2f} s; correct the duration"
      )
    return min(duration, longest)
  if longest - shortest > max(UNEVEN_SECONDS, UNEVEN_SHARE * longest):
    raise DataError(
      f"{first} ends at {shortest:.2f} s, {last} at {longest:.2f} s: give the recording a "
      f'"duration", {shortest:.2f} to cut at the shorter, {longest:.2f} to keep all'
    )
  if shortest <= 0:
    raise DataError(f"{first} ends before the other streams begin; say when each starts")
  return shortest


def displayed_size(info: VideoInfo) -> tuple[int, int]:
  """Width and height in pixels after rotation."""
  return (info.height, info.width) if round(info.rotation / 90) % 2 else (info.width, info.height)


def check_box(box: Box, width: int, height: int, name: str, path: pathlib.Path) -> None:
  """Raises DataError for a box that lies outside a picture of width x height."""
  left, top, across, down = region_of(box, width, height)
  if left + across > 1 + 1e-6 or top + down > 1 + 1e-6:
    shown = ", ".join(f"{number:g}" for number in box[1:])
    raise DataError(
      f"{name} [{shown}] at {box.time:g} s lies outside the picture of {width} x {height} of {path}: expected left + "
      "width and top + height within it"
    )


def region_of(box: Box, width: int, height: int) -> Region:
  """A box as shares of a picture of width x height."""
  if max(box[1:]) <= 1:
    return box[1:]
  return box.left / width, box.top / height, box.width / width, box.height / height


def regions_of(track: Track) -> list[tuple[float, Region]]:
  """The boxes of a video track for `media.ticks`."""
  assert isinstance(track.info, VideoInfo)
  width, height = displayed_size(track.info)
  return [(box.time, region_of(box, width, height)) for box in track.stream.boxes]
