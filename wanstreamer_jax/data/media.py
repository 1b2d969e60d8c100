"""Reads any media file that PyAV can read, as user units on the system's clock.

The clock. Time 0 is the first audio or video of the file, whichever comes first. Tick j of the output is the
interval [j, j + 1) / fps and shows the last frame whose presentation time is at or before the tick's centre; a gap
holds the last frame, and ticks before the first frame show the first. Audio is placed by its timestamps: an offset
or a gap is silence. Both streams are filled up to ceil(duration / unit) whole units.

The frames are rotated as the file says, cropped at the centre to the aspect that the model sees (a letterbox would
waste tokens on bars, and faces are central), corrected for pixels that are not square, then scaled.

Frames and audio are decoded on demand, so that memory does not grow with the length of the file.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.media_probe import AudioInfo, MediaInfo, VideoInfo, decoded, placed, probe
from wanstreamer_jax.data.media_writer import MediaWriter
from wanstreamer_jax.data.session import MediaUnit
from wanstreamer_jax.errors import MediaError

__all__ = ["AudioInfo", "MediaInfo", "MediaReader", "MediaUnit", "MediaWriter", "VideoInfo", "probe", "read_audio"]

SLACK = 0.001  # seconds beyond a whole unit that do not open another one (containers round times to 1 ms)


class MediaReader:
  """A media file as an iterable of `units` user units; every iteration starts at the beginning.

  The constructor raises MediaError as `probe` does; iterating a file that passed raises nothing.
  """

  def __init__(self, path: str | Path, media: MediaConfig):
    self.media = media
    self.info = probe(path)
    self.units = max(1, math.ceil((self.info.duration - SLACK) * 1000 / media.unit_ms))

  def __len__(self) -> int:
    return self.units

  def __iter__(self) -> Iterator[MediaUnit]:
    info, media = self.info, self.media
    pictures = None if info.video is None else ticks(info.path, info.video, info.origin, media)
    sound = None if info.audio is None else blocks(info.path, info.audio, info.origin, media)
    for _ in range(self.units):
      frames = None if pictures is None else np.stack([next(pictures) for _ in range(media.frames)])
      yield MediaUnit(frames, None if sound is None else next(sound))


def read_audio(path: str | Path, media: MediaConfig, max_seconds: float) -> np.ndarray:
  """The sound of a file, float32 [samples] at `media.sample_rate`. Raises MediaError if it has none or is too long."""
  info = probe(path)
  if info.audio is None:
    raise MediaError(f"{path} has no audio; give an audio file")
  if info.audio.end - info.audio.start > max_seconds:
    raise MediaError(f"{path} lasts {info.audio.end - info.audio.start:.1f} s: at most {max_seconds:g} s; cut it")
  pieces = list(resampled(info.path, info.audio, info.audio.start, media.sample_rate))
  return np.clip(np.concatenate(pieces), -1, 1)


def blocks(path: Path, info: AudioInfo, origin: float, media: MediaConfig) -> Iterator[np.ndarray]:
  """Endless units of sound, float32 [samples] in [-1, 1]; silence after the end of the file."""
  buffer, pieces = np.zeros(0, np.float32), resampled(path, info, origin, media.sample_rate)
  while True:
    parts = [buffer]
    missing = media.samples - len(buffer)
    while missing > 0:
      piece = next(pieces, None)
      parts.append(np.zeros(missing, np.float32) if piece is None else piece)
      missing -= len(parts[-1])
    buffer = np.concatenate(parts)
    yield np.clip(buffer[: media.samples], -1, 1)
    buffer = buffer[media.samples :]


def resampled(path: Path, info: AudioInfo, origin: float, rate: int) -> Iterator[np.ndarray]:
  """Sound from `origin` on at `rate`, float32 pieces; onsets keep their time (the filter's delay is removed)."""
  pieces = placed(path, info, origin, [])
  if info.sample_rate == rate:
    yield from pieces
    return
  resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
  for piece in pieces:
    if len(piece):
      frame = av.AudioFrame.from_ndarray(piece[None], format="flt", layout="mono")
      frame.sample_rate = info.sample_rate
      yield from (out.to_ndarray()[0] for out in resampler.resample(frame))
  yield from (out.to_ndarray()[0] for out in resampler.resample(None))


Region = tuple[float, float, float, float]  # left, top, width, height, in shares of the picture as it is displayed
WHOLE_PICTURE: Region = (0.0, 0.0, 1.0, 1.0)


def ticks(
  path: Path, info: VideoInfo, origin: float, media: MediaConfig, regions: Sequence[tuple[float, Region]] = ()
) -> Iterator[np.ndarray]:
  """Endless pictures, uint8 [height, width, 3], one for each tick; the last is held after the end of the file.

  regions: (seconds, region), by time: the part of the picture that is shown from then on; the first also before.
  """
  shape = Shaper(info, media.height, media.width)
  frames, regions = timed(path, info, origin), list(regions) or [(0.0, WHOLE_PICTURE)]
  current, upcoming = next(frames), next(frames, None)
  picture, tick, part = shape(current[1], regions[0][1]), 0, 0
  while True:
    centre, changed = (tick + 0.5) / media.fps + 1e-6, False
    while upcoming is not None and upcoming[0] <= centre:
      current, upcoming, changed = upcoming, next(frames, None), True
    while part + 1 < len(regions) and regions[part + 1][0] <= centre:
      part, changed = part + 1, True
    picture = shape(current[1], regions[part][1]) if changed else picture
    yield picture
    tick += 1


def timed(path: Path, info: VideoInfo, origin: float) -> Iterator[tuple[float, "av.VideoFrame"]]:
  """(seconds from the origin, frame); a frame without a timestamp follows the one before by 1 / fps."""
  time = info.start - origin - 1 / info.fps
  for frame in decoded(path, info.index, []):
    time = time + 1 / info.fps if frame.time is None else frame.time - origin
    yield time, frame


class Shaper:
  """Turns decoded frames into uint8 [height, width, 3]: rotation, centre crop to the aspect, scaling.

  FFmpeg's filters do this, so that a large picture is cropped and scaled before it becomes an array.
  """

  def __init__(self, info: VideoInfo, height: int, width: int):
    self.info, self.height, self.width = info, height, width
    self.key: tuple | None = None
    self.graph: av.filter.Graph

  def __call__(self, frame: "av.VideoFrame", region: Region = WHOLE_PICTURE) -> np.ndarray:
    key = (frame.width, frame.height, frame.format.name, region)
    if key != self.key:  # the size may change within a stream
      self.key, self.graph = key, self.build(frame, region)
    frame.pts, frame.time_base = None, Fraction(1, 1000)
    self.graph.vpush(frame)
    picture = self.graph.vpull().to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, self.turns))

  @property
  def turns(self) -> int:
    """Quarter turns, counter-clockwise."""
    return round(self.info.rotation / 90) % 4

  def build(self, frame: "av.VideoFrame", region: Region = WHOLE_PICTURE) -> "av.filter.Graph":
    """crop, scale and convert for frames of this size; sizes are before the turn."""
    width, height = (self.height, self.width) if self.turns % 2 else (self.width, self.height)
    x, y, inside, tall = stored_region(region, self.turns, frame.width, frame.height)
    left, top, across, down = centre_crop(inside, tall, self.info.pixel_aspect, width / height)
    left, top = left + x, top + y
    flags = "area" if across > width and down > height else "bicubic"
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    graph.link_nodes(
      source,
      graph.add("crop", f"{across}:{down}:{left}:{top}:exact=1"),
      graph.add("scale", f"{width}:{height}:flags={flags}"),
      graph.add("format", "pix_fmts=rgb24"),
      graph.add("buffersink"),
    ).configure()
    return graph


def stored_region(region: Region, turns: int, width: int, height: int) -> tuple[int, int, int, int]:
  """(left, top, across, down) in the stored picture of width x height of a region of it as displayed, that is, after
  `turns` quarter turns counter-clockwise. At least one pixel, and inside the picture."""
  left, top, across, down = region
  for _ in range(turns % 4):  # one turn back: row r of the displayed picture is the stored column width - 1 - r
    left, top, across, down = 1.0 - top - down, left, down, across
  x, y = min(round(left * width), width - 1), min(round(top * height), height - 1)
  return x, y, max(1, min(round(across * width), width - x)), max(1, min(round(down * height), height - y))


def centre_crop(width: int, height: int, pixel_aspect: float, aspect: float) -> tuple[int, int, int, int]:
  """(left, top, across, down) of the largest centred box whose displayed width / height is `aspect`."""
  stored = aspect / pixel_aspect  # the box's aspect in stored pixels
  across = min(width, max(1, round(height * stored)))
  down = min(height, max(1, round(width / stored)))
  return (width - across) // 2, (height - down) // 2, across, down
