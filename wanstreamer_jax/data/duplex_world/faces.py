"""Draws people at any size. A picture is a pure function of (look, tracks, hands, size).

What keeps its form is drawn once for a look and a size (`portrait.py`, `hands.py`) and then moved, turned and bent as a
sprite; eyes, brows and mouth are painted in every frame (`features.py`). Coordinates are those of `lanes.py`.
"""

from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world.features import Head, Pose, depth, paint_eyes, paint_mouth
from wanstreamer_jax.data.duplex_world.hands import stamp_gesture, stamp_held
from wanstreamer_jax.data.duplex_world.lanes import Canvas, Sprite
from wanstreamer_jax.data.duplex_world.looks import Look, random_look
from wanstreamer_jax.data.duplex_world.portrait import BODY_BOUNDS, Parts, parts
from wanstreamer_jax.data.duplex_world.things import Held, Raised

__all__ = ["TRACKS", "Look", "draw", "random_look", "still_tracks"]

TRACKS = (
  "mouth", "mouth_width", "mouth_round", "tongue", "bite", "smile", "surprise", "gaze_x", "gaze_y", "blink", "brow",
  "nod", "turn", "sway", "tilt", "held", "wave", "thumb",
)  # fmt: skip
CHUNK_PIXELS = 32768  # of the frames that are drawn at once, so that they stay in a core's cache
LEAN, DUCK = 0.10, 0.09  # how far the head gives way to what is held beside and above it


def still_tracks(frames: int) -> dict[str, np.ndarray]:
  """Tracks of a person who looks at the camera and does nothing: float32 [frames] each."""
  tracks = {name: np.zeros(frames, np.float32) for name in TRACKS}
  tracks["mouth_width"] += 0.5
  return tracks


def draw(
  look: Look, tracks: dict[str, np.ndarray], hands: Sequence[Sequence[Raised]], height: int = 64, width: int = 64
) -> np.ndarray:
  """A clip uint8 [frames, height, width, 3]. tracks: float [frames] by name, -1 to 1; hands: those up in each frame."""
  frames = len(hands)
  clip = np.empty((frames, height, width, 3), np.uint8)
  drawn = parts(look, height, width)
  chunk = max(1, CHUNK_PIXELS // (height * width))
  for start in range(0, frames, chunk):
    part = slice(start, min(start + chunk, frames))
    canvas = Canvas(part.stop - part.start, height, width)
    pose = {name: np.clip(track[part], -1, 1).astype(np.float32)[:, None, None] for name, track in tracks.items()}
    _draw(canvas, look, drawn, pose, hands[part])
    canvas.rgb(clip[part])
  return clip


def _draw(canvas: Canvas, look: Look, drawn: Parts, pose: Pose, hands: Sequence[Sequence[Raised]]) -> None:
  """One chunk: wall, hair behind, body, head, face, hands."""
  found = sorted({(hand.what, hand.place) for frame in hands for hand in frame}, key=str)  # the same in every chunk
  levels = {key: _per_frame(hands, key, "level") for key in found}
  lean: np.ndarray = np.zeros((len(hands), 1, 1), np.float32)
  duck: np.ndarray = np.zeros((len(hands), 1, 1), np.float32)
  for (what, place), level in levels.items():
    if isinstance(what, Held):
      lean = lean + np.float32({"left": LEAN, "right": -LEAN, "up": 0.0}[place]) * level
      duck = np.maximum(duck, np.float32(DUCK) * level) if place == "up" else duck
  head = Head.of(pose, lean, duck)
  canvas.image[:] = drawn.wall
  if drawn.behind is not None:
    _stamp_head(canvas, look, drawn.behind, head, flat=True)
  top, bottom, left, right = BODY_BOUNDS
  body = canvas.window(top, bottom, left - 0.2, right + 0.2)
  shape = (len(hands), len(body.y), body.x.shape[1])
  shift = np.float32(0.022) * pose["sway"] + np.float32(0.6) * lean
  body.stamp(drawn.body, np.broadcast_to(body.x - shift, shape), np.broadcast_to(body.y, shape))
  _stamp_head(canvas, look, drawn.head, head)
  paint_eyes(canvas, look, head, pose)
  paint_mouth(canvas, look, head, pose)
  if drawn.glasses is not None:
    _stamp_head(canvas, look, drawn.glasses, head)
  for (what, place), level in levels.items():
    if isinstance(what, Held):
      stamp_held(canvas, look, what, level)
    else:
      stamp_gesture(canvas, look, what, place, level, _per_frame(hands, (what, place), "swing"))


def _per_frame(hands: Sequence[Sequence[Raised]], key: tuple[Held | str, str], name: str) -> np.ndarray:
  """float32 [T, 1, 1]: a number of the hand of each frame, 0 where it is not up."""
  values = [max((getattr(h, name) for h in frame if (h.what, h.place) == key), key=abs, default=0.0) for frame in hands]
  return np.array(values, np.float32)[:, None, None]


def _stamp_head(canvas: Canvas, look: Look, sprite: Sprite, head: Head, *, flat: bool = False) -> None:
  """Moves, turns and bends a part of the head. flat: what is behind the head, which moves against its turns."""
  right, bottom = sprite.left + (sprite.width - 1) / sprite.scale, sprite.top + (sprite.height - 1) / sprite.scale
  window = head.reach(canvas, sprite.top, bottom, sprite.left, right)
  x, y = head.coordinates(window)
  if flat:
    window.stamp(sprite, x + np.float32(0.3) * head.yaw, y)
    return
  deep = np.maximum(depth(look, x, y), 0)
  chin = np.clip((y - np.float32(0.20)) * np.float32(1 / 0.28), 0, 1)
  x -= head.yaw * deep
  y -= head.pitch * deep
  chin *= head.jaw
  y -= chin
  window.stamp(sprite, x, y)
