"""Pictures as 64-bit pixels, and sprites that are moved, turned and bent in them.

Red, green, blue and opacity are four lanes of 16 bits, so that one product or sum blends all four of them.

A picture's coordinates: y from -1 (top) to 1 (bottom), x scaled alike, the origin in the middle.
"""

import dataclasses

import numpy as np

from wanstreamer_jax.data.duplex_world.things import Colour

HALF = np.uint64(0x0080_0080_0080_0080)
MASK = np.uint64(0x00FF_00FF_00FF_00FF)
EIGHT, ALPHA, FULL, SEVEN = np.uint64(8), np.uint64(48), np.uint64(256), np.uint64(7)


def lanes(colour: Colour) -> np.uint64:
  """One opaque colour, 0..1 a channel, as a pixel."""
  red, green, blue = (round(255 * min(max(float(c), 0.0), 1.0)) for c in colour)
  return np.uint64(red | green << 16 | blue << 32 | 255 << 48)


def packed(planes: np.ndarray) -> np.ndarray:
  """float [4, h, w], colours multiplied by opacity, each 0..1, to uint64 [h, w]."""
  alpha = np.clip(planes[3], 0, 1)
  red, green, blue = (np.rint(255 * np.clip(plane, 0, alpha)).astype(np.uint64) for plane in planes[:3])
  opacity = np.rint(255 * alpha).astype(np.uint64)
  return red | green << np.uint64(16) | blue << np.uint64(32) | opacity << ALPHA


@dataclasses.dataclass(frozen=True)
class Sprite:
  """A drawn part: uint64 [h * w] with a transparent border; sample (0, 0) is at (left, top), `scale` samples a unit."""

  pixels: np.ndarray
  width: int
  height: int
  left: float
  top: float
  scale: float


class Canvas:
  """Frames uint64 [T, H, W], painted over by sprites and by shapes."""

  def __init__(self, frames: int, height: int, width: int):
    self.pixel = 2.0 / height
    self.y = ((np.arange(height, dtype=np.float32) + np.float32(0.5)) * np.float32(self.pixel) - 1)[:, None]
    self.x = ((np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2)) * np.float32(self.pixel))[None, :]
    self.image = np.empty((frames, height, width), np.uint64)

  def window(self, top: float, bottom: float, left: float, right: float) -> "Window":
    """The part of the picture that shapes inside these bounds can touch."""
    r0, r1 = np.searchsorted(self.y[:, 0], [top - self.pixel, bottom + self.pixel])
    c0, c1 = np.searchsorted(self.x[0], [left - self.pixel, right + self.pixel])
    return Window(self, slice(int(r0), int(r1)), slice(int(c0), int(c1)))

  def rgb(self, out: np.ndarray) -> None:
    """Writes the frames to uint8 [T, H, W, 3]."""
    channels = self.image.view(np.uint8).reshape(*self.image.shape, 8)
    for channel in range(3):
      out[..., channel] = channels[..., 2 * channel]


class Window:
  """A rectangle of a canvas. y: float32 [h, 1], x: [1, w]; frames come first in all that is painted."""

  def __init__(self, canvas: Canvas, rows: slice, columns: slice):
    self.y, self.x, self.pixel = canvas.y[rows], canvas.x[:, columns], np.float32(canvas.pixel)
    self.image = canvas.image[:, rows, columns]

  @property
  def empty(self) -> bool:
    return not self.image.size

  def paint(self, distance: np.ndarray, colour: np.uint64, opacity: np.ndarray | float = 1.0) -> None:
    """Paints where `distance` [T, h, w] is negative; edges are one pixel soft."""
    alpha = np.clip(np.float32(0.5) - distance * (1 / self.pixel), 0, 1)
    self.blend(alpha * (np.float32(256) * opacity), colour)

  def blend(self, alpha: np.ndarray, colour: np.uint64 | np.ndarray) -> None:
    """Mixes `colour` into the picture by `alpha` [T, h, w], 0..256."""
    share = (alpha + np.float32(0.5)).astype(np.uint16).astype(np.uint64)
    mixed = share * colour
    mixed += HALF
    np.subtract(FULL, share, out=share)
    share *= self.image
    mixed += share
    mixed >>= EIGHT
    np.bitwise_and(mixed, MASK, out=self.image)

  def stamp(self, sprite: Sprite, u: np.ndarray, v: np.ndarray) -> None:
    """Paints a sprite: the pixel of the picture shows the sprite's point (u, v), [T, h, w], in the sprite's units."""
    across = _fixed(u, sprite.left, sprite.scale, sprite.width)
    down = _fixed(v, sprite.top, sprite.scale, sprite.height)
    index = ((down >> 8) * np.int32(sprite.width) + (across >> 8)).astype(np.intp)
    across &= 255
    down &= 255
    both = across * down
    both >>= 8
    weights = (256 - across - down + both, across - both, down - both, both)
    found: np.ndarray | None = None
    for weight, step in zip(weights, (0, 1, sprite.width, sprite.width + 1)):
      tap = sprite.pixels[step:].take(index, mode="clip")
      tap *= weight.astype(np.uint64)
      found = tap if found is None else np.add(found, tap, out=found)
    assert found is not None
    found >>= EIGHT
    found &= MASK
    alpha = found >> ALPHA
    alpha += alpha >> SEVEN
    np.subtract(FULL, alpha, out=alpha)
    alpha *= self.image
    alpha += HALF
    alpha >>= EIGHT
    alpha &= MASK
    np.add(alpha, found, out=self.image)


def _fixed(at: np.ndarray, origin: float, scale: float, size: int) -> np.ndarray:
  """Sample positions as int32 with 8 bits of fraction, inside the sprite."""
  position = at * np.float32(256 * scale)
  position -= np.float32(256 * scale * origin)
  np.clip(position, 0, np.float32(256 * (size - 1) - 1), out=position)
  return position.astype(np.int32)
