"""Checks a media file and measures its streams exactly, by reading it through once.

`probe` opens a file, refuses an unusable one with one clear line, and measures both streams on the file's own clock.
`media.py` builds on two iterators: `decoded` gives the frames of one stream, `placed` gives audio at the times of
its timestamps.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from wanstreamer_jax.errors import MediaError

RESYNC = 0.020  # seconds by which timestamps and sample count may disagree before silence is inserted or sound cut
MAX_SECONDS = 24 * 3600.0  # seconds; anything longer is a broken timestamp
PADDING = 4096  # samples by which a codec may overshoot the length that its container states
STATED = ("mov", "matroska", "flac", "avi")  # containers whose header states the length instead of estimating it
EXACT = (*STATED, "wav", "w64", "aiff", "ogg", "nistsphere")  # and those whose length FFmpeg finds without reading all
PLAYLISTS = {"hls", "dash", "concat", "sdp", "rtsp"}
TEXT_ART = {"tty", "bin", "adf", "idf", "xbin"}  # FFmpeg draws such text files as pictures


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """The picture stream that is read. `start` and `end` are seconds on the file's clock."""

  index: int
  codec: str
  width: int  # as stored, before rotation
  height: int
  rotation: int  # degrees counter-clockwise by which the pictures have to be turned
  pixel_aspect: float
  fps: float  # average
  start: float
  end: float
  cover: bool  # one attached picture, without a time of its own


@dataclasses.dataclass(frozen=True)
class AudioInfo:
  """The sound stream that is read. `start` and `end` are seconds on the file's clock."""

  index: int
  codec: str
  sample_rate: int
  channels: int
  start: float
  end: float
  stated_end: float | None  # where codec padding begins, by the container
  channel: int | None = None  # the one that is read; None: the mean of all


@dataclasses.dataclass(frozen=True)
class MediaInfo:
  """What a file holds. `origin` is the file's time that is 0 for a reader; `duration` counts from there, in seconds."""

  path: Path
  container: str
  video: VideoInfo | None
  audio: AudioInfo | None
  origin: float
  duration: float
  damaged: int  # audio packets that could not be decoded; their time is silence


def probe(path: str | Path, video_track: int | None = None, audio_track: int | None = None) -> MediaInfo:
  """Reads a file through once: all packets, and all sound (an hour takes seconds).

  video_track, audio_track: which of the file's tracks of that kind, from 0; by default the first that can be decoded.

  Raises MediaError if the file is missing, empty, truncated, encrypted or not media, if it has neither sound nor
  picture or not the given track, if it lasts 0 s, or if a sample is not finite.
  """
  path = Path(path)
  check_file(path)
  with opened(path) as container:
    if set(container.format.name.split(",")) & (PLAYLISTS | TEXT_ART):
      raise MediaError(f"{path} is not a media file but {container.format.long_name}; give a video or audio file")
    video = track_of(path, container.streams.video, video_track, "video")
    audio = track_of(path, container.streams.audio, audio_track, "audio")
    if video is None and audio is None:
      kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
      raise MediaError(f"{path} has neither a readable audio nor a video stream (it holds: {kinds})")
    picture = None if video is None else scan_video(path, video)
    sound, damaged = (None, 0) if audio is None else scan_audio(path, audio)
    return describe(path, container, picture, sound, damaged)


def read_header(
  path: str | Path, video_track: int | None = None, audio_track: int | None = None, picture: bool = True
) -> MediaInfo:  # fmt: skip
  """What the header of a file says, and its first picture, in milliseconds: `probe` without reading the file through.

  Ends are infinite where the header states none; without `picture` the size is that before rotation. Raises MediaError
  as `probe` does, for what is seen this early.
  """
  path = Path(path)
  check_file(path)
  with opened(path) as container:
    video = track_of(path, container.streams.video, video_track, "video")
    audio = track_of(path, container.streams.audio, audio_track, "audio")
    if video is None and audio is None:
      raise MediaError(f"{path} has neither a readable audio nor a video stream")
    seen = None if video is None else stated_video(path, container, video, picture)
    sound = None if audio is None else stated_audio(container, audio)
    streams: list[VideoInfo | AudioInfo] = [stream for stream in (seen, sound) if stream is not None]
    if not streams:
      raise MediaError(f"{path} has no picture that can be decoded")
    origin = min(stream.start for stream in streams)
    return MediaInfo(path, container.format.name, seen, sound, origin, math.inf, 0)


