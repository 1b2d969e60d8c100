"""Stores pictures as short pieces of H.264, each of which is decoded by itself.

A piece is a few consecutive units: Annex B bytes that begin with an intra frame, so that a crop is read from the piece
that it starts in. Colours stay at full resolution (4:4:4, BT.709, full range), which costs no bytes at these sizes and
less time than to enlarge them again. The same pictures give the same bytes, and the same bytes the same pictures: one
thread, no macroblock tree (with B-frames, x264's reads memory that nobody wrote, and one piece in ten came out
different), and a conversion of colours that does not depend on the processor.
"""

import re
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import DataError, one_line

LAYOUT = "yuv444p"
ENCODER = "keyint=infinite:scenecut=0:mbtree=0:threads=1"
START_CODE = re.compile(rb"\x00\x00\x01")
LEFT_OUT = (6, 9)  # kinds of NAL units: notes of the encoder, 0.7 kB in every piece, and delimiters


class Pieces(NamedTuple):
  """How a folder of records stores its pictures: which unit fields are pieces, and of how many units."""

  units: int  # in a piece; a session's last one may have fewer
  quality: dict[str, int]  # {"user_video": x264's crf}

  @classmethod
  def of(cls, config: Config, *fields: str) -> "Pieces | None":
    """What the config asks for, of the given fields; None where all of them are raw."""
    data = config.data
    forms = {"user_video": data.user_video, "agent_video": data.agent_video}
    crf = {"user_video": data.user_video_crf, "agent_video": data.agent_video_crf}
    quality = {name: crf[name] for name in fields if forms[name] == "h264"}
    return cls(data.video_piece, quality) if quality else None

  def count(self, units: int) -> int:
    """Pieces in a session of `units` units."""
    return -(-units // self.units)

  def cut(self, units: np.ndarray, field: str, fps: int) -> list[bytes]:
    """One field of a session's unit records as pieces. A piece without a single valid unit has no bytes."""
    valid, pictures, pieces = units[f"{field}_valid"], units[field], []
    for start in range(0, len(units), self.units):
      part = slice(start, start + self.units)
      frames = pictures[part].reshape(-1, *pictures.shape[2:])
      pieces.append(encode_piece(frames, self.quality[field], fps) if valid[part].any() else b"")
    return pieces

  def join(self, pieces: list[bytes], units: int, shape: tuple[int, ...]) -> np.ndarray:
    """The pictures of consecutive pieces that hold `units` units: uint8 [units, *shape], shape [F, H, W, 3]. Where
    there are no bytes they are zeros. Raises DataError."""
    out = np.zeros((units, *shape), np.uint8)
    for start, piece in zip(range(0, units, self.units), pieces):
      if piece:
        part = out[start : start + self.units]
        part[:] = decode_piece(piece, (len(part) * shape[0], *shape[1:])).reshape(part.shape)
    return out


def encode_piece(frames: np.ndarray, crf: int, fps: int) -> bytes:
  """Pictures uint8 [T, H, W, 3] as one piece. crf: x264's constant quality, 0 (nothing lost but rounding) to 51."""
  import av  # here, since readers of raw records need no media library
  from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

  context = av.CodecContext.create("libx264", "w")
  context.height, context.width = frames.shape[1:3]
  context.pix_fmt, context.time_base, context.framerate = LAYOUT, Fraction(1, fps), Fraction(fps)
  context.thread_count, context.color_range = 1, ColorRange.JPEG
  context.options = {"crf": str(crf), "preset": "medium", "x264-params": ENCODER}
  convert, exact, packets = VideoReformatter(), _exact(), []
  for index, frame in enumerate(frames):
    picture = convert.reformat(
      av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24"), format=LAYOUT, interpolation=exact, threads=1,
      dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.JPEG,
    )  # fmt: skip
    picture.pts = index
    packets += context.encode(picture)
  return _without_notes(b"".join(map(bytes, [*packets, *context.encode(None)])))


def _exact() -> Any:
  """The interpolation that does not depend on the processor."""
  from av.video.reformatter import Interpolation

  return Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def _without_notes(stream: bytes) -> bytes:
  """Annex B bytes without the NAL units of kinds LEFT_OUT."""
  units = (unit.rstrip(b"\x00") for unit in START_CODE.split(stream)[1:])  # a NAL unit never ends with zeros
  return b"".join(b"\x00\x00\x01" + unit for unit in units if unit and unit[0] & 31 not in LEFT_OUT)


def decode_piece(piece: bytes, shape: tuple[int, ...]) -> np.ndarray:
  """The pictures of a piece, uint8 of `shape` [T, H, W, 3]. Raises DataError for a damaged one."""
  import av
  from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

  context = av.CodecContext.create("h264", "r")
  context.thread_count = 1
  try:
    packets = [*context.parse(piece), *context.parse(None)]
    frames = [frame for packet in packets for frame in context.decode(packet)] + context.decode(None)
  except (av.FFmpegError, ValueError) as error:
    raise DataError(f"a piece of video of {len(piece)} bytes is damaged ({one_line(error)})") from error
  if len(frames) != shape[0] or any((frame.height, frame.width) != shape[1:3] for frame in frames):
    found = f"{len(frames)} pictures" + (f" of {frames[0].height} x {frames[0].width}" if frames else "")
    raise DataError(f"a piece of video holds {found}: expected {shape[0]} of {shape[1]} x {shape[2]}")
  convert, exact, out = VideoReformatter(), _exact(), np.empty(shape, np.uint8)
  for index, frame in enumerate(frames):
    out[index] = convert.reformat(
      frame, format="rgb24", interpolation=exact, threads=1, src_colorspace=Colorspace.ITU709,
      src_color_range=ColorRange.JPEG,
    ).to_ndarray()  # fmt: skip
  return out
