"""Wall, clothes, neck, hair and head, drawn once for a look and a size.

The head's coordinates have their origin in the middle of the face (`CENTRE` in the picture), and its shape is bent and
moved by `faces.py`.
"""

import dataclasses
import functools

import numpy as np

from wanstreamer_jax.data.duplex_world.lanes import Sprite, packed
from wanstreamer_jax.data.duplex_world.looks import Look
from wanstreamer_jax.data.duplex_world.sprites import (
  Sketch,
  bell,
  capsule,
  ellipse,
  levelled,
  mixed,
  shaded,
  tinted,
)
from wanstreamer_jax.data.duplex_world.things import Colour, rounded_box

CENTRE = -0.1
RX, RY = 0.40, 0.50
EYE_X, EYE_Y, MOUTH_Y = 0.165, -0.045, 0.262
HEAD_BOUNDS = (-0.80, 0.66, -0.66, 0.66)
BODY_BOUNDS = (0.16, 1.06, -1.06, 1.06)


@dataclasses.dataclass(frozen=True)
class Parts:
  """wall: uint64 [H, W]; sprites in the order in which they cover each other."""

  wall: np.ndarray
  behind: Sprite | None
  body: Sprite
  head: Sprite
  glasses: Sprite | None


@functools.lru_cache(maxsize=24)
def parts(look: Look, height: int, width: int) -> Parts:
  """Draws what keeps its form. Two samples a pixel, or one in large pictures."""
  pixel, over = 2.0 / height, 2 if height <= 256 else 1
  behind = Sketch(HEAD_BOUNDS, pixel, over)
  has_behind = _hair_behind(behind, look)
  body = Sketch(BODY_BOUNDS, pixel, over)
  _clothes(body, look)
  head = Sketch(HEAD_BOUNDS, pixel, over)
  _head(head, look)
  glasses = None
  if look.glasses:
    frame = Sketch((-0.20, 0.12, -0.46, 0.46), pixel, over)
    _glasses(frame, look)
    glasses = frame.sprite()
  back = behind.sprite() if has_behind else None
  return Parts(_wall(look, height, width), back, body.sprite(), head.sprite(), glasses)


def _wall(look: Look, height: int, width: int) -> np.ndarray:
  """A plain wall under a soft light."""
  pixel = np.float32(2.0 / height)
  y = ((np.arange(height, dtype=np.float32) + np.float32(0.5)) * pixel - 1)[:, None]
  x = ((np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2)) * pixel)[None, :]
  edge = width / height
  light = 0.80 + 0.27 * bell(x - look.light * 0.35, y + 0.35, 1.3, 1.2) - 0.14 * (x / edge) ** 4 - 0.06 * y
  planes = np.ones((4, height, width), np.float32)
  planes[:3] = tinted(look.wall, light.astype(np.float32))
  return packed(planes)


def _clothes(s: Sketch, look: Look) -> None:
  """Neck, shoulders and what covers them."""
  x, y, light = s.x, s.y, np.float32(look.light)
  trunk = rounded_box(x, y - 1.10, 0.74, 0.56, 0.36)
  slope = levelled((y - 0.465) - 0.30 * np.abs(x), s.scale)
  trunk = np.maximum(trunk, -slope)
  fold = 1.02 - 0.10 * light * x - 0.22 * np.maximum(y - 0.72, 0) + 0.05 * np.cos(9 * x + 3 * y)
  fold = fold - 0.22 * bell(x, y - 0.56, 0.30, 0.10)
  s.paint(trunk - 0.012, shaded(look.shirt, 0.62))
  cloth = tinted(look.shirt, fold.astype(np.float32))
  if look.clothes == "stripes":
    pale = mixed(look.shirt, (0.97, 0.96, 0.93), 0.75)
    band = np.clip(0.5 + 4 * np.sin(26 * (y + 0.12 * x * x)), 0, 1)
    cloth = cloth + band * (tinted(pale, fold.astype(np.float32)) - cloth)
  s.paint(trunk, cloth)
  _neck(s, look)
  _collar(s, look, trunk)