def stated_end(container: "av.container.InputContainer", stream: Any, start: float) -> float:
  """Where a header says that a stream ends; infinite where it says nothing, or where FFmpeg only estimates it."""
  if container.format.name.split(",")[0] not in EXACT:
    return math.inf
  if stream.duration is not None and stream.time_base is not None:
    return start + float(stream.duration * stream.time_base)
  if container.duration is None:
    return math.inf
  return (container.start_time or 0) / av.time_base + container.duration / av.time_base


def stated_video(
  path: Path, container: "av.container.InputContainer", stream: Any, picture: bool
) -> VideoInfo | None:  # fmt: skip
  """A video stream as its header and, if asked for, its first picture describe it; None if there is no picture."""
  context, rotation = stream.codec_context, 0
  width, height, start = context.width, context.height, stated_start(stream)
  if picture:
    first = next(decoded(path, stream.index, []), None)
    if first is None:
      return None
    width, height, rotation, start = first.width, first.height, round(first.rotation), first.time or 0.0
  return VideoInfo(
    index=stream.index, codec=context.name, width=width, height=height, rotation=rotation, pixel_aspect=1.0,
    fps=float(stream.average_rate or 25), start=start, end=stated_end(container, stream, start), cover=is_cover(stream),
  )  # fmt: skip


def stated_start(stream: Any) -> float:
  """Where a header says that a stream starts, in seconds on the file's clock."""
  return float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0


def stated_audio(container: "av.container.InputContainer", stream: Any) -> AudioInfo:
  """An audio stream as its header describes it."""
  start, context = stated_start(stream), stream.codec_context
  return AudioInfo(
    index=stream.index, codec=context.name, sample_rate=context.sample_rate, channels=len(context.layout.channels),
    start=start, end=stated_end(container, stream, start), stated_end=None,
  )  # fmt: skip


def describe(
  path: Path, container: "av.container.InputContainer", video: VideoInfo | None, audio: AudioInfo | None, damaged: int
) -> MediaInfo:
  """Puts both streams on one clock, and refuses impossible lengths."""
  if video is None and audio is None:
    raise MediaError(f"{path} lasts 0 s: it holds no frame and no sample")
  if video is not None and video.cover and audio is not None:
    video = dataclasses.replace(video, start=audio.start, end=audio.start)
  streams: list[VideoInfo | AudioInfo] = [stream for stream in (video, audio) if stream is not None]
  origin = min(stream.start for stream in streams)
  duration = max(stream.end for stream in streams) - origin
  if not 0 < duration <= MAX_SECONDS:
    raise MediaError(f"{path} lasts {duration:.3f} s by its timestamps: expected more than 0 s and at most 24 h")
  stated = stated_duration(container, [stream.index for stream in streams])
  if stated is not None and duration < 0.98 * stated - 0.5:
    raise MediaError(f"{path} is truncated: it states {stated:.2f} s but ends at {duration:.2f} s; copy it again")
  return MediaInfo(path, container.format.name, video, audio, origin, duration, damaged)


def stated_duration(container: "av.container.InputContainer", indices: list[int]) -> float | None:
  """Seconds that the header states for these streams; None where the container only estimates it."""
  if container.format.name.split(",")[0] not in STATED:
    return None
  streams = [container.streams[index] for index in indices]
  lengths = [(stream.duration, stream.time_base) for stream in streams]
  times = [float(length * base) for length, base in lengths if length is not None and base is not None]
  if len(times) == len(streams):
    return max(times)
  return None if container.duration is None else container.duration / av.time_base


