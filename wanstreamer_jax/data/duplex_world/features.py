"""Eyes, brows and mouth, painted in every frame as distances.

Both eyes are painted at once: the face is folded along its middle.
"""

import dataclasses

import numpy as np

from wanstreamer_jax.data.duplex_world.lanes import Canvas, Window, lanes
from wanstreamer_jax.data.duplex_world.looks import Look
from wanstreamer_jax.data.duplex_world.portrait import CENTRE, EYE_X, EYE_Y, MOUTH_Y, RX, RY
from wanstreamer_jax.data.duplex_world.sprites import mixed, shaded

Pose = dict[str, np.ndarray]  # float32 [T, 1, 1] by track
YAW, PITCH, JAW = 0.085, 0.04, 0.045  # how far the middle of the face moves at a full turn, nod and open mouth
DARK, WHITE = lanes((0.10, 0.06, 0.06)), lanes((0.97, 0.97, 0.96))
THROAT, TEETH, TONGUE = lanes((0.22, 0.03, 0.05)), lanes((0.97, 0.96, 0.93)), lanes((0.84, 0.38, 0.40))


@dataclasses.dataclass(frozen=True)
class Head:
  """Where a head is in each frame: float32 [T, 1, 1] each. `x`, `y`: the middle of the face in the picture."""

  x: np.ndarray
  y: np.ndarray
  cos: np.ndarray
  sin: np.ndarray
  yaw: np.ndarray
  pitch: np.ndarray
  jaw: np.ndarray

  @classmethod
  def of(cls, pose: Pose, lean: np.ndarray, duck: np.ndarray) -> "Head":
    angle = np.float32(0.1) * pose["tilt"] + np.float32(0.5) * lean
    opening = np.maximum(pose["mouth"], np.float32(0.5) * pose["surprise"])
    return cls(
      x=np.float32(0.045) * pose["sway"] + np.float32(0.03) * pose["turn"] + lean,
      y=np.float32(CENTRE) + np.float32(0.045) * pose["nod"] + duck,
      cos=1 - np.float32(0.5) * angle * angle,
      sin=angle - angle * angle * angle * np.float32(1 / 6),
      yaw=np.float32(YAW) * pose["turn"],
      pitch=np.float32(PITCH) * pose["nod"],
      jaw=np.float32(JAW) * opening,
    )

  def coordinates(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The window's pixels in the head's own frame."""
    x, y = window.x - self.x, window.y - self.y
    return self.cos * x + self.sin * y, self.cos * y - self.sin * x

  def reach(self, canvas: Canvas, top: float, bottom: float, left: float, right: float) -> Window:
    """A window for a part of the head that is inside these bounds while the head is straight."""
    slack = float(np.abs(self.sin).max()) * max(abs(top), abs(bottom), abs(left), abs(right))
    low, high = float((self.x + self.yaw).min()), float((self.x + self.yaw).max())
    up, down = float((self.y + self.pitch).min()), float((self.y + self.pitch).max())
    low, high = min(low, float(self.x.min())), max(high, float(self.x.max()))
    up, down = min(up, float(self.y.min())), max(down, float(self.y.max()))
    return canvas.window(up + top - slack, down + bottom + slack, low + left - slack, high + right + slack)


def depth(look: Look, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """How far a point of the face moves when the head turns, 0 at its edge to 1 in its middle."""
  return 1 - (x / np.float32(RX * look.width)) ** 2 - (y / np.float32(RY * look.height)) ** 2


def _cell(value: float) -> np.ndarray:
  return np.full((1, 1, 1), value, np.float32)


def paint_eyes(canvas: Canvas, look: Look, head: Head, pose: Pose) -> None:
  """Eyes with lids, gaze and highlights, and brows."""
  window = head.reach(canvas, -0.46, 0.14, -0.42, 0.42)
  apart = EYE_X * look.spacing
  deep = depth(look, _cell(apart), _cell(EYE_Y))
  x, y = head.coordinates(window)
  x = x - head.yaw * deep
  y = y - head.pitch * deep - np.float32(EYE_Y)
  side = np.sign(x)
  ex = (np.abs(x) - np.float32(apart)) * (1 + side * head.yaw * np.float32(2.2))  # the far eye is narrower
  smile, surprise, blink = pose["smile"], pose["surprise"], pose["blink"]
  curve = 1 - np.square(ex * np.float32(1 / 0.092))
  low = np.float32(0.046) * (1 - np.float32(0.4) * smile + np.float32(0.1) * surprise)
  high = np.float32(0.064) * (1 + np.float32(0.35) * surprise - np.float32(0.10) * smile + 0.1 * pose["brow"])
  upper = (blink * (low * np.float32(0.9) + high) - high) * curve
  white = np.maximum(upper - y, y - low * curve) * np.float32(0.85)
  window.paint(white, WHITE)
  gx = ex - np.float32(0.036) * pose["gaze_x"] * side
  gy = y - np.float32(0.026) * pose["gaze_y"]
  far = np.sqrt(gx * gx + gy * gy)
  window.paint(np.maximum(far - np.float32(0.053), white), lanes(shaded(look.eyes, 0.45)))
  window.paint(np.maximum(far - np.float32(0.043), white), lanes(mixed(look.eyes, (1.0, 1.0, 1.0), 0.08)))
  window.paint(np.maximum(far - np.float32(0.024), white), DARK)
  lid = np.maximum(np.abs(y - upper) - np.float32(0.013), np.abs(ex) - np.float32(0.094))
  glint = np.sqrt(np.square(gx * side + np.float32(0.018)) + np.square(gy + np.float32(0.020))) - np.float32(0.014)
  window.paint(np.maximum(glint, white), WHITE, 0.95)
  window.paint(lid, lanes(mixed((0.10, 0.06, 0.06), look.hair, 0.15)))
  raised = np.float32(0.128) + np.float32(0.028) * pose["brow"] + np.float32(0.075) * surprise
  across = ex * np.float32(1 / 0.105)
  arch = np.float32(0.030) * (1 - np.square(across - np.float32(0.15)))
  thick = np.float32(0.021 * look.brows) * (1 - np.float32(0.45) * across)
  brow = np.maximum(np.abs(y + raised + arch) - thick, np.abs(across) * np.float32(0.105) - np.float32(0.100))
  window.paint(brow, lanes(shaded(mixed(look.hair, look.skin, 0.12), 0.72)))


def paint_mouth(canvas: Canvas, look: Look, head: Head, pose: Pose) -> None:
  """Lips, teeth and tongue."""
  window = head.reach(canvas, MOUTH_Y - 0.20, MOUTH_Y + 0.26, -0.31, 0.31)
  deep = depth(look, _cell(0), _cell(MOUTH_Y))
  x, y = head.coordinates(window)
  x = x - head.yaw * deep
  y = y - head.pitch * deep - np.float32(MOUTH_Y)
  smile, surprise, tongue, bite = (pose[name] for name in ("smile", "surprise", "tongue", "bite"))
  opening = np.maximum(pose["mouth"], np.float32(0.72) * surprise)
  opening = np.maximum(opening, np.float32(0.34) * smile) + np.float32(0.14) * tongue
  rounding = np.maximum(pose["mouth_round"], np.float32(0.9) * surprise)
  spread = pose["mouth_width"] * (1 - surprise)
  half = (np.float32(0.112) + np.float32(0.052) * spread) * (1 - np.float32(0.42) * rounding)
  half = half + np.float32(0.046) * smile + np.float32(0.012) * surprise
  across = x / half
  bow = np.maximum(1 - across * across, 0)
  fullness = np.clip(np.float32(0.25) + np.float32(0.5) * rounding + np.float32(0.3) * opening, 0, 1)
  curve = bow + fullness * (np.sqrt(bow) - bow)
  middle = -(np.float32(0.019) + np.float32(0.046) * smile) * np.square(np.minimum(np.abs(across), np.float32(1.3)))
  middle = middle + np.float32(0.022) * smile
  top = middle - (np.float32(0.003) + np.float32(0.042) * opening) * curve
  bottom = middle + (np.float32(0.004) + np.float32(0.112) * opening) * curve
  dent = np.maximum(1 - np.abs(across) * np.float32(4), 0) * (1 - rounding)
  cupid = np.float32(0.030) - np.float32(0.010) * dent
  thin = (1 - np.float32(0.30) * smile) * np.sqrt(np.maximum(1 - np.square(across * np.float32(0.90)), 0))
  lips = np.maximum(top - cupid * thin - y, y - bottom - np.float32(0.040) * thin)
  lips = np.maximum(lips, (np.abs(across) - np.float32(1.10)) * half)
  window.paint(lips - np.float32(0.007), lanes(shaded(mixed(look.lips, look.skin, 0.25), 0.62)), 0.6)
  window.paint(lips, lanes(shaded(look.lips, 0.86)))
  window.paint(np.maximum(lips, middle - y), lanes(look.lips))
  shine = np.square(x * np.float32(1 / 0.055)) + np.square((y - bottom - np.float32(0.018)) * np.float32(1 / 0.011))
  window.paint((shine - 1) * np.float32(0.008), lanes(mixed(look.lips, (1.0, 0.9, 0.88), 0.6)), 0.55)
  inside = np.maximum(np.maximum(top - y, y - bottom), (np.abs(across) - 1) * half)
  window.paint(inside, THROAT)
  gap = np.float32(0.112) * opening
  lift = np.float32(0.75) * tongue
  ty = y - middle - gap * (np.float32(1.0) - lift)
  wide, tall = half * np.float32(0.62), np.float32(0.006) + gap * np.float32(0.36) + np.float32(0.008) * tongue
  body = np.sqrt(np.square(x / wide) + np.square(ty / tall)) - 1
  window.paint(np.maximum(body * tall, inside), TONGUE, np.clip(opening * 4 - np.float32(1.4) + 3 * tongue, 0, 1))
  edge = y - top - np.float32(0.024) - np.float32(0.2) * np.square(x)
  teeth = np.maximum(np.maximum(inside, edge), np.abs(x) - half * np.float32(0.80))
  shown = np.clip(opening * 5 - np.float32(0.3), 0, 1) * (1 - np.float32(0.7) * tongue)
  window.paint(teeth, TEETH, shown * (1 - np.float32(0.8) * rounding * rounding))
  lower = np.maximum(np.maximum(inside, bottom - np.float32(0.018) - y), np.abs(x) - half * np.float32(0.6))
  window.paint(lower, TEETH, np.float32(0.35) * np.clip(opening * 4 - np.float32(2.6), 0, 1))
  biting = np.maximum(np.abs(y - middle - np.float32(0.012)) - np.float32(0.016), np.abs(x) - half * np.float32(0.72))
  window.paint(biting, TEETH, bite)
