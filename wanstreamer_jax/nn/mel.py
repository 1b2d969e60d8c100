"""Power spectra and the mel scale, for perception, codecs, codec losses and metrics.

Frames may be NumPy arrays (metrics: float64, and pieces of any length without a compilation for each) or JAX arrays.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.nn.backend import platform

LONGEST_PRODUCT = 1024  # samples; longer frames, of losses alone, are transformed fast


def sine_window(size: int, dtype: Any = np.float32) -> np.ndarray:
  """[size]: a periodic Hann window, scaled so that a sine has its own amplitude as magnitude in its bin."""
  window = np.hanning(size + 1)[:-1].astype(dtype)
  return 2 * window / window.sum()


def power_spectrum(frames: Any, window: np.ndarray) -> Any:
  """Squared magnitudes of windowed frames: [..., T, N] and [N] -> [..., T, N / 2 + 1].

  On a CPU short frames are multiplied with sines and cosines: two programs whose FFTs run at once can wait for each
  other's threads for ever (jaxlib 0.11.2 on two cores), and encoding runs beside training.
  """
  if isinstance(frames, np.ndarray):
    exact = np.fft.rfft(frames * window)
    return np.square(exact.real) + np.square(exact.imag)
  if platform() == "cpu" and len(window) <= LONGEST_PRODUCT:
    both = jnp.square(frames @ (window[:, None] * _sinusoids(len(window))).astype(frames.dtype))
    cosines, sines = jnp.split(both, 2, axis=-1)
    return cosines + sines
  spectrum = jnp.fft.rfft(frames * window)
  return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


@functools.cache
def _sinusoids(size: int) -> np.ndarray:
  """The real and the imaginary part of a Fourier transform as one matrix: [N, 2 (N / 2 + 1)]."""
  angles = 2 * np.pi * (np.outer(np.arange(size), np.arange(size // 2 + 1)) % size) / size
  return np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)


def log_mel(power: Any, bank: np.ndarray, floor: float) -> Any:
  """log10 of the power in each bin of a `mel_filterbank`, not below that of `floor`: [..., T, F] -> [..., T, bins]."""
  xp = np if isinstance(power, np.ndarray) else jnp
  return xp.log10(xp.maximum(power @ bank, floor))


@functools.cache
def mel_filterbank(size: int, bins: int, sample_rate: int) -> np.ndarray:
  """[size / 2 + 1, bins] triangles on the mel scale (HTK formula) from 0 to half the rate; each column sums to 1."""
  top = 2595 * np.log10(1 + sample_rate / 2 / 700)  # mel
  points = 700 * (10 ** (np.linspace(0, top, bins + 2) / 2595) - 1)  # Hz: corners of the triangles
  spacing = sample_rate / size
  points = np.maximum.accumulate(np.maximum(points, np.arange(bins + 2) * 0.5 * spacing))  # no empty triangles
  frequency = np.arange(size // 2 + 1) * spacing
  rise = (frequency[:, None] - points[None, :-2]) / np.maximum(points[1:-1] - points[:-2], spacing * 0.5)
  fall = (points[None, 2:] - frequency[:, None]) / np.maximum(points[2:] - points[1:-1], spacing * 0.5)
  bank = np.maximum(np.minimum(rise, fall), 0)
  return (bank / np.maximum(bank.sum(axis=0), 1e-9)).astype(np.float32)
