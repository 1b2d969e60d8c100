"""What a person of duplex_world can hold up: shapes, and cards with a letter or a digit."""

import dataclasses

import numpy as np

from wanstreamer_jax.data.duplex_world.glyphs import GLYPHS
from wanstreamer_jax.errors import DataError

Colour = tuple[float, float, float]
SHAPES = ("circle", "square", "triangle", "star", "heart", "moon")
SMALL_SHAPES = SHAPES[:4]
PLACES = ("left", "right", "up")
MOST = 5
COLOURS: dict[str, Colour] = {
  "red": (0.86, 0.15, 0.16),
  "green": (0.16, 0.62, 0.27),
  "blue": (0.15, 0.34, 0.86),
  "yellow": (0.97, 0.80, 0.13),
  "white": (0.97, 0.97, 0.97),
  "black": (0.08, 0.08, 0.09),
}


@dataclasses.dataclass(frozen=True)
class Held:
  """Objects held up: `count` equal shapes of one colour, or cards with one letter or digit, at a place as it is seen in
  the picture. Raises DataError for what cannot be drawn."""

  shape: str
  colour: str
  count: int = 1
  place: str = "right"

  def __post_init__(self) -> None:
    for name, known in (("shape", (*SHAPES, *GLYPHS)), ("colour", tuple(COLOURS)), ("place", PLACES)):
      value = getattr(self, name)
      if value not in known:
        raise DataError(f"what is held has {name} {value!r}: expected one of {', '.join(known)}")
    if not 1 <= self.count <= MOST:
      raise DataError(f"{self.count} things are held: expected 1 to {MOST}")


@dataclasses.dataclass(frozen=True)
class Raised:
  """A hand in one frame, with what it holds, or its gesture "wave" or "thumb".

  place: where it is seen; level: how far it is raised, 0 to 1; swing: of a wave, -1 to 1.
  """

  what: Held | str
  place: str
  level: float
  swing: float = 0.0


def shape_distance(shape: str, x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
  """Signed distance to one of SHAPES of about radius `size`, negative inside."""
  if shape == "circle":
    return np.sqrt(x * x + y * y) - size
  if shape == "square":
    return rounded_box(x, y, 0.86 * size, 0.86 * size, 0.02)
  if shape == "triangle":
    return polygon_star(x, y - 0.15 * size, 1.2 * size, 3, 0.5)
  if shape == "heart":
    return _heart(x, y, size)
  if shape == "moon":
    outer = np.sqrt((x + 0.12 * size) ** 2 + y * y) - 1.05 * size
    return np.maximum(outer, 0.9 * size - np.sqrt((x - 0.5 * size) ** 2 + y * y))
  return polygon_star(x, y, 1.2 * size, 5, 0.45)


def _heart(x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
  """Two circles and the triangle of their common tangents."""
  x, radius = np.abs(x), 0.56 * size
  cx, cy, tip = 0.5 * size, -0.36 * size, 1.05 * size
  lobe = np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius
  away = np.hypot(cx, tip - cy)
  angle = np.arctan2(cx, tip - cy) + np.arcsin(radius / away)
  side = (x * np.cos(angle)) - (tip - y) * np.sin(angle)
  touch = (y - cy) - (x - cx) * np.tan(angle)  # below the points where the tangents touch the lobes
  inner = np.maximum(side, cy - y)
  return np.where(touch > 0, np.minimum(lobe, inner), lobe).astype(x.dtype)


def rounded_box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float, radius: float) -> np.ndarray:
  """Signed distance to a rectangle with round corners."""
  dx, dy = np.abs(x) - half_x + radius, np.abs(y) - half_y + radius
  outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
  return outside + np.minimum(np.maximum(dx, dy), 0) - radius


def polygon_star(x: np.ndarray, y: np.ndarray, radius: float, points: int, inner: float) -> np.ndarray:
  """Signed distance (approximate) to a star; `inner` is the ratio of its radii, cos(pi / points) makes a polygon."""
  angle = np.abs((np.arctan2(x, -y) / (2 * np.pi) * points + 0.5) % 1.0 - 0.5) * 2 * np.pi / points
  length = np.sqrt(x * x + y * y)
  px, py = length * np.cos(angle), length * np.sin(angle)
  half = np.pi / points
  ax, bx, by = radius, radius * inner * np.cos(half), radius * inner * np.sin(half)
  across = np.hypot(by, bx - ax)
  return ((px - ax) * by + py * (ax - bx)) / across
