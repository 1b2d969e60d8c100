"""One nano agent with random weights for the tests of evaluation, made without compiling an initialisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanstreamer_jax import config_files
from wanstreamer_jax.rollout import Agent


@functools.cache
def nano_agent(*overrides: str) -> Agent:
  """`overrides` as on the command line: "data.units=4". No weight is zero, so every input matters."""
  config = config_files.load_config("configs/nano.py", overrides)
  rng = np.random.default_rng(0)

  def weights(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if leaf.ndim < 2:  # norms, biases, standardisation
      return jnp.full(leaf.shape, 0.5, leaf.dtype)
    return jnp.asarray(rng.normal(0, leaf.shape[-2] ** -0.5, leaf.shape), leaf.dtype)

  return jax.tree.map(weights, jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0))))
