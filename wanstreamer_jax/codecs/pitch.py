"""Estimates pitch by autocorrelation (Boersma 1993), for the audio encoder and its loss. The encoder reads it as an
input; the decoder's pitch is trained towards it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

OCTAVE_COST = 0.1  # correlation per octave of period: of equally good periods the shortest wins
SHARPNESS = 80.0  # factor of the scores inside the softmax


def lag_range(hop: int) -> tuple[int, int]:
  """Shortest and longest period in samples: 5.3 cycles and half a cycle per hop (50 to 530 Hz at 10 ms)."""
  return int(hop / 5.3), 2 * hop


def autocorrelation(
  frames: Float[Array, "T N"], window: np.ndarray, max_lag: int
) -> tuple[Float[Array, "T L"], Float[Array, "T"]]:
  """Autocorrelation at lags 0 .. max_lag + 1, normalised and divided by the window's own, and the frames' RMS level."""
  size = 1 << (frames.shape[-1] + max_lag).bit_length()
  frames = (frames - frames.mean(axis=-1, keepdims=True)) * window
  spectrum = jnp.fft.rfft(frames, size)
  correlation = jnp.fft.irfft(jnp.square(spectrum.real) + jnp.square(spectrum.imag))[:, : max_lag + 2]
  own = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)[: max_lag + 2]
  level = jnp.sqrt(jnp.mean(jnp.square(frames), axis=-1))
  return correlation / (correlation[:, :1] + 1e-5) * (own[0] / own).astype(np.float32), level


def scores(correlation: Float[Array, "T L"], hop: int) -> Float[Array, "T L"]:
  """How good a period each lag is; -inf out of range."""
  min_lag, max_lag = lag_range(hop)
  lags = np.arange(correlation.shape[-1])
  cost = np.where((lags >= min_lag) & (lags <= max_lag), -OCTAVE_COST * np.log2(np.maximum(lags, 1)), -np.inf)
  return correlation + cost.astype(np.float32)


def soft_pitch(frames: Float[Array, "T N"], window: np.ndarray, hop: int) -> Float[Array, "T 2"]:
  """log2 of cycles per hop, and the correlation there (near 1 is voiced). Continuous in the input, no gradient."""
  correlation, _ = autocorrelation(frames, window, lag_range(hop)[1])
  weights = jax.nn.softmax(SHARPNESS * scores(correlation, hop), axis=-1)
  cycles = np.log2(hop / np.maximum(np.arange(correlation.shape[-1]), 1)).astype(np.float32)
  return jax.lax.stop_gradient(jnp.stack([weights @ cycles, jnp.sum(weights * correlation, axis=-1)], axis=-1))


def track(x: Float[Array, "S"], hop: int) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
  """Cycles per hop around the end of each frame of `hop` samples, and 1.0 where voiced. Not causal: for losses.

  Windows of 6 hops reach one hop past the frame's end; peaks are refined by a parabola.
  """
  size = 6 * hop
  past = jnp.pad(x, (size - 2 * hop, hop))
  frames = jnp.concatenate([past.reshape(-1, hop)[i : i + x.shape[0] // hop] for i in range(6)], axis=-1)
  correlation, level = autocorrelation(frames, np.hanning(size + 2)[1:-1].astype(np.float32), lag_range(hop)[1])
  best = jnp.argmax(scores(correlation, hop), axis=-1)
  left, middle, right = (jnp.take_along_axis(correlation, (best + i)[:, None], 1)[:, 0] for i in (-1, 0, 1))
  bend = left - 2 * middle + right
  lag = best + jnp.where(bend < -1e-6, jnp.clip(0.5 * (left - right) / bend, -0.5, 0.5), 0.0)
  voiced = (middle > 0.75) & (level > 1e-3)
  return jax.lax.stop_gradient((hop / lag, voiced.astype(jnp.float32)))
