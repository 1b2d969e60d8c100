"""Hands that wave, show a thumb or hold something, drawn once and moved."""

import functools

import numpy as np

from wanstreamer_jax.data.duplex_world.glyphs import GLYPHS, glyph_distance
from wanstreamer_jax.data.duplex_world.lanes import Canvas, Sprite
from wanstreamer_jax.data.duplex_world.looks import Look
from wanstreamer_jax.data.duplex_world.sprites import Sketch, capsule, shaded, tinted
from wanstreamer_jax.data.duplex_world.things import COLOURS, Colour, Held, rounded_box, shape_distance

# Where the things of one hand lie, in units around the middle, and their radius, by number.
COLUMNS: dict[int, tuple[float, list[tuple[float, float]]]] = {
  1: (0.265, [(0, 0.0)]),
  2: (0.21, [(0, -0.40), (0, 0.06)]),
  3: (0.185, [(0, -0.70), (0, -0.30), (0, 0.10)]),
  4: (0.155, [(-0.165, -0.30), (0.165, -0.30), (-0.165, 0.05), (0.165, 0.05)]),
  5: (0.145, [(-0.175, -0.56), (0.175, -0.56), (0, -0.25), (-0.175, 0.06), (0.175, 0.06)]),
}
ROWS: dict[int, tuple[float, list[tuple[float, float]]]] = {
  1: (0.245, [(0, 0.0)]),
  2: (0.22, [(-0.24, 0), (0.24, 0)]),
  3: (0.20, [(-0.44, 0), (0, 0), (0.44, 0)]),
  4: (0.185, [(-0.60, 0), (-0.20, 0), (0.20, 0), (0.60, 0)]),
  5: (0.165, [(-0.72, 0), (-0.36, 0), (0, 0), (0.36, 0), (0.72, 0)]),
}
OUTLINE = 0.028
SIDE_Y, UP_Y = 0.36, -0.68


def centre(place: str, edge: float) -> float:
  """x of what is held at a place; edge: of the picture."""
  return 0.0 if place == "up" else (-1 if place == "left" else 1) * min(0.8, edge - 0.35)


def stamp_held(canvas: Canvas, look: Look, thing: Held, level: np.ndarray) -> None:
  """Things and the hand under them, rising from below the picture. level: float32 [T, 1, 1]."""
  height = canvas.image.shape[1]
  up = thing.place == "up"
  sprite = _held(thing, look.skin, look.shirt, 2.0 / height, 2 if height <= 256 else 1)
  cx, cy = centre(thing.place, float(canvas.x[0, -1])), UP_Y if up else SIDE_Y
  drop = np.float32(2.2 if up else 1.75) * (1 - level)
  down = float(drop.min())
  low, high = (-0.98, 1.30) if up else (-0.42, 0.42)
  window = canvas.window(cy - (0.38 if up else 1.04) + down, 1.0, cx + low, cx + high)
  if not window.empty:
    shape = (len(level), len(window.y), window.x.shape[1])
    u = np.broadcast_to(window.x - np.float32(cx), shape)
    window.stamp(sprite, u, np.broadcast_to(window.y - np.float32(cy) - drop, shape))


def stamp_gesture(canvas: Canvas, look: Look, kind: str, place: str, level: np.ndarray, swing: np.ndarray) -> None:
  """A hand that waves or shows its thumb. level, swing: float32 [T, 1, 1]."""
  height = canvas.image.shape[1]
  side = -1 if place == "left" else 1
  sprite = _gesture(kind, side, look.skin, look.shirt, 2.0 / height, 2 if height <= 256 else 1)
  cx = side * min(0.84, float(canvas.x[0, -1]) - 0.27)
  angle = np.float32(0.20) * swing + np.float32(0.06 * side) if kind == "wave" else 0 * swing
  sin, cos = angle - angle**3 / 6, 1 - angle * angle / 2
  drop = np.float32(1.5) * (1 - level)
  window = canvas.window(-0.48 + float(drop.min()), 1.0, cx - 0.55, cx + 0.55)
  if not window.empty:
    x, y = window.x - np.float32(cx), window.y - np.float32(0.75) - drop
    window.stamp(sprite, cos * x + sin * y, cos * y - sin * x)


