"""Pictures of a live conversation on the wire: each by itself as JPEG, or VP8 where the other side knows it."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wanstreamer_jax.errors import DataError

LARGEST_SIDE = 640  # pixels, or what the model sees where that is more
QUALITY = 88  # of JPEG
BITS = 4.0  # of VP8, per pixel and second
SWIFT = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "error-resilient": "1"}


def decode_picture(data: bytes, height: int, width: int) -> np.ndarray:
  """A JPEG as uint8 [height, width, 3], cropped at the centre and scaled. Raises DataError."""
  try:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
      check_sides(image.size, height, width)
      image.draft("RGB", (2 * width, 2 * height))
      return fit(image.convert("RGB"), height, width)
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise DataError("a picture that cannot be decoded") from error


def check_sides(sides: Sequence[int], height: int, width: int) -> None:
  """Raises DataError for a picture that is much larger than what the model sees."""
  most = max(LARGEST_SIDE, height, width)
  if max(sides) > most:
    raise DataError(f"a picture of {sides[0]} x {sides[1]} pixels: at most {most} a side")


def fit(image: Image.Image, height: int, width: int) -> np.ndarray:
  return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))


def encode_picture(picture: np.ndarray) -> bytes:
  """uint8 [height, width, 3] as JPEG."""
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
  return buffer.getvalue()


class PictureEncoder(Protocol):
  """Encodes a stream of pictures, in order."""

  def __call__(self, picture: np.ndarray) -> tuple[bytes, bool]:
    """uint8 [height, width, 3] -> (bytes, whether this picture can be decoded without those before)."""
    ...


class JPEGEncoder:
  def __call__(self, picture: np.ndarray) -> tuple[bytes, bool]:
    return encode_picture(picture), True


class VP8Encoder:
  """VP8 without delay. Odd sides lose a row or a column, since VP8 stores colours at half the resolution."""

  def __init__(self, height: int, width: int, fps: int):
    context = av.CodecContext.create("libvpx", "w")
    context.height, context.width, context.pix_fmt = height // 2 * 2, width // 2 * 2, "yuv420p"
    context.framerate, context.bit_rate, context.gop_size = Fraction(fps), int(BITS * height * width) + 32_000, 10 * fps
    context.options = dict(SWIFT)
    self._context, self._count = context, 0

  def __call__(self, picture: np.ndarray) -> tuple[bytes, bool]:
    context = self._context
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[: context.height, : context.width]), format="rgb24")
    frame = frame.reformat(format="yuv420p")
    frame.pts, self._count = self._count, self._count + 1
    (packet,) = context.encode(frame)
    return bytes(packet), packet.is_keyframe


class VP8Decoder:
  """A visitor's VP8 pictures, which may begin with a key frame only."""

  def __init__(self, height: int, width: int):
    self.height, self.width = height, width
    self._context = av.CodecContext.create("vp8", "r")
    self._begun = False

  def __call__(self, data: bytes) -> np.ndarray | None:
    """uint8 [height, width, 3], cropped and scaled; None when nothing can be shown yet. Raises DataError."""
    self._begun = self._begun or data[0] & 1 == 0
    if not self._begun:
      return None
    if data[0] & 1 == 0 and len(data) >= 10:  # a key frame tells its size: refuse it before decoding
      check_sides([int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (6, 8)], self.height, self.width)
    try:
      frames = self._context.decode(av.Packet(data))
    except av.error.FFmpegError as error:
      raise DataError("a VP8 picture that cannot be decoded") from error
    return fit(frames[-1].to_image(), self.height, self.width) if frames else None
