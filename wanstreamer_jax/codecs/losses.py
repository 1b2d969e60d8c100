"""Distances between media and their reconstructions, smooth enough to train on. They are pure functions, unbatched.

Video [T, H, W, 3] and audio [S] are in [-1, 1].
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wanstreamer_jax.codecs.posterior import Posterior
from wanstreamer_jax.nn.mel import mel_filterbank, power_spectrum, sine_window

STFT_SIZES = (256, 512, 1024, 2048)
MEL_SIZE, MEL_BINS = 1024, 80
STRUCTURE_SCALES, STRUCTURE_WINDOW = 3, 7


def charbonnier(
  difference: Float[Array, "..."], weights: Float[Array, "..."] | float = 1.0, epsilon: float = 1e-2
) -> Float[Array, ""]:
  """Mean absolute value, smooth at zero: sqrt(d^2 + eps^2) - eps. Weights are broadcast."""
  return jnp.mean(weights * (jnp.sqrt(jnp.square(difference) + epsilon**2) - epsilon))


def motion_weights(video: Float[Array, "T H W C"], strength: float) -> Float[Array, "H W 1"]:
  """Weights of mean 1 that grow with how much a pixel changes during the clip.

  A mouth is 1 % of a face's pixels: without these weights, a codec that never opens it would lose hardly anything.
  """
  change = jnp.max(jnp.max(video, axis=0) - jnp.min(video, axis=0), axis=-1, keepdims=True)
  weights = 1.0 + strength * change
  return weights / jnp.mean(weights)


def kl(posterior: Posterior) -> Float[Array, ""]:
  """Mean divergence from N(0, 1), in nats per latent number."""
  mean, logvar = posterior
  return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - logvar - 1.0)


def edge_loss(x: Float[Array, "T H W C"], y: Float[Array, "T H W C"]) -> Float[Array, ""]:
  """Charbonnier distance of neighbour differences down, across and over time: keeps outlines and motion sharp."""
  difference = x - y
  return sum((charbonnier(jnp.diff(difference, axis=axis)) for axis in (0, 1, 2)), jnp.float32(0.0))


def structure_loss(x: Float[Array, "T H W C"], y: Float[Array, "T H W C"]) -> Float[Array, ""]:
  """1 - SSIM (Wang et al. 2004), averaged over STRUCTURE_SCALES resolutions: looks alike rather than is equal.

  Windows of 7x7 pixels, uniform, at every place; each scale has half the resolution of the one before, as long as a
  window fits. 0 for equal clips, at most 2.
  """
  total, scales = jnp.float32(0.0), 0
  while scales < STRUCTURE_SCALES and min(x.shape[1:3]) >= STRUCTURE_WINDOW:
    total, scales = total + 1 - jnp.mean(_ssim(x, y)), scales + 1
    x, y = _halved(x), _halved(y)
  return total / max(scales, 1)


def _ssim(x: Float[Array, "T H W C"], y: Float[Array, "T H W C"]) -> Float[Array, "T h w C"]:
  """Structural similarity at every place; the constants of the paper for values from -1 to 1."""
  c1, c2 = 0.02**2, 0.06**2
  means = _local_mean(jnp.concatenate([x, y, x * x, y * y, x * y], axis=-1))
  mean_x, mean_y, square_x, square_y, product = jnp.split(means, 5, axis=-1)
  dx, dy = square_x - mean_x**2, square_y - mean_y**2
  both = product - mean_x * mean_y
  return (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (dx + dy + c2))


def _local_mean(x: Float[Array, "T H W C"]) -> Float[Array, "T h w C"]:
  """Means of windows of STRUCTURE_WINDOW x STRUCTURE_WINDOW pixels, by a banded matrix down and one across.

  On a CPU that is three times faster than sums of shifted pictures, and ten times faster than a convolution.
  """
  down, across = (_window_means(size) for size in x.shape[1:3])
  return jnp.einsum("jw,thwc->thjc", across, jnp.einsum("ih,thwc->tiwc", down, x))


def _window_means(size: int) -> np.ndarray:
  """[size - STRUCTURE_WINDOW + 1, size]: row i takes the mean of the window that starts at i."""
  starts, places = np.arange(size - STRUCTURE_WINDOW + 1)[:, None], np.arange(size)
  inside = (places >= starts) & (places < starts + STRUCTURE_WINDOW)
  return inside.astype(np.float32) / STRUCTURE_WINDOW


def _halved(x: Float[Array, "T H W C"]) -> Float[Array, "T h w C"]:
  """Means of 2x2 pixels; an odd last row or column is left out."""
  frames, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(frames, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def in_step(original: Float[Array, "S"], decoded: Float[Array, "S"], delay: int) -> tuple[Array, Array]:
  """Both without the samples that have no counterpart: decoded sound is `delay` samples late. [S - delay] each."""
  return original[: original.shape[0] - delay], decoded[delay:]


def magnitudes(x: Float[Array, "S"], size: int) -> Float[Array, "T F"]:
  """STFT magnitudes, a sine having its amplitude: Hann windows of `size`, hop size / 4, whole windows only."""
  hop = size // 4
  x = x[: x.shape[0] // hop * hop].reshape(-1, hop)
  frames = jnp.concatenate([x[i : x.shape[0] - 3 + i] for i in range(4)], axis=-1)
  return jnp.sqrt(power_spectrum(frames, sine_window(size)) + 1e-12)


def log_magnitude(magnitude: Float[Array, "..."]) -> Float[Array, "..."]:
  """Natural logarithm with a soft floor at -80 dB of full scale, below which nothing is audible."""
  return jnp.log(magnitude + 1e-4)


def stft_loss(x: Float[Array, "S"], y: Float[Array, "S"], sizes: tuple[int, ...] = STFT_SIZES) -> Float[Array, ""]:
  """Multi-resolution STFT distance of reconstruction y from x: log-magnitude L1 plus relative linear L1.

  Source: Parallel WaveGAN (arXiv 1910.11480); L1 in place of the Frobenius norm. Sizes longer than x are left out.
  """
  total, used = jnp.float32(0.0), [size for size in sizes if size <= x.shape[0]]
  for size in used:
    a, b = magnitudes(x, size), magnitudes(y, size)
    relative = jnp.sum(jnp.abs(a - b)) / (jnp.sum(a) + 1e-3 * a.size)
    total += jnp.mean(jnp.abs(log_magnitude(a) - log_magnitude(b))) + relative
  return total / len(used)


def mel_distance(x: Float[Array, "S"], y: Float[Array, "S"], sample_rate: int) -> Float[Array, ""]:
  """Mean absolute difference of the logarithms of mel-weighted magnitudes, in nats (1 nat is 8.7 dB).

  Windows of 1024 samples every 256. Magnitudes and a soft floor, not the clipped powers of `nn.mel.log_mel`: those have
  no gradient in silence.
  """
  bank = mel_filterbank(MEL_SIZE, MEL_BINS, sample_rate)
  a, b = (log_magnitude(magnitudes(audio, MEL_SIZE) @ bank) for audio in (x, y))
  return jnp.mean(jnp.abs(a - b))