@functools.lru_cache(maxsize=48)
def _gesture(kind: str, side: int, skin: Colour, shirt: Colour, pixel: float, over: int) -> Sprite:
  """Around the elbow, which lies at the origin."""
  s = Sketch((-1.2, 0.5, -0.45, 0.45), pixel, over)
  x, y = s.x * np.float32(-side), s.y + 0 * s.x  # the thumb points to the head
  _sleeve(s, shirt, (0.0, 0.4), (0.0, -0.22), 0.105)
  if kind == "wave":
    palm = np.minimum(
      capsule(x, y, (0.0, -0.42), (0.0, -0.53), 0.105, 0.115), capsule(x, y, (0, -0.2), (0, -0.4), 0.06, 0.07)
    )
    tips = ((-0.105, -0.80), (-0.04, -0.875), (0.035, -0.88), (0.105, -0.82))
    fingers = [capsule(x, y, (0.75 * tx, -0.55), (tx * 1.25, ty), 0.041, 0.036) for tx, ty in tips]
    fingers.append(capsule(x, y, (0.07, -0.45), (0.215, -0.61), 0.042, 0.034))
  else:
    palm = np.minimum(rounded_box(x, y + 0.40, 0.125, 0.125, 0.07), capsule(x, y, (0, -0.2), (0, -0.36), 0.06, 0.07))
    fingers = [capsule(x, y, (-0.07, -0.50), (-0.045, -0.74), 0.060, 0.050)]
  whole = functools.reduce(np.minimum, fingers, palm)
  s.paint(whole - 0.018, shaded(skin, 0.42))
  lit = (1.0 + 0.12 * (-s.x) - 0.12 * (y + 0.5)).astype(np.float32)
  s.paint(palm, tinted(skin, lit))
  for finger in fingers:
    s.paint(finger - 0.008, shaded(skin, 0.62))
    s.paint(finger, tinted(skin, lit + np.float32(0.04)))
  if kind == "wave":
    s.paint(palm + 0.035, tinted(skin, lit + np.float32(0.05)), soft=0.03)
  else:
    for row in range(4):
      fold = capsule(x, y, (0.02, -0.475 + 0.055 * row), (0.10, -0.475 + 0.055 * row), 0.027, 0.026)
      s.paint(fold - 0.007, shaded(skin, 0.55))
      s.paint(fold, tinted(skin, lit + np.float32(0.03)))
  return s.sprite()


def _sleeve(s: Sketch, shirt: Colour, a: tuple[float, float], b: tuple[float, float], radius: float) -> None:
  arm = capsule(s.x, s.y, a, b, radius * 1.15, radius)
  s.paint(arm - 0.014, shaded(shirt, 0.50))
  s.paint(arm, tinted(shirt, (0.98 - 0.8 * (s.x - b[0]) + 0 * s.y).astype(np.float32)))


@functools.lru_cache(maxsize=96)
def _held(thing: Held, skin: Colour, shirt: Colour, pixel: float, over: int) -> Sprite:
  """Around the middle of the things: an arm, a hand, the things, and the fingers in front of them."""
  up = thing.place == "up"
  radius, places = (ROWS if up else COLUMNS)[thing.count]
  s = Sketch((-0.40, 1.9, -0.98, 1.30) if up else (-1.05, 0.9, -0.42, 0.42), pixel, over)
  if up:  # the arm comes up beside the head
    px, py = places[-1]
    grip = (px + 0.75 * radius if thing.count < 4 else 0.66, py + 1.1 * radius)
    if thing.shape in GLYPHS:  # a hand at the corner of the card
      grip = (grip[0] + 0.30 * radius, grip[1] + 0.22 * radius)
    wrist = (grip[0] + 0.6 * (0.92 - grip[0]) * 0.45, grip[1] + 0.20)
    _sleeve(s, shirt, (0.98, 1.9), (0.94, 0.95), 0.125)
    _sleeve(s, shirt, (0.94, 0.95), wrist, 0.10)
    _stick(s, skin, wrist, grip)
  else:
    grip = (0.0, places[-1][1] + (1.27 if thing.shape in GLYPHS else 0.95) * radius + 0.03)
    _sleeve(s, shirt, (0.0, 1.1), (0.0, grip[1] + 0.26), 0.115)
    _stick(s, skin, (0.0, grip[1] + 0.26), (0.0, grip[1] + 0.04))
  for px, py in places:
    _thing(s, thing, s.x - np.float32(px), s.y - np.float32(py), radius)
  for finger in (-0.10, -0.035, 0.035, 0.10):
    tip = capsule(s.x, s.y, (grip[0] + finger, grip[1] + 0.05), (grip[0] + 0.9 * finger, grip[1] - 0.035), 0.036, 0.032)
    s.paint(tip - 0.012, shaded(skin, 0.42))
    s.paint(tip, shaded(skin, 1.02))
  return s.sprite()


def _stick(s: Sketch, skin: Colour, wrist: tuple[float, float], grip: tuple[float, float]) -> None:
  """The wrist and the back of the hand."""
  hand = np.minimum(capsule(s.x, s.y, wrist, grip, 0.065, 0.075), capsule(s.x, s.y, grip, grip, 0.115, 0.115))
  s.paint(hand - 0.014, shaded(skin, 0.42))
  s.paint(hand, shaded(skin, 0.92))


def _thing(s: Sketch, thing: Held, x: np.ndarray, y: np.ndarray, radius: float) -> None:
  """A shape or a card with an outline, a little lit from above."""
  colour = COLOURS[thing.colour]
  light = np.float32(1.04) - np.float32(0.16 / radius) * y + 0 * x
  glyph = thing.shape in GLYPHS
  distance = (
    rounded_box(x, y, 1.02 * radius, 1.18 * radius, 0.16 * radius)
    if glyph
    else shape_distance(thing.shape, x, y, radius)
  )
  edge = shaded(colour, 0.38) if thing.colour != "black" else (0.80, 0.80, 0.82)
  s.paint(distance - OUTLINE, edge)
  s.paint(distance, tinted(colour, light if thing.colour != "white" else np.minimum(light, np.float32(1.02))))
  if glyph:
    ink = (0.05, 0.05, 0.07) if thing.colour in ("yellow", "white") else (1.0, 1.0, 1.0)
    s.paint(glyph_distance(thing.shape, x, y, 1.85 * radius) - np.float32(0.145 * radius), ink)
