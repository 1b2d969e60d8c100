"""Encodes and decodes live video: JPEG frame by frame, or VP8 where supported."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wanstreamer_jax.errors import DataError

MAX_SIDE = 640  # pixels, or what the model sees where that is more
JPEG_QUALITY = 88
VP8_BITS = 4.0  # per pixel and second
VP8_OPTIONS = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "error-resilient": "1"}


def decode_jpeg(data: bytes, height: int, width: int) -> np.ndarray:
  """A JPEG as uint8 [height, width, 3], cropped at the centre and scaled. Raises DataError."""
  try:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
      check_size(image.size, height, width)
      image.draft("RGB", (2 * width, 2 * height))
      return fit(image.convert("RGB"), height, width)
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise DataError("the frame cannot be decoded as JPEG") from error


def check_size(size: Sequence[int], height: int, width: int) -> None:
  """Raises DataError for a frame of `size` (width, height) that is much larger than what the model sees."""
  limit = max(MAX_SIDE, height, width)
  if max(size) > limit:
    raise DataError(f"a frame of {size[0]} x {size[1]} pixels: at most {limit} a side")


def fit(image: Image.Image, height: int, width: int) -> np.ndarray:
  """uint8 [height, width, 3], cropped at the centre and scaled."""
  return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))


def encode_jpeg(frame: np.ndarray) -> bytes:
  """uint8 [height, width, 3] as JPEG."""
  buffer = io.BytesIO()
  Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
  return buffer.getvalue()


class FrameEncoder(Protocol):
  """Encodes a stream of frames, in order."""

  def __call__(self, frame: np.ndarray) -> tuple[bytes, bool]:
    """uint8 [height, width, 3] -> (bytes, whether this is a key frame: it can be decoded without those before)."""
    ...


class JPEGEncoder:
  """Every frame is a key frame."""

  def __call__(self, frame: np.ndarray) -> tuple[bytes, bool]:
    return encode_jpeg(frame), True


class VP8Encoder:
  """VP8 without delay. An odd side loses a row or a column, since VP8 stores colours at half the resolution."""

  def __init__(self, height: int, width: int, fps: int):
    context = av.CodecContext.create("libvpx", "w")
    context.height, context.width, context.pix_fmt = height // 2 * 2, width // 2 * 2, "yuv420p"
    context.framerate, context.gop_size = Fraction(fps), 10 * fps
    context.bit_rate = int(VP8_BITS * height * width) + 32_000
    context.options = dict(VP8_OPTIONS)
    self._context, self._count = context, 0

  def __call__(self, frame: np.ndarray) -> tuple[bytes, bool]:
    context = self._context
    cropped = np.ascontiguousarray(frame[: context.height, : context.width])
    picture = av.VideoFrame.from_ndarray(cropped, format="rgb24").reformat(format="yuv420p")
    picture.pts, self._count = self._count, self._count + 1
    (packet,) = context.encode(picture)  # lag-in-frames 0: one packet per frame
    return bytes(packet), packet.is_keyframe


class VP8Decoder:
  """A client's VP8 stream, which can be decoded from its first key frame on."""

  def __init__(self, height: int, width: int):
    self.height, self.width = height, width
    self._context = av.CodecContext.create("vp8", "r")
    self._begun = False

  def __call__(self, data: bytes) -> np.ndarray | None:
    """uint8 [height, width, 3], cropped and scaled; None before the first key frame. Raises DataError."""
    key_frame = data[0] & 1 == 0  # RFC 6386, section 9.1
    self._begun = self._begun or key_frame
    if not self._begun:
      return None
    if key_frame and len(data) >= 10:  # the frame header holds the size: refuse it before decoding
      check_size([int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (6, 8)], self.height, self.width)
    try:
      frames = self._context.decode(av.Packet(data))
    except av.error.FFmpegError as error:
      raise DataError("the frame cannot be decoded as VP8") from error
    return fit(frames[-1].to_image(), self.height, self.width) if frames else None
