"""Laws 1 and 2 of the design for any streaming step, as one helper each.

A step is `step(module, x, state) -> (y, state)`; x and every leaf of y have time on axis 0. `grid` is the step's own
grid: chunks are multiples of it, and `grid` inputs make `y` one or more outputs longer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.conftest import assert_close

Step = Callable[[Any, jax.Array, Any], tuple[Any, Any]]


def run_chunks(step: Step, module: Any, x: jax.Array, state: Any, sizes: Sequence[int]) -> tuple[Any, Any]:
  """Outputs, joined over time, and the last state, of x given in chunks of the sizes."""
  assert sum(sizes) == x.shape[0]
  outputs, start = [], 0
  for size in sizes:
    y, state = step(module, x[start : start + size], state)
    outputs.append(y)
    start += size
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs), state


def check_chunking(
  step: Step, module: Any, x: jax.Array, state: Any, splits: Sequence[Sequence[int]], tolerance: float = 1e-5
) -> None:
  """Law 1: any split gives the values, last state and gradients (to module and input) of one big chunk."""

  def objective(module: Any, x: jax.Array, sizes: tuple[int, ...]):
    y, last = run_chunks(step, module, x, state, sizes)
    total = jnp.float32(0)
    for i, leaf in enumerate(jax.tree.leaves(y)):
      total += jnp.sum(leaf * jax.random.normal(jax.random.key(i), leaf.shape))
    return total, (y, last)

  evaluate = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True), static_argnums=2)
  whole_grads, whole = evaluate(module, x, (x.shape[0],))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((whole_grads, whole)))
  for sizes in splits:
    grads, outputs = evaluate(module, x, tuple(sizes))
    assert_close(outputs, whole, tolerance)
    assert_close(list(jax.tree.leaves(grads)), list(jax.tree.leaves(whole_grads)), tolerance)


def check_causality(
  step: Step, module: Any, x: jax.Array, state: Any, cut: int, outputs: int, poison: float = float("nan")
) -> None:
  """Law 2: inputs from `cut` on reach no bit of the first `outputs` outputs, nor have their gradients any part."""
  compiled = jax.jit(lambda module, x: step(module, x, state)[0])
  clean, poisoned = compiled(module, x), compiled(module, x.at[cut:].set(poison))
  for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned)):
    assert a.shape[0] > outputs
    np.testing.assert_array_equal(np.asarray(a[:outputs]), np.asarray(b[:outputs]))
    assert not np.array_equal(np.asarray(a[outputs:]), np.asarray(b[outputs:])), "the poison reached nothing at all"

  def early(x: jax.Array) -> jax.Array:
    return sum(jnp.sum(jnp.square(leaf[:outputs])) for leaf in jax.tree.leaves(step(module, x, state)[0]))

  gradient = np.asarray(jax.jit(jax.grad(early))(x))
  assert np.abs(gradient[:cut]).max() > 0
  np.testing.assert_array_equal(gradient[cut:], 0)
