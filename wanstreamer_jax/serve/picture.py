"""Pictures of a live conversation on the wire: each by itself as JPEG, or VP8 where the other side knows it."""

import io
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wanstreamer_jax.errors import DataError

LARGEST_SIDE = 1280  # pixels
QUALITY = 88  # of JPEG
BITS = 4.0  # of VP8, per pixel and second
SWIFT = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "error-resilient": "1"}


def decode_picture(data: bytes, height: int, width: int) -> np.ndarray:
  """A JPEG as uint8 [height, width, 3], cropped at the centre and scaled. Raises DataError."""
  try:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
      if max(image.size) > LARGEST_SIDE:
        raise DataError(f"a picture of {image.width} x {image.height} pixels: at most {LARGEST_SIDE} a side")
      image.draft("RGB", (2 * width, 2 * height))
      return fit(image.convert("RGB"), height, width)
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise DataError("a picture that cannot be decoded") from error


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

  def restart(self) -> None:
    """Pictures were left out: the next one must not need them."""
    ...


class JPEGEncoder:
  def __call__(self, picture: np.ndarray) -> tuple[bytes, bool]:
    return encode_picture(picture), True

  def restart(self) -> None:
    pass


class VP8Encoder:
  """VP8 without delay. Odd sides lose a row or a column, since VP8 stores colours at half the resolution."""

  def __init__(self, height: int, width: int, fps: int):
    context = av.CodecContext.create("libvpx", "w")
    context.height, context.width, context.pix_fmt = height // 2 * 2, width // 2 * 2, "yuv420p"
    context.framerate, context.bit_rate, context.gop_size = Fraction(fps), int(BITS * height * width) + 32_000, 10 * fps
    context.options = dict(SWIFT)
    self._context, self._count, self._fresh = context, 0, True

  def __call__(self, picture: np.ndarray) -> tuple[bytes, bool]:
    context = self._context
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[: context.height, : context.width]), format="rgb24")
    frame = frame.reformat(format="yuv420p")
    frame.pts, self._count = self._count, self._count + 1
    frame.pict_type = av.video.frame.PictureType.I if self._fresh else av.video.frame.PictureType.NONE
    self._fresh = False
    (packet,) = context.encode(frame)
    return bytes(packet), packet.is_keyframe

  def restart(self) -> None:
    self._fresh = True


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
      sides = [int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (6, 8)]
      if max(sides) > LARGEST_SIDE:
        raise DataError(f"a picture of {sides[0]} x {sides[1]} pixels: at most {LARGEST_SIDE} a side")
    try:
      frames = self._context.decode(av.Packet(data))
    except av.error.FFmpegError as error:
      raise DataError("a VP8 picture that cannot be decoded") from error
    return fit(frames[-1].to_image(), self.height, self.width) if frames else None
