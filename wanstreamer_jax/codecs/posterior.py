"""The parts that both codecs share: a Gaussian posterior and standardised latents. The standardisation is measured
after training.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Vae = TypeVar("Vae", bound=nnx.Module)
START_LOGVAR = -8.0  # at initialisation; with unit noise a decoder would first learn to ignore its latents


class Posterior(NamedTuple):
  """A diagonal Gaussian per latent, in standardised units."""

  mean: Float[Array, "... Z"]
  logvar: Float[Array, "... Z"]

  def sample(self, key: jax.Array) -> Float[Array, "... Z"]:
    return self.mean + jnp.exp(0.5 * self.logvar) * jax.random.normal(key, self.mean.shape)


class Standardisation(nnx.Module):
  """Per-channel mean and deviation of a trained codec's latents. Constants, not weights: no gradient reaches them."""

  def __init__(self, channels: int):
    self.latent_mean = nnx.Param(jnp.zeros(channels))
    self.latent_std = nnx.Param(jnp.ones(channels))

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


def calibrate(vae: Vae, means: Float[Array, "... Z"]) -> Vae:
  """A copy of the codec whose latents are standardised over `means`, posterior means that this codec returned."""
  copy: Any = jax.tree.map(lambda leaf: leaf, vae)
  center, scale = copy.standard.constants()
  means = means.reshape(-1, means.shape[-1])
  copy.standard.latent_mean = nnx.Param(center + scale * means.mean(axis=0))
  copy.standard.latent_std = nnx.Param(scale * jnp.maximum(means.std(axis=0), 1e-4))
  return copy
