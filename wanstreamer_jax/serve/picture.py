"""Pictures of a live conversation, encoded one by one."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wanstreamer_jax.errors import DataError

LARGEST_SIDE = 4096  # pixels
QUALITY = 88


def decode_picture(data: bytes, height: int, width: int) -> np.ndarray:
  """uint8 [height, width, 3], cropped at the centre and scaled. Raises DataError."""
  try:
    with Image.open(io.BytesIO(data)) as image:
      if max(image.size) > LARGEST_SIDE:
        raise DataError(f"a picture of {image.width} x {image.height} pixels: at most {LARGEST_SIDE} a side")
      image.draft("RGB", (2 * width, 2 * height))
      return np.asarray(ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BILINEAR))
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise DataError("a picture that cannot be decoded") from error


def encode_picture(picture: np.ndarray) -> bytes:
  """uint8 [height, width, 3] as JPEG."""
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
  return buffer.getvalue()
