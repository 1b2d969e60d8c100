"""Draws faces as anti-aliased signed-distance shapes, at any frame size. All frames of a chunk are drawn at once.

Coordinates: y from -1 (top) to 1 (bottom), x scaled alike, the origin in the middle of the frame. Everything that
moves is a track with one value per frame, so that a face is a pure function of (look, tracks, size).
"""

import colorsys
import dataclasses
from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world.glyphs import GLYPHS, glyph_distance
from wanstreamer_jax.data.duplex_world.things import COLOURS, Colour, Held, Raised, rounded_box, shape_distance

CHUNK = 8  # frames drawn at once, which fit into a core's cache
HAIR_STYLES = ("short", "long", "bun", "cap", "curly", "bald")


@dataclasses.dataclass(frozen=True)
class Look:
  """The appearance of a person. Sizes are factors around 1."""

  skin: Colour
  hair: Colour
  style: str
  eyes: Colour
  shirt: Colour
  wall: Colour
  width: float = 1.0
  height: float = 1.0
  spacing: float = 1.0
  glasses: bool = False


TRACKS = (
  "mouth", "mouth_width", "mouth_round", "tongue", "bite", "smile", "surprise", "gaze_x", "gaze_y", "blink", "brow",
  "nod", "turn", "sway", "tilt", "held", "wave", "thumb",
)  # fmt: skip


def still_tracks(frames: int) -> dict[str, np.ndarray]:
  """Tracks of a person who looks at the camera and does nothing: float32 [frames] each."""
  tracks = {name: np.zeros(frames, np.float32) for name in TRACKS}
  tracks["mouth_width"] += 0.5
  return tracks


def random_look(rng: np.random.Generator, held_out: bool = False) -> Look:
  """A person from the training range, or one of those kept for evaluation (other hair, other walls)."""
  tone = rng.uniform(0.0, 1.0)
  skin = tuple((1 - tone) * np.array([0.98, 0.83, 0.72]) + tone * np.array([0.45, 0.29, 0.20]))
  hair = [(0.13, 0.09, 0.07), (0.36, 0.21, 0.11), (0.85, 0.68, 0.36), (0.62, 0.25, 0.12), (0.72, 0.72, 0.74)]
  hue = rng.uniform(0.0, 0.85) if not held_out else rng.uniform(0.86, 1.0)
  styles = HAIR_STYLES[:4] if not held_out else HAIR_STYLES[4:]
  return Look(
    skin=skin,
    hair=hair[rng.integers(len(hair))],
    style=styles[rng.integers(len(styles))],
    eyes=[(0.25, 0.16, 0.08), (0.20, 0.42, 0.66), (0.24, 0.46, 0.26)][rng.integers(3)],
    shirt=colorsys.hsv_to_rgb((hue + 0.45) % 1.0, rng.uniform(0.35, 0.75), rng.uniform(0.35, 0.8)),
    wall=colorsys.hsv_to_rgb(hue, rng.uniform(0.10, 0.35), rng.uniform(0.65, 0.95)),
    width=rng.uniform(0.92, 1.08),
    height=rng.uniform(0.95, 1.06),
    spacing=rng.uniform(0.92, 1.08),
    glasses=bool(rng.random() < 0.2),
  )


def draw(
  look: Look,
  tracks: dict[str, np.ndarray],
  hands: Sequence[Sequence[Raised]],
  height: int = 64,
  width: int = 64,
) -> np.ndarray:
  """A clip uint8 [frames, height, width, 3]. tracks: float [frames] by name; hands: those that are up in each frame."""
  frames = len(hands)
  clip = np.empty((frames, height, width, 3), np.uint8)
  for start in range(0, frames, CHUNK):
    part = slice(start, min(start + CHUNK, frames))
    canvas = Canvas(height, width, part.stop - part.start)
    pose = {name: track[part].astype(np.float32)[:, None, None] for name, track in tracks.items()}
    _person(canvas, look, pose)
    for key in dict.fromkeys((hand.what, hand.place) for frame in hands[part] for hand in frame):
      found = [next((hand for hand in frame if (hand.what, hand.place) == key), None) for frame in hands[part]]
      _raised(canvas, look, *key, found)
    clip[part] = np.clip(canvas.image * 255.0 + 0.5, 0, 255).astype(np.uint8)
  return clip


class Canvas:
  """Frames [T, H, W, 3] in 0..1, painted over by shapes given as signed distances (negative inside)."""

  def __init__(self, height: int, width: int, frames: int):
    self.pixel = 2.0 / height
    self.y = ((np.arange(height, dtype=np.float32) + 0.5) * self.pixel - 1.0)[:, None]
    self.x = ((np.arange(width, dtype=np.float32) + 0.5) - width / 2)[None, :] * self.pixel
    self.image = np.empty((frames, height, width, 3), np.float32)

  def box(self, top: float, bottom: float, left: float, right: float) -> "Window":
    """The part of the picture that shapes inside these bounds can touch."""
    rows, columns = self.y[:, 0], self.x[0]
    r0, r1 = np.searchsorted(rows, [top, bottom])
    c0, c1 = np.searchsorted(columns, [left, right])
    return Window(self, slice(max(r0 - 1, 0), r1 + 1), slice(max(c0 - 1, 0), c1 + 1))


