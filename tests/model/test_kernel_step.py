"""A unit whose passes read the cache in the TPU kernel (here interpreted) gives the numbers of plain attention."""

import jax
import pytest

from tests.conftest import assert_close
from tests.helpers.agents import random_users, random_world, small_agent, small_config
from wanstreamer_jax import rollout
from wanstreamer_jax.nn import attention, attention_cache

UNITS = 4  # as many as the window: the cache is full, and its sink unit is pinned with WORLD


@pytest.mark.slow
def test_a_unit_in_the_kernel(monkeypatch):
  """The pinned prefix is cut out of the cache, for all layers of a pass and for all passes of the solver."""
  config = small_config()
  agent, users = small_agent(config), random_users(config, UNITS + 1)
  first = jax.tree.map(lambda x: x[:UNITS], users)
  state = rollout.start_session(agent, jax.random.key(0), random_world(config))
  state, _ = jax.jit(lambda state: rollout.rollout(agent, state, first))(state)
  user = jax.tree.map(lambda x: x[UNITS], users)

  def unit(state):
    _, made = rollout.step_unit(agent, state, user)
    return made.latents, made.trace["logits"]

  expected = jax.jit(unit)(state)
  monkeypatch.setattr(attention_cache, "BLOCK", 16)
  monkeypatch.setattr(attention, "CHUNK_KEYS", 16)
  monkeypatch.setattr(attention, "platform", lambda: "tpu")
  kernels = str(jax.make_jaxpr(lambda state: unit(state))(state)).count("name=over_long")
  assert kernels >= 3 + config.layout.text_slots  # commit, hear, every word, and the solver's loop
  assert_close(jax.jit(lambda state: unit(state))(state), expected, 1e-5)