def _neck(s: Sketch, look: Look) -> None:
  x, y = s.x, s.y
  neck = np.maximum(np.abs(x) - (0.155 + 0.5 * np.maximum(y - 0.46, 0) ** 1.5), y - 0.60)
  opening = ellipse(x, y - 0.55, 0.195, {"vneck": 0.2, "roll": 0.03}.get(look.clothes, 0.10))
  shadow = 0.90 - 0.36 * np.clip(1 - (y - 0.36) / 0.17, 0, 1) + 0.05 * look.light * x
  skin = np.minimum(neck, np.maximum(opening, -(y - 0.5)))
  s.paint(skin - 0.01, shaded(look.skin, 0.52), 0.8)
  s.paint(skin, tinted(look.skin, (shadow - 0.10 * (np.abs(x) / 0.15) ** 2 * (y < 0.56)).astype(np.float32)))


def _collar(s: Sketch, look: Look, trunk: np.ndarray) -> None:
  """The edge of the clothes at the neck."""
  x, y = s.x, s.y
  dark, pale = shaded(look.shirt, 0.68), mixed(look.shirt, (1.0, 1.0, 1.0), 0.35)
  ring = np.maximum(np.abs(ellipse(x, y - 0.535, 0.21, 0.125)) - 0.022, -(y - 0.53))
  if look.clothes in ("tee", "stripes"):
    s.paint(ring, dark)
  elif look.clothes == "vneck":
    for side in (-1, 1):
      s.paint(capsule(x, y, (side * 0.21, 0.52), (0.0, 0.765), 0.024, 0.024), dark)
  elif look.clothes == "shirt":
    for side in (-1, 1):
      flap = np.maximum(capsule(x, y, (side * 0.19, 0.52), (side * 0.10, 0.65), 0.07, 0.05), trunk - 0.1)
      s.paint(flap - 0.014, dark)
      s.paint(flap, pale)
    s.paint(np.maximum(np.abs(x) - 0.008, -(y - 0.68)), dark)
    for row in (0.76, 0.90):
      s.paint(np.sqrt((x - 0.03) ** 2 + (y - row) ** 2) - 0.016, pale)
  elif look.clothes == "hoodie":
    hood = np.maximum(np.abs(ellipse(x, y - 0.53, 0.27, 0.15)) - 0.05, -(y - 0.50))
    s.paint(hood - 0.012, shaded(look.shirt, 0.55))
    s.paint(hood, tinted(look.shirt, (0.9 + 0.2 * (y < 0.62)).astype(np.float32)))
    for side in (-1, 1):
      s.paint(capsule(x, y, (side * 0.09, 0.70), (side * 0.10, 0.88), 0.013, 0.013), pale)
  else:  # a roll neck
    roll = rounded_box(x, y - 0.55, 0.195, 0.105, 0.06)
    s.paint(np.maximum(roll - 0.012, y - 0.53), dark)
    s.paint(roll, tinted(look.shirt, (1.06 - 0.9 * np.abs(y - 0.50) - 0.6 * x * x).astype(np.float32)))