class Window:
  """A rectangle of a canvas."""

  def __init__(self, canvas: Canvas, rows: slice, columns: slice):
    self.y, self.x = canvas.y[rows], canvas.x[:, columns]
    self.image, self.pixel = canvas.image[:, rows, columns], canvas.pixel

  def paint(self, distance: np.ndarray, colour: Colour | np.ndarray, opacity: float | np.ndarray = 1.0) -> None:
    """Paints where `distance` [T, H, W] is negative; edges are one pixel soft."""
    alpha = np.clip(0.5 - distance / self.pixel, 0.0, 1.0) * opacity
    self.image += alpha[..., None] * (np.asarray(colour, np.float32) - self.image)


def ellipse(x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float) -> np.ndarray:
  """Approximate signed distance to an axis-parallel ellipse at the origin."""
  scaled = np.sqrt((x / rx) ** 2 + (y / ry) ** 2)
  return (scaled - 1.0) * np.minimum(rx, ry)


def _person(canvas: Canvas, look: Look, pose: dict[str, np.ndarray]) -> None:
  """Wall, body, head and face."""
  everything = canvas.box(-1, 1, -9, 9)
  light = np.clip(1.06 - 0.16 * canvas.y - 0.05 * np.abs(canvas.x), 0, 1.15)
  canvas.image[:] = np.asarray(look.wall, np.float32) * light[..., None]
  sway, nod = 0.05 * pose["sway"], 0.06 * pose["nod"]
  turn = 0.09 * pose["turn"]
  lower = canvas.box(0.4, 1, -9, 9)
  lower.paint(rounded_box(lower.x - 0.4 * sway, lower.y - 1.05, 0.72, 0.42, 0.3), look.shirt)
  neck = canvas.box(0.3, 0.85, -0.4, 0.4)
  neck.paint(rounded_box(neck.x - 0.6 * sway, neck.y - 0.55, 0.15, 0.26, 0.1), _shade(look.skin, 0.82))
  x, y = _head(everything, pose, sway, nod)
  rx, ry = 0.42 * look.width, 0.54 * look.height
  _hair_behind(everything, look, x, y, rx, ry)
  for side in (-1, 1):
    everything.paint(ellipse(x - side * rx, y - 0.02, 0.07, 0.11), _shade(look.skin, 0.9))
  everything.paint(ellipse(x, y, rx, ry), look.skin)
  _hair_front(everything, look, x, y, rx, ry)
  face = canvas.box(-0.45, 0.55, -0.55, 0.55)
  x, y = _head(face, pose, sway, nod)
  x = x - turn
  _eyes(face, look, pose, x, y + 0.06)
  face.paint(ellipse(x, y - 0.12, 0.045, 0.06), _shade(look.skin, 0.86))
  for side in (-1, 1):
    face.paint(ellipse(x - side * 0.25, y - 0.18, 0.08, 0.06), (0.93, 0.45, 0.42), 0.22)
  _mouth(face, pose, x, y - 0.29)


def _head(window: Window, pose: dict[str, np.ndarray], sway: np.ndarray, nod: np.ndarray) -> tuple[np.ndarray, ...]:
  """Coordinates of the picture in the head's own frame."""
  x, y = window.x - sway, window.y + 0.08 - nod
  angle = 0.12 * pose["tilt"]
  cos, sin = np.cos(angle), np.sin(angle)
  return cos * x + sin * y, cos * y - sin * x


def _shade(colour: Colour, factor: float) -> Colour:
  red, green, blue = (float(np.clip(c * factor, 0, 1)) for c in colour)
  return red, green, blue


