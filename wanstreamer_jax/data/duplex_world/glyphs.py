"""A small stroke font of capital letters and digits, drawn by their distance.

A glyph stands in a box of 4 by 6 (y down; M, W and round letters are a little wider). Its strokes are separated by "|".
A stroke is a list of points "x,y" and arcs "@x,y,rx,ry,from,to" with angles in degrees: 0 is right and 90 is down.
"""

import functools

import numpy as np

GLYPHS = {
  "a": "0,6 2,0 4,6|0.8,3.9 3.2,3.9",
  "b": "0,0 @2.2,1.5,1.5,1.5,-90,90 0,3|0,3 @2.4,4.5,1.6,1.5,-90,90 0,6|0,0 0,6",
  "c": "@2.3,3,2.2,3,-42,-318",
  "d": "0,0 @1.4,3,2.6,3,-90,90 0,6|0,0 0,6",
  "e": "3.8,0 0,0 0,6 3.8,6|0,3 3.2,3",
  "f": "3.8,0 0,0 0,6|0,3 3.2,3",
  "g": "@2.2,3,2.2,3,-42,-360 2.4,3",
  "h": "0,0 0,6|4,0 4,6|0,3 4,3",
  "i": "2,0 2,6|0.7,0 3.3,0|0.7,6 3.3,6",
  "j": "1.4,0 3.6,0|3.2,0 @1.6,4.3,1.6,1.7,0,175",
  "k": "0,0 0,6|3.9,0 0,3.6|1.4,2.5 4,6",
  "l": "0,0 0,6 3.7,6",
  "m": "0,6 0,0 2.3,3.6 4.6,0 4.6,6",
  "n": "0,6 0,0 4,6 4,0",
  "o": "@2.3,3,2.3,3,0,360",
  "p": "0,6 0,0 @2.2,1.7,1.7,1.7,-90,90 0,3.4",
  "q": "@2.3,3,2.3,3,0,360|2.7,4.2 4.6,6.4",
  "r": "0,6 0,0 @2.2,1.7,1.7,1.7,-90,90 0,3.4|1.9,3.4 4,6",
  "s": "@2,1.5,1.8,1.5,-30,-270 @2,4.5,1.9,1.5,-90,150",
  "t": "0,0 4.2,0|2.1,0 2.1,6",
  "u": "0,0 @2,4,2,2,180,0 4,0",
  "v": "0,0 2,6 4,0",
  "w": "0,0 1.2,6 2.5,1.4 3.8,6 5,0",
  "x": "0,0 4,6|4,0 0,6",
  "y": "0,0 2,3.1 4,0|2,3.1 2,6",
  "z": "0,0 4,0 0,6 4,6",
  "0": "@2,3,1.7,3,0,360|2.8,1.7 1.2,4.3",
  "1": "0.6,1.4 2.2,0 2.2,6|0.7,6 3.7,6",
  "2": "@2,1.8,1.8,1.8,-170,30 0.1,6 4,6",
  "3": "@1.9,1.5,1.7,1.5,-150,90 @1.9,4.5,1.9,1.5,-90,150",
  "4": "3.1,6 3.1,0 0,4.2 4.3,4.2",
  "5": "3.7,0 0.6,0 0.4,2.7 @2,4.1,1.9,1.9,-130,145",
  "6": "@2,4.1,1.9,1.9,0,360|@3.6,4.1,3.5,4.1,-180,-102",
  "7": "0,0 4,0 1.5,6",
  "8": "@2,1.5,1.6,1.5,0,360|@2,4.5,1.9,1.5,0,360",
  "9": "@2,1.9,1.9,1.9,0,360|@0.4,1.9,3.5,4.1,0,78",
}


@functools.cache
def strokes(glyph: str) -> tuple[np.ndarray, ...]:
  """The strokes of a glyph as float32 [points, 2], its box centred at the origin, 1 high."""
  lines = [np.concatenate([_points(token) for token in stroke.split()]) for stroke in GLYPHS[glyph].split("|")]
  every = np.concatenate(lines)
  middle = (every.min(axis=0) + every.max(axis=0)) / 2
  return tuple(((line - middle) / 6).astype(np.float32) for line in lines)


def _points(token: str) -> np.ndarray:
  if not token.startswith("@"):
    return np.array([token.split(",")], np.float64)
  x, y, rx, ry, start, end = (float(value) for value in token[1:].split(","))
  angle = np.radians(np.linspace(start, end, 25))
  return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def glyph_distance(glyph: str, x: np.ndarray, y: np.ndarray, height: float) -> np.ndarray:
  """Distance to the lines of a letter or digit of this height, centred at the origin; x, y as in `faces.py`."""
  best: np.ndarray | None = None
  for line in strokes(glyph):
    for (ax, ay), (bx, by) in zip(line[:-1] * np.float32(height), line[1:] * np.float32(height)):
      dx, dy = bx - ax, by - ay
      along = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, np.float32(1e-9)), 0, 1)
      square = (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2
      best = square if best is None else np.minimum(best, square)
  assert best is not None
  return np.sqrt(best)