def face_field(look: Look, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Below 0 inside the outline of the face, which narrows to the chin."""
  rx, ry = RX * look.width, RY * look.height
  down = np.clip(y / ry, 0, 1.2)
  half = rx * (1 - look.jaw * down * down)
  return (np.abs(x) / half) ** 2.15 + (np.abs(y) / ry) ** 2.3 - 1


def _head(s: Sketch, look: Look) -> None:
  """Ears, face with its soft shades, nose, cheeks, beard, and the hair in front."""
  x, y, light = s.x, s.y, np.float32(look.light)
  rx, ry = RX * look.width, RY * look.height
  skin, deep = look.skin, shaded(look.skin, 0.55)
  for side in (-1, 1):
    ex = x - side * (rx * 0.985)
    s.paint(ellipse(ex, y - 0.03, 0.072, 0.108), deep)
    s.paint(ellipse(ex, y - 0.03, 0.060, 0.096), shaded(skin, 0.93 + 0.04 * side * look.light))
    s.paint(ellipse(ex - side * 0.01, y - 0.03, 0.030, 0.058), shaded(skin, 0.70), 0.8, soft=0.03)
  field = face_field(look, x, y)
  face = levelled(field, s.scale)
  round_ = np.clip(field + 1, 0, 1)
  lit = 1.06 + 0.11 * light * (x / rx) - 0.10 * np.maximum(y / ry, -0.4) - 0.24 * round_**3
  s.paint(face - 0.012, deep)  # an edge that sets the chin off from the neck and the cheeks off from the wall
  s.paint(face, tinted(skin, lit.astype(np.float32)))
  _shades(s, look, face)
  if look.beard:
    _beard(s, look, face)
  _nose(s, look)
  _hair_front(s, look, field)


def _shades(s: Sketch, look: Look, face: np.ndarray) -> None:
  """Sockets, cheeks, chin and forehead."""
  x, y, skin = s.x, s.y, look.skin
  inside = np.clip(0.5 - face / s.pixel, 0, 1)
  apart = EYE_X * look.spacing
  blush = mixed(skin, (0.93, 0.36, 0.33), 0.5)
  for side in (-1, 1):
    s.glow(0.30 * bell(x - side * apart, y - EYE_Y + 0.035, 0.12, 0.075) * inside, shaded(skin, 0.60))
    s.glow(0.55 * bell(x - side * 0.235, y - 0.135, 0.105, 0.075) * inside, blush)
    s.glow(0.22 * bell(x - side * 0.21 - 0.02 * look.light, y - 0.075, 0.07, 0.035) * inside, (1.0, 0.97, 0.93))
  s.glow(0.34 * bell(x, y - MOUTH_Y - 0.095, 0.10, 0.022) * inside, shaded(skin, 0.55))
  s.glow(0.26 * bell(x - 0.02 * look.light, y - 0.415, 0.09, 0.045) * inside, (1.0, 0.97, 0.93))
  s.glow(0.20 * bell(x - 0.08 * look.light, y + 0.26, 0.20, 0.10) * inside, (1.0, 0.97, 0.93))


def _nose(s: Sketch, look: Look) -> None:
  x, y, light = s.x, s.y, look.light
  skin = look.skin
  s.glow(0.50 * bell(x + 0.040 * light, y - 0.06, 0.026, 0.09), shaded(skin, 0.66))
  s.glow(0.62 * bell(x, y - 0.158, 0.062, 0.020), shaded(skin, 0.45))
  s.glow(0.38 * bell(x, y - 0.115, 0.055, 0.040), mixed(skin, (0.95, 0.45, 0.38), 0.35))
  for side in (-1, 1):
    s.paint(ellipse(x - side * 0.026, y - 0.150, 0.014, 0.009), shaded(skin, 0.32), 0.75)
  s.glow(0.55 * bell(x - 0.010 * light, y - 0.100, 0.022, 0.026), (1.0, 0.98, 0.95))
  s.glow(0.30 * bell(x - 0.012 * light, y - 0.0, 0.014, 0.08), (1.0, 0.98, 0.95))


def _beard(s: Sketch, look: Look, face: np.ndarray) -> None:
  x, y = s.x, s.y
  rim = np.clip((face_field(look, x, y) + 0.58) / 0.42, 0, 1)
  chin = np.clip((y - 0.335 - 0.3 * np.abs(x) * (np.abs(x) < 0.2)) / 0.07, 0, 1)
  lip = np.clip(1.5 * bell(x, y - 0.208, 0.15, 0.030), 0, 1)
  cover = np.maximum(np.maximum(rim, chin) * np.clip((y + 0.02) / 0.16, 0, 1), lip)
  mouth = 1 - np.clip(1.7 * bell(x, y - MOUTH_Y - 0.008, 0.15, 0.045), 0, 1)
  inside = np.clip(0.5 - face / s.pixel, 0, 1)
  s.glow(look.beard * cover * mouth * inside, shaded(look.hair, 0.9))


def strands(s: Sketch, look: Look, x: np.ndarray, y: np.ndarray, turn: float = 0.0) -> np.ndarray:
  """Hair [3, h, w]: strands that run down from the crown, with a band of sheen on the light's side."""
  angle = np.arctan2(x + np.float32(turn), -(y + 0.9))
  fine = 0.07 * np.sin(70 * angle + 3 * y) + 0.05 * np.sin(31 * angle - 5 * y)
  length = np.sqrt(x * x + (y + 0.05) ** 2)
  sheen = np.exp(-(((length - 0.47) / 0.055) ** 2)) * np.exp(-(((x / 0.4 - 0.5 * look.light) / 0.55) ** 2))
  lit = 0.92 + fine + 0.12 * look.light * x - 0.35 * np.maximum(y, 0)
  tone = tinted(look.hair, lit.astype(np.float32))
  glossy = np.asarray(mixed(look.hair, (1.0, 0.95, 0.86), 0.55), np.float32)[:, None, None]
  return tone + (0.62 * sheen * (y < 0.1))[None].astype(np.float32) * (glossy - tone)


def _hair_behind(s: Sketch, look: Look) -> bool:
  """Hair behind head and neck; says whether there is any."""
  x, y = s.x, s.y
  rx, ry = RX * look.width, RY * look.height
  edge: Colour = shaded(look.hair, 0.5)
  if look.style in ("long", "bob"):
    low, wide = (0.57, rx + 0.13) if look.style == "long" else (0.34, rx + 0.115)
    dome = levelled((np.abs(x) / wide) ** 2.1 + (np.abs(y + 0.01) / (ry + 0.10)) ** 2.1 - 1, s.scale)
    fall = rounded_box(x, y - low / 2, wide, low / 2 + 0.05, 0.16)
    hair = np.minimum(np.maximum(dome, y - 0.1), fall)
    s.paint(hair - 0.012, edge)
    s.paint(hair, 0.80 * strands(s, look, x, y))
  elif look.style == "bun":
    s.paint(ellipse(x, y + ry + 0.085, 0.172, 0.142), edge)
    s.paint(ellipse(x, y + ry + 0.085, 0.16, 0.13), strands(s, look, 2 * x, 2 * (y + ry + 0.1) - 0.3))
  elif look.style == "tail":
    tail = capsule(x, y, (-0.8 * look.light * rx, -0.25), (-0.62 * look.light, 0.34), 0.16, 0.07)
    s.paint(tail - 0.012, edge)
    s.paint(tail, strands(s, look, x, y, 0.3))
  elif look.style == "curly":
    for angle in np.linspace(-2.15, 2.15, 13):
      cx, cy = (rx + 0.05) * np.sin(angle), -(ry + 0.02) * np.cos(angle) * 0.95
      s.paint(ellipse(x - cx, y - cy, 0.135, 0.135), edge)
      s.paint(ellipse(x - cx, y - cy, 0.122, 0.122), strands(s, look, x, y, 0.2))
  return look.style in ("long", "bob", "bun", "tail", "curly")


def _hair_front(s: Sketch, look: Look, field: np.ndarray) -> None:
  x, y = s.x, s.y
  rx, ry = RX * look.width, RY * look.height
  if look.style == "bald":
    s.glow(0.6 * bell(x - 0.16 * look.light, y + 0.36, 0.10, 0.06) * (field < 0), (1.0, 0.98, 0.95))
    return
  if look.style == "cap":
    _cap(s, look, rx, ry)
    return
  puff = {"short": 0.045, "side": 0.06, "curly": 0.05}.get(look.style, 0.04)
  crown = levelled((np.abs(x) / (rx + puff)) ** 2.2 + (np.abs(y + 0.01) / (ry + puff + 0.01)) ** 2.2 - 1, s.scale)
  part = look.light * 0.14
  line = {
    "short": 0.285 + 0.05 * np.cos(5 * (x + 0.1)) - 0.9 * np.maximum(np.abs(x) - 0.27, 0),
    "side": 0.40
    - 0.42 * np.abs(x - part) * (1 + 0.25 * look.light * np.sign(x - part))
    - 1.0 * np.maximum(np.abs(x) - 0.29, 0),
    "long": 0.40 - 1.25 * (x - part) ** 2 - 1.4 * np.maximum(np.abs(x) - 0.30, 0),
    "bob": 0.245 + 0.02 * np.cos(40 * x) - 3.0 * np.maximum(np.abs(x) - 0.30, 0),
    "bun": 0.335 + 0.06 * np.cos(4 * x) - 1.0 * np.maximum(np.abs(x) - 0.28, 0),
    "tail": 0.34 - 0.35 * np.abs(x + part) + 0.05 - 0.9 * np.maximum(np.abs(x) - 0.3, 0),
  }.get(look.style, 0.30 + 0.035 * np.cos(26 * x) - 0.8 * np.maximum(np.abs(x) - 0.28, 0))
  front = levelled(y + line + 0.0 * x, s.scale)
  hair = np.maximum(crown, front)
  shadow = np.clip(0.5 - (front - 0.035) / 0.05, 0, 1) * (field < 0) * (crown < 0)
  s.glow(0.33 * shadow, shaded(look.skin, 0.5))
  s.paint(hair - 0.012, shaded(look.hair, 0.5))
  s.paint(hair, strands(s, look, x, y, 0.12 * look.light))


def _cap(s: Sketch, look: Look, rx: float, ry: float) -> None:
  x, y = s.x, s.y
  crown = levelled((np.abs(x) / (rx + 0.05)) ** 2.2 + (np.abs(y) / (ry + 0.06)) ** 2.2 - 1, s.scale)
  for side in (-1, 1):  # hair at the temples
    s.paint(ellipse(x - side * (rx - 0.02), y + 0.13, 0.045, 0.13), shaded(look.hair, 0.9))
  top = np.maximum(crown, y + 0.25)
  lit = 1.05 + 0.25 * look.light * x - 0.3 * np.abs(x) + 0.0 * y
  s.paint(top - 0.012, shaded(look.shirt, 0.45))
  s.paint(top, tinted(look.shirt, lit.astype(np.float32)))
  s.paint(np.maximum(top, np.abs(np.abs(x) - 0.16 - 0.2 * (y + 0.6)) - 0.007), shaded(look.shirt, 0.72))
  s.paint(ellipse(x, y + ry + 0.055, 0.035, 0.022), shaded(look.shirt, 0.7))
  brim = rounded_box(x - 0.10 * look.light, y + 0.245 - 0.35 * x * x, rx + 0.06, 0.05, 0.045)
  s.paint(brim - 0.012, shaded(look.shirt, 0.4))
  s.paint(brim, tinted(look.shirt, (0.78 - 1.2 * (y + 0.25) + 0.0 * x).astype(np.float32)))


def _glasses(s: Sketch, look: Look) -> None:
  x, y = np.abs(s.x), s.y - EYE_Y - 0.004
  apart = EYE_X * look.spacing + 0.004
  lens = rounded_box(x - apart, y, 0.132, 0.108, 0.085)
  rim = (0.13, 0.12, 0.14) if sum(look.skin) > 1.3 else (0.70, 0.58, 0.34)
  s.paint(lens, (0.85, 0.93, 1.0), 0.10)
  streak = np.maximum(lens + 0.02, np.abs((s.x - np.sign(s.x) * apart) + y + 0.05) - 0.016)
  s.paint(streak, (1.0, 1.0, 1.0), 0.22)
  s.paint(np.abs(lens) - 0.013, rim)
  s.paint(np.maximum(np.abs(y + 0.03) - 0.013, x - apart + 0.13), rim)
  s.paint(np.maximum(np.maximum(np.abs(y + 0.03) - 0.012, apart + 0.13 - x), x - 0.42), rim)