def _hair_behind(window: Window, look: Look, x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> None:
  if look.style == "long":
    window.paint(rounded_box(x, y - 0.12, rx + 0.11, ry + 0.06, 0.36), _shade(look.hair, 0.85))
  elif look.style == "bun":
    window.paint(ellipse(x, y + ry + 0.06, 0.17, 0.15), _shade(look.hair, 0.9))
  elif look.style == "curly":
    for angle in np.linspace(-2.0, 2.0, 9):
      window.paint(ellipse(x - rx * np.sin(angle), y + ry * np.cos(angle) * 0.92, 0.17, 0.17), look.hair)


def _hair_front(window: Window, look: Look, x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> None:
  if look.style == "bald":
    return
  crown = ellipse(x, y + 0.03, rx + 0.03, ry + 0.03)
  if look.style == "cap":
    window.paint(np.maximum(crown, y + 0.24), look.shirt)
    window.paint(rounded_box(x - 0.08, y + 0.24, rx + 0.1, 0.045, 0.04), _shade(look.shirt, 0.75))
    return
  line = {"short": 0.27 + 0.10 * x, "long": 0.24 - 0.5 * np.abs(x) + 0.1, "bun": 0.30 + 0.0 * x}
  fringe = line.get(look.style, 0.28 + 0.03 * np.sin(14 * x))
  window.paint(np.maximum(crown, y + fringe), look.hair)


def _eyes(window: Window, look: Look, pose: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
  apart, open_ = 0.17 * look.spacing, 1.0 - 0.92 * pose["blink"]
  gaze_x, gaze_y = 0.035 * pose["gaze_x"], 0.025 * pose["gaze_y"]
  for side in (-1, 1):
    ex = x - side * apart
    white = ellipse(ex, y, 0.095, 0.068 * open_ + 0.004)
    window.paint(white - 0.012, _shade(look.skin, 0.55))
    window.paint(white, (0.98, 0.98, 0.98))
    iris = ellipse(ex - gaze_x, y - gaze_y, 0.05, 0.05)
    window.paint(np.maximum(iris, white), look.eyes)
    pupil = ellipse(ex - gaze_x, y - gaze_y, 0.024, 0.024)
    window.paint(np.maximum(pupil, white), (0.03, 0.03, 0.04))
    brow = rounded_box(
      ex, y + 0.135 + 0.05 * pose["brow"] + 0.08 * pose["surprise"] - 0.1 * ex * side, 0.095, 0.022, 0.02
    )
    window.paint(brow, _shade(look.hair, 0.7))
    if look.glasses:
      rim = np.abs(ellipse(ex, y, 0.14, 0.125)) - 0.014
      window.paint(rim, (0.12, 0.12, 0.14))


def _mouth(window: Window, pose: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
  opening, spread, rounding = pose["mouth"], pose["mouth_width"], pose["mouth_round"]
  half = (0.105 + 0.06 * spread) * (1.0 - 0.42 * rounding)
  opening = np.maximum(opening, 0.6 * pose["surprise"])
  half = half * (1 + 0.35 * pose["smile"] - 0.3 * pose["surprise"])
  gap = 0.012 + 0.115 * opening
  smile = (1.0 - opening) * (0.25 + 2.5 * pose["smile"]) * (x / half) ** 2 * 0.02
  lips = ellipse(x, y + smile, half + 0.022, gap + 0.030)
  window.paint(lips, (0.72, 0.24, 0.27))
  inside = ellipse(x, y + smile, half, gap)
  window.paint(inside, (0.28, 0.06, 0.08))
  teeth = np.maximum(inside, y + smile + 0.30 * gap)
  window.paint(teeth, (0.97, 0.96, 0.93), np.clip(opening * 3.0, 0.0, 1.0))


def _raised(canvas: Canvas, look: Look, what: Held | str, place: str, frames: list[Raised | None]) -> None:
  """A hand with what it holds, rising from below the picture's edge."""
  level, swing, shown = (
    np.array([getattr(r, name) if r else 0.0 for r in frames], np.float32)[:, None, None]
    for name in ("level", "swing", "level")
  )
  shown = (shown > 0).astype(np.float32)
  side = -1.0 if place == "left" else 1.0
  edge = canvas.x[0, -1]
  centre = side * max(0.62, min(0.7, edge - 0.3))
  drop = 1.6 * (1.0 - level)
  if isinstance(what, str):
    window = canvas.box(-1, 1, centre - 0.6, centre + 0.6)
    x, y = window.x - centre - 0.12 * swing, window.y - 0.3 - drop
    window.paint(ellipse(x, y, 0.16, 0.18), _shade(look.skin, 0.93), shown)
    tips = [(-0.14, -0.2), (-0.05, -0.25), (0.05, -0.25), (0.14, -0.2)] if what == "wave" else [(-0.05, -0.22)]
    for tx, ty in tips:
      window.paint(ellipse(x - tx, y - ty, 0.045, 0.13), _shade(look.skin, 0.93), shown)
    return
  if what.place == "up":
    centre = 0.0
  window = canvas.box(-1, 1, -9, 9)
  row = what.place == "up"
  size = (0.27, 0.2, 0.19, 0.15, 0.13)[what.count - 1]
  x, y = window.x - centre, window.y - (-0.7 if row else 0.42) - drop
  window.paint(ellipse(x, y - (0.3 if row else 0.44), 0.13, 0.16), _shade(look.skin, 0.93), shown)
  for index in range(what.count):
    offset = (index - (what.count - 1) / 2) * 2.2 * size
    dx, dy = (x - offset, y) if row else (x, y - offset - 0.1)
    if what.shape in GLYPHS:
      card = rounded_box(dx, dy, 0.8 * size, size, 0.03)
      light = what.colour in ("yellow", "white")
      window.paint(card - 0.02, (0.1, 0.1, 0.1), shown)
      window.paint(card, COLOURS[what.colour], shown)
      ink = (0.05, 0.05, 0.05) if light else (1.0, 1.0, 1.0)
      window.paint(glyph_distance(what.shape, dx, dy, 1.5 * size) - 0.13 * size, ink, shown)
      continue
    distance = shape_distance(what.shape, dx, dy, size)
    window.paint(distance - 0.03, _shade(COLOURS[what.colour], 0.45), shown)
    window.paint(distance, COLOURS[what.colour], shown)
