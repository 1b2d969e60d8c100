"""One nano agent with random weights for the tests of evaluation and of the command line."""

import functools

import jax
from flax import nnx

from tests.helpers.agents import random_weights
from wanstreamer_jax import config_files
from wanstreamer_jax.rollout import Agent


@functools.cache
def nano_agent(*overrides: str) -> Agent:
  """`overrides` as on the command line: "data.units=4"."""
  config = config_files.load_config("configs/nano.py", overrides)
  return random_weights(jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0))))
