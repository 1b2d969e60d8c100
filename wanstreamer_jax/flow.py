"""The probability path of flow matching, in the paper's convention (arXiv 2606.25041).

z_tau = (1 - tau) z0 + tau eps        velocity = eps - z0        tau = 1 is noise, tau = 0 is data
"""

from collections.abc import Callable
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


def velocity_from_mean(mean: jax.Array, z: jax.Array, tau: jax.Array, variance: jax.Array | float) -> jax.Array:
  """E[eps - z0 | z_tau = z] for z0 ~ N(mean, variance), eps ~ N(0, 1). It turns a network's prediction `mean`, made
  from the past, into a velocity. tau: a scalar; variance: one number, or one per channel [Z]. As it goes to 0 this
  becomes x0-prediction; with mean = 0 and variance = 1 it is the skip of EDM (arXiv 2206.00364)."""
  data, noise = (1 - tau) * variance, tau
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

  most: pads the result with zeros to [most + 1]; a solver step from 0 to 0 changes nothing.
  """
  times = shift_time(np.linspace(1.0, 0.0, steps + 1), shift)
  return np.pad(times, (0, (most or steps) - steps)).astype(np.float32)


Tree = TypeVar("Tree")
Field = Callable[[Tree, jax.Array], Tree]  # (z, tau) -> velocity


def guided(field: Field[Tree], unconditional: Field[Tree], scale: jax.Array) -> Field[Tree]:
  """Classifier-free guidance (arXiv 2207.12598): at scale 1 it equals `field` bit for bit, at 0 `unconditional`; above
  1 it exaggerates the effect of the conditions."""

  def both(z: Tree, tau: jax.Array) -> Tree:
    return jax.tree.map(lambda v, u: v + (scale - 1) * (v - u), field(z, tau), unconditional(z, tau))

  return both


def euler(field: Field[Tree], noise: Tree, times: jax.Array) -> tuple[Tree, Tree]:
  """Integrates dz/dtau = field(z, tau) along `times` [steps + 1], from times[0] = 1 down to times[-1] = 0.

  Returns the latents and the inputs of every step (leading axis `steps`), which a teacher-forced pass can replay.
  """

  def step(z: Tree, interval: tuple[jax.Array, jax.Array]) -> tuple[Tree, Tree]:
    start, stop = interval
    v = field(z, start)
    return jax.tree.map(lambda a, b: a + (stop - start) * b, z, v), z

  return jax.lax.scan(step, noise, (times[:-1], times[1:]))