def check_file(path: Path) -> None:
  """Refuses what is not a complete regular file, before FFmpeg guesses what it could be."""
  if not path.exists():
    raise MediaError(f"{path} does not exist; give the path of a media file")
  if not path.is_file():
    raise MediaError(f"{path} is not a file; give the path of a media file")
  size = path.stat().st_size
  if size == 0:
    raise MediaError(f"{path} is empty (0 bytes); give a media file")
  try:
    with path.open("rb") as file:
      head = file.read(12)
  except OSError as error:
    raise MediaError(f"{path} cannot be read: {error.strerror}") from error
  claimed = int.from_bytes(head[4:8], "little") + 8
  if head[:4] == b"RIFF" and size < claimed < 2**31:  # FFmpeg would play the rest without a warning
    raise MediaError(f"{path} is truncated: it states {claimed} bytes but has {size}; copy it again")


def opened(path: Path) -> "av.container.InputContainer":
  """Opens a local file, but none that it may refer to."""
  try:
    return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
  except (av.error.FFmpegError, OSError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise MediaError(f"{path} is not a media file, or is damaged or truncated ({reason})") from error


def track_of(path: Path, streams: tuple, track: int | None, kind: str) -> "av.stream.Stream | None":
  """The track that was asked for, or the first usable one. Raises MediaError for a track that does not exist."""
  if track is None:
    return choose(streams)
  if track >= len(streams):
    raise MediaError(f"{path} has {len(streams)} {kind} tracks, counted from 0: there is no {kind}_track {track}")
  if streams[track].codec_context is None:
    raise MediaError(f"{path}: {kind}_track {track} cannot be decoded; choose another or convert it")
  return streams[track]


def choose(streams: tuple) -> "av.stream.Stream | None":
  """The first decodable stream, a moving one before a cover picture."""
  usable = [stream for stream in streams if stream.codec_context is not None]
  moving = [stream for stream in usable if not is_cover(stream)]
  return (moving or usable or [None])[0]


def is_cover(stream: "av.stream.Stream") -> bool:
  """Whether a stream is a picture attached to a sound file."""
  return bool(stream.disposition & av.stream.Disposition.attached_pic)


def packets(path: Path, index: int) -> Iterator["av.Packet"]:
  """The packets of one stream until the file ends or breaks; the last one is empty and flushes the decoder."""
  with opened(path) as container:
    stream = container.streams[index]
    stream.codec_context.thread_count = 2  # every thread holds frames, which would take memory on many cores
    stream.codec_context.thread_type = "AUTO"
    try:
      yield from container.demux(stream)
    except av.error.FFmpegError:
      return  # truncated: `describe` compares the length with the header's


def decoded(path: Path, index: int, damage: list[int]) -> Iterator[Any]:
  """The frames of one stream. A damaged packet is left out, which leaves a gap, and its number is added to `damage`."""
  any_frame = False
  for number, packet in enumerate(packets(path, index)):
    if packet.has_sidedata("encryption_info"):
      raise MediaError(f"{path} is encrypted (copy protection): give a file that is not")
    try:
      frames = packet.decode()
    except (av.error.FFmpegError, ValueError):
      damage.append(number)
      continue
    any_frame = any_frame or bool(frames)
    yield from frames
  if damage and not any_frame:
    raise MediaError(f"{path}: none of stream {index} could be decoded (damaged, truncated or encrypted)")


def scan_video(path: Path, stream: Any) -> VideoInfo | None:
  """Header, first frame, and the end of the last packet; None if there is no frame."""
  first = next(decoded(path, stream.index, []), None)
  if first is None:
    return None
  fps = float(stream.average_rate or stream.guessed_rate or 25)
  start = end = first.time or 0.0
  for count, packet in enumerate(packets(path, stream.index)):
    if packet.size:
      stamp = packet.dts if packet.pts is None else packet.pts
      begin = start + count / fps if stamp is None else float(stamp * packet.time_base)
      end = max(end, begin + (float((packet.duration or 0) * packet.time_base) or 1 / fps))
  return VideoInfo(
    index=stream.index, codec=stream.codec_context.name, width=first.width, height=first.height,
    rotation=round(first.rotation), pixel_aspect=float(stream.sample_aspect_ratio or 1), fps=fps,
    start=start, end=end, cover=is_cover(stream),
  )  # fmt: skip


def scan_audio(path: Path, stream: "av.stream.Stream") -> tuple[AudioInfo | None, int]:
  """Header and true length, and the number of damaged packets; None if there is no sample."""
  first = next(decoded(path, stream.index, []), None)
  if first is None:
    return None, 0
  start, base = first.time or 0.0, stream.time_base
  stated_end = None
  if stream.duration is not None and stream.start_time is not None and base is not None:
    stated_end = float((stream.start_time + stream.duration) * base)
  info = AudioInfo(
    index=stream.index, codec=stream.codec_context.name, sample_rate=first.sample_rate,
    channels=len(first.layout.channels), start=start, end=start, stated_end=stated_end,
  )  # fmt: skip
  damage: list[int] = []
  samples = sum(len(piece) for piece in placed(path, info, start, damage))
  return (dataclasses.replace(info, end=start + samples / info.sample_rate) if samples else None), len(damage)


def placed(path: Path, info: AudioInfo, origin: float, damage: list[int]) -> Iterator[np.ndarray]:
  """Mono sound, float32 at the file's own rate, in pieces of at most about a second, from `origin` on.

  Gaps between timestamps are silence, overlaps are cut, codec padding past the stated end is dropped.
  """
  rate, clock = info.sample_rate, 0
  limit = None if info.stated_end is None else round((info.stated_end - origin) * rate)
  for frame in decoded(path, info.index, damage):
    if frame.sample_rate != rate:
      raise MediaError(f"{path}: the sample rate changes from {rate} to {frame.sample_rate} Hz; convert it to one rate")
    sound = mono(frame, path, clock / rate, info.channel)
    gap = 0 if frame.time is None else round((frame.time - origin) * rate) - clock
    if gap > MAX_SECONDS * rate:
      raise MediaError(f"{path}: a timestamp jumps to {frame.time:.0f} s; remux the file")
    if clock and abs(gap) <= RESYNC * rate:
      gap = 0  # only the first sound starts exactly at its timestamp
    for begin in range(0, gap, rate):
      yield np.zeros(min(rate, gap - begin), np.float32)
    clock += max(gap, 0)
    sound = sound[max(-gap, 0) :]
    if limit is not None and 0 <= clock + len(sound) - limit <= PADDING:
      sound = sound[: max(limit - clock, 0)]
    clock += len(sound)
    yield sound


def mono(frame: "av.AudioFrame", path: Path, time: float, channel: int | None = None) -> np.ndarray:
  """One channel of a frame, or the mean of all but the low-frequency one: float32 [samples]; finite or MediaError."""
  names = [channel.name for channel in frame.layout.channels]
  values = frame.to_ndarray()
  if not frame.format.is_planar:
    values = values.reshape(-1, len(names)).T
  if values.dtype.kind == "f":
    bad = ~np.isfinite(values).all(axis=0)
    if bad.any():
      at = time + int(bad.argmax()) / frame.sample_rate
      raise MediaError(f"{path}: a sample at {at:.3f} s is not finite (NaN or infinity); repair the recording")
  else:
    scale = float(np.iinfo(str(values.dtype)).max) + 1
    offset = 0.0 if values.dtype.kind == "i" else (scale := scale / 2)
    values = (values.astype(np.float32) - offset) / scale
  if channel is not None:
    if channel >= len(names):
      raise MediaError(f"{path} has {len(names)} channels at {time:.3f} s: channel {channel} does not exist (from 0)")
    return values[channel].astype(np.float32)
  heard = [index for index, name in enumerate(names) if not name.startswith("LFE")] or list(range(len(names)))
  return values[heard].mean(axis=0, dtype=np.float32)
