"""The mel scale, for perception, codec losses and metrics."""

import functools

import numpy as np


@functools.cache
def mel_filterbank(size: int, bins: int, sample_rate: int) -> np.ndarray:
  """[size / 2 + 1, bins] triangles on the mel scale (HTK formula) from 0 to half the rate; each column sums to 1."""
  to_mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)
  to_hertz = lambda mel: 700 * (10 ** (mel / 2595) - 1)
  points = to_hertz(np.linspace(0, to_mel(sample_rate / 2), bins + 2))
  spacing = sample_rate / size
  points = np.maximum.accumulate(np.maximum(points, np.arange(bins + 2) * 0.5 * spacing))  # no empty triangles
  frequency = np.arange(size // 2 + 1) * spacing
  rise = (frequency[:, None] - points[None, :-2]) / np.maximum(points[1:-1] - points[:-2], spacing * 0.5)
  fall = (points[None, 2:] - frequency[:, None]) / np.maximum(points[2:] - points[1:-1], spacing * 0.5)
  bank = np.maximum(np.minimum(rise, fall), 0)
  return (bank / np.maximum(bank.sum(axis=0), 1e-9)).astype(np.float32)
