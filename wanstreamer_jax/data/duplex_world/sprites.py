"""Draws sprites: soft, shaded parts in float32 planes, packed at the end."""

import numpy as np

from wanstreamer_jax.data.duplex_world.lanes import Sprite, packed
from wanstreamer_jax.data.duplex_world.things import Colour

Tint = Colour | np.ndarray  # one colour, or float [3, h, w]


class Sketch:
  """Planes float32 [4, h, w] (red, green, blue multiplied by opacity, and opacity) over a rectangle of the picture."""

  def __init__(self, bounds: tuple[float, float, float, float], pixel: float, over: int):
    """bounds: top, bottom, left, right; pixel: size of a pixel of the picture; over: samples a pixel."""
    top, bottom, left, right = bounds
    self.scale, self.pixel = over / pixel, np.float32(pixel)
    self.rows, self.columns = (int(np.ceil((b - a) * self.scale)) + 2 for a, b in ((top, bottom), (left, right)))
    self.top, self.left = top, left
    self.y = (top + np.arange(self.rows, dtype=np.float32) / np.float32(self.scale))[:, None]
    self.x = (left + np.arange(self.columns, dtype=np.float32) / np.float32(self.scale))[None, :]
    self.planes = np.zeros((4, self.rows, self.columns), np.float32)

  def paint(self, distance: np.ndarray, tint: Tint, opacity: float | np.ndarray = 1.0, soft: float = 0.0) -> None:
    """Paints where `distance` is negative, with an edge of one pixel, or `soft` units wide."""
    width = max(float(self.pixel), soft)
    alpha = np.clip(0.5 - distance / np.float32(width), 0, 1)
    if soft:
      alpha = alpha * alpha * (3 - 2 * alpha)
    self.blend(alpha * opacity, tint)

  def blend(self, alpha: np.ndarray, tint: Tint) -> None:
    """Covers by `alpha` [h, w], 0..1."""
    alpha = np.asarray(alpha, np.float32)
    colour = np.asarray(tint, np.float32).reshape(3, *(np.shape(tint)[1:] or (1, 1)))
    self.planes *= 1 - alpha
    self.planes[:3] += colour * alpha
    self.planes[3] += alpha

  def shade(self, amount: np.ndarray) -> None:
    """Multiplies the colours that are there."""
    self.planes[:3] = np.minimum(self.planes[:3] * np.asarray(amount, np.float32), self.planes[3])

  def glow(self, alpha: np.ndarray, tint: Tint) -> None:
    """Mixes a colour into what is there, without covering more."""
    alpha = np.asarray(alpha, np.float32)
    colour = np.asarray(tint, np.float32).reshape(3, *(np.shape(tint)[1:] or (1, 1)))
    self.planes[:3] += alpha * (colour * self.planes[3] - self.planes[:3])

  def sprite(self) -> Sprite:
    self.planes[:, [0, -1], :] = 0
    self.planes[:, :, [0, -1]] = 0
    pixels = packed(self.planes).reshape(-1)
    return Sprite(pixels, self.columns, self.rows, self.left, self.top, self.scale)


def shaded(colour: Colour, factor: float) -> Colour:
  """A colour made darker or lighter; dark shades are a little warmer."""
  red, green, blue = (float(np.clip(c * factor, 0, 1)) for c in colour)
  return min(1.0, red * (1.03 if factor < 1 else 1.0)), green, blue


def mixed(a: Colour, b: Colour, share: float) -> Colour:
  """A mixture of two colours with `share` of the second."""
  red, green, blue = (float((1 - share) * p + share * q) for p, q in zip(a, b))
  return red, green, blue


def tinted(colour: Colour, light: np.ndarray) -> np.ndarray:
  """float32 [3, h, w]: a colour under a light [h, w]; shadows are warmer than lights."""
  base = np.asarray(colour, np.float32)[:, None, None]
  warm = np.array([0.92, 1.0, 1.06], np.float32)[:, None, None]  # exponents of the light
  return np.clip(base * np.maximum(light, np.float32(0.02))[None] ** warm, 0, 1)


def levelled(field: np.ndarray, scale: float) -> np.ndarray:
  """The distance to the zero line of any smooth field: divided by its own gradient. scale: samples a unit."""
  down, across = np.gradient(field)
  return (field / np.maximum(np.sqrt(down * down + across * across) * np.float32(scale), np.float32(1e-3))).astype(
    np.float32
  )


def bell(x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> np.ndarray:
  """A soft round spot, 1 in its middle."""
  return np.exp(-((x / np.float32(rx)) ** 2) - (y / np.float32(ry)) ** 2)


def ellipse(x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> np.ndarray:
  """Approximate signed distance to an axis-parallel ellipse at the origin."""
  px, py = x / np.float32(rx), y / np.float32(ry)
  length = np.sqrt(px * px + py * py)
  slope = np.sqrt((px / np.float32(rx)) ** 2 + (py / np.float32(ry)) ** 2)
  return (length - 1) * length / np.maximum(slope, np.float32(1e-4))


def capsule(
  x: np.ndarray, y: np.ndarray, a: tuple[float, float], b: tuple[float, float], ra: float, rb: float
) -> np.ndarray:
  """Signed distance (approximate) to a stick from `a` to `b` whose ends have different radii."""
  dx, dy = b[0] - a[0], b[1] - a[1]
  along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
  return np.sqrt((x - a[0] - along * dx) ** 2 + (y - a[1] - along * dy) ** 2) - (ra + (rb - ra) * along)
