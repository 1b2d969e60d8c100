"""The probability path of flow matching, in the paper's convention (arXiv 2606.25041).

z_tau = (1 - tau) z0 + tau eps        velocity = eps - z0        tau = 1 is noise, tau = 0 is data
"""

from typing import TypeVar

import jax
import numpy as np

Times = TypeVar("Times", jax.Array, np.ndarray)


def interpolate(z0: jax.Array, noise: jax.Array, tau: jax.Array) -> jax.Array:
  """z_tau; tau broadcasts against z0 from the left (a scalar, or the leading axes of z0)."""
  tau = tau.reshape(tau.shape + (1,) * (z0.ndim - tau.ndim))
  return (1 - tau) * z0 + tau * noise


def velocity(z0: jax.Array, noise: jax.Array) -> jax.Array:
  """The regression target eps - z0."""
  return noise - z0


def velocity_from_mean(mean: jax.Array, z: jax.Array, tau: jax.Array, std: float) -> jax.Array:
  """E[eps - z0 | z_tau = z] for z0 ~ N(mean, std^2), eps ~ N(0, 1): how a network that knows `mean` from the past
  states a velocity. tau: a scalar. Towards std = 0 it is x0-prediction; mean = 0, std = 1 is the skip of EDM (arXiv
  2206.00364)."""
  data, noise = (1 - tau) * std**2, tau
  slope = (noise - data) / ((1 - tau) * data + tau * noise)
  return slope * (z - (1 - tau) * mean) - mean


def shift_time(tau: Times, shift: float) -> Times:
  """Moves flow times towards noise: shift * tau / (1 + (shift - 1) * tau); 0 and 1 stay where they are."""
  return shift * tau / (1 + (shift - 1) * tau)


def sample_time(key: jax.Array, shape: tuple[int, ...], *, mean: float, std: float, shift: float) -> jax.Array:
  """Training flow times in (0, 1): a logit-normal law, shifted."""
  return shift_time(jax.nn.sigmoid(mean + std * jax.random.normal(key, shape)), shift)


def schedule(steps: int, shift: float, most: int | None = None) -> np.ndarray:
  """Sampling flow times from 1 (noise) to 0 (data): float32 [steps + 1], shifted.

  most: the length to fill up with zeros, [most + 1]: from 0 to 0 a solver moves nothing.
  """
  times = shift_time(np.linspace(1.0, 0.0, steps + 1), shift)
  return np.pad(times, (0, (most or steps) - steps)).astype(np.float32)
