"""What all codecs share: a Gaussian posterior and standardised latents.

The standardisation is measured after training, or stated by the folder that a codec is imported from.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

Codec = TypeVar("Codec", bound=nnx.Module)
LEAST_RESIDUAL = 0.1  # the flow loss weighs an error of the mean by up to 1 / (4 residual^2)
START_LOGVAR = -8.0  # at initialisation; with unit noise a decoder would first learn to ignore its latents


class Posterior(NamedTuple):
  """A diagonal Gaussian per latent, in standardised units."""

  mean: Float[Array, "... Z"]
  logvar: Float[Array, "... Z"]

  def sample(self, key: jax.Array) -> Float[Array, "... Z"]:
    return self.mean + jnp.exp(0.5 * self.logvar) * jax.random.normal(key, self.mean.shape)


class Standardisation(nnx.Module):
  """Per-channel mean and deviation of a trained codec's latents. Constants, not weights: no gradient reaches them.

  residual_std: what the past leaves unknown of a standardised latent (`residual_std`); 0 where it was not measured, as
  in codecs that were trained before it was. The velocity heads use it (flow.velocity_from_mean), no codec does.
  """

  def __init__(self, channels: int):
    self.latent_mean = nnx.Param(jnp.zeros(channels))
    self.latent_std = nnx.Param(jnp.ones(channels))
    self.residual_std = nnx.Param(jnp.zeros(channels))

  def constants(self) -> tuple[Float[Array, "Z"], Float[Array, "Z"]]:
    return jax.lax.stop_gradient((self.latent_mean[...], self.latent_std[...]))

  def normalise(self, mean: Float[Array, "... Z"], logvar: Float[Array, "... Z"]) -> Posterior:
    """Raw posterior parameters to standardised ones; logvar is clipped to [-20, 4]."""
    center, scale = self.constants()
    logvar = jnp.clip(logvar + START_LOGVAR, -20.0, 4.0)
    return Posterior((mean - center) / scale, logvar - 2 * jnp.log(scale))

  def restore(self, latents: Float[Array, "... Z"]) -> Float[Array, "... Z"]:
    center, scale = self.constants()
    return latents * scale + center


def calibrate(codec: Codec, means: Float[Array, "B T ... Z"], lag: int) -> Codec:
  """A copy of the codec whose latents are standardised over `means`, posterior means that this codec returned.

  B clips of T consecutive latent frames; lag: latent frames per unit, for `residual_std`.
  """
  copy: Any = jax.tree.map(lambda leaf: leaf, codec)
  center, scale = copy.standard.constants()
  flat = means.reshape(-1, means.shape[-1])
  mean, deviation = flat.mean(axis=0), jnp.maximum(flat.std(axis=0), 1e-4)
  copy.standard.latent_mean = nnx.Param(center + scale * mean)
  copy.standard.latent_std = nnx.Param(scale * deviation)
  copy.standard.residual_std = nnx.Param(jnp.asarray(residual_std(np.asarray((means - mean) / deviation), lag)))
  return copy


def residual_std(latents: np.ndarray, lag: int) -> np.ndarray:
  """Deviation of what the best linear prediction from the same place of the previous unit leaves: float32 [Z].

  latents: standardised, [B, T, ..., Z], where axes between time and channels are places; a channel is predicted from
  all channels of its place `lag` frames before. Not below LEAST_RESIDUAL, and at most 1. Zeros (not measured) where
  there are fewer than two examples per coefficient.
  """
  channels = latents.shape[-1]
  before, now = (part.reshape(-1, channels).astype(np.float64) for part in (latents[:, :-lag], latents[:, lag:]))
  coefficients = channels + 1
  if len(now) < 2 * coefficients:
    return np.zeros(channels, np.float32)
  inputs = np.concatenate([before, np.ones((len(before), 1))], axis=1)
  left = now - inputs @ np.linalg.lstsq(inputs, now, rcond=None)[0]
  deviation = np.sqrt(np.sum(np.square(left), axis=0) / (len(now) - coefficients))
  return np.clip(deviation, LEAST_RESIDUAL, 1.0).astype(np.float32)
