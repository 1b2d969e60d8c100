"""Measures loudness, and defines the one level above which somebody counts as speaking."""

import numpy as np

LOUD = -42.0  # dBFS over a unit or a shorter piece: above it somebody speaks
FAINT = LOUD - 8.0  # dBFS: what is quieter is no louder than this beside a mouth that moves
SILENCE = -96.0  # dBFS, the floor of every level


def levels(audio: np.ndarray, parts: int) -> np.ndarray:
  """Level of each of `parts` equal parts of float samples [S]: 10 log10 of the mean power, in dBFS (a full-scale
  square wave is 0), not below SILENCE: [parts]."""
  power = np.square(audio.astype(np.float64)).reshape(parts, -1).mean(axis=1)
  return np.maximum(10 * np.log10(power + 1e-12), SILENCE)


def level(audio: np.ndarray) -> float:
  """The level of float samples [S] as one number, in dBFS."""
  return float(levels(audio, 1)[0])


def is_loud(audio: np.ndarray) -> bool:
  """Whether a unit's sound is more than background: the derived "speaking" of a side."""
  return level(audio) > LOUD
