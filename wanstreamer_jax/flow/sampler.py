"""Solvers that turn noise into latents with a velocity field. Pure functions over any pytree of latents."""

from collections.abc import Callable
from typing import TypeVar

import jax

Tree = TypeVar("Tree")
Field = Callable[[Tree, jax.Array], Tree]  # (z, tau) -> velocity


def guided(field: Field[Tree], unconditional: Field[Tree], scale: jax.Array) -> Field[Tree]:
  """Classifier-free guidance (arXiv 2207.12598): at scale 1 it is `field` to the bit, at 0 `unconditional`, and above 1
  what the conditions change is exaggerated."""

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
