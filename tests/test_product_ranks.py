"""No product or sum has rank 7 or more: some versions of jaxlib crash on those (`parallel/xla_flags.py`).

A product's rank is that of the array that is summed if it is computed as multiply and reduce, as XLA may do it: a
`dot_general` counts the axes that its operands share once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from wanstreamer_jax.bench.train_step import synthetic_batch
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.eval.latent_errors import unit_errors
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.train.stages import get_stage

HIGHEST = 6


def equations(jaxpr: Any) -> Iterator[Any]:
  """All equations of a program, those inside of loops, branches and calls as well."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from equations(inner)


def summed_rank(equation: Any) -> int:
  """Rank of what an equation sums; 0 if it sums nothing."""
  name, ranks = equation.primitive.name, [operand.aval.ndim for operand in equation.invars]
  if name == "dot_general":
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    return sum(ranks) - len(contracted) - len(batch)
  return ranks[0] if name.startswith("reduce_") and name != "reduce_precision" else 0


def summed_ranks(function: Callable, *arguments: Any) -> set[int]:
  return set(map(summed_rank, equations(jax.make_jaxpr(function)(*arguments).jaxpr)))


def test_ranks_are_found_inside_of_vmaps_loops_and_gradients():
  def products(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.map(lambda one: jnp.einsum("gts,sh->gth", one, b), a)

  twice = jax.vmap(jax.vmap(products, in_axes=(0, None)))  # g, t, s, h and two mapped axes
  a, b = jnp.ones((2, 3, 1, 2, 2, 2)), jnp.ones((2, 2, 2))
  assert max(summed_ranks(twice, a, b)) == 6
  assert max(summed_ranks(jax.jit(jax.grad(lambda a, b: jnp.max(twice(a, b)))), a, b)) == 6
  assert max(summed_ranks(jax.vmap(twice), a[None], b[None])) == 7
  assert max(summed_ranks(lambda x: jnp.sum(x, axis=3), jnp.ones((1,) * 7))) == 7


@pytest.mark.parametrize("stage", ["duplex", "audio_codec", "video_codec"])
def test_training_step(stage):
  config = load_config("configs/nano.py", (f"train.stage={stage}",))
  stage = get_stage(stage)
  module, keys = jax.eval_shape(
    lambda key: (stage.init(config, key), jax.random.split(key, config.data.batch)), jax.random.key(0)
  )
  gradient = jax.grad(lambda module, batch, keys: stage.make_loss(config)(module, batch, keys)[0])
  assert max(summed_ranks(gradient, module, synthetic_batch(config), keys)) <= HIGHEST


def test_teacher_forced_pass_of_eval():
  config = load_config("configs/nano.py")
  streamer = jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))
  keys = jax.random.split(jax.random.key(0), config.data.batch)
  rows = jax.vmap(unit_errors, in_axes=(None, 0, 0))
  assert max(summed_ranks(rows, streamer, synthetic_batch(config), keys)) <= HIGHEST
