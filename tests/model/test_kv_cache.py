"""The KV-cache: that a pass reads it as it lies, and what it holds in int8."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wanstreamer_jax import rollout
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_parts import Part, Quantised, Queries
from wanstreamer_jax.units import build_layout


def test_no_pass_on_a_cpu_transposes_cached_keys():
  config = load_config("configs/tiny.py", ["model.layers=2"])
  agent = jax.eval_shape(lambda: rollout.Agent(config, rngs=nnx.Rngs(0)))
  start = lambda agent: rollout.start_session(agent, jax.random.key(0), WorldArrays.empty(config))
  state = jax.eval_shape(start, agent)
  text = jax.jit(rollout.commit, donate_argnums=1).lower(agent, state).compile().as_text() or ""
  keys = len(state.cache.coords.unit) - build_layout(config).pinned_tokens
  rows = rf"= f32\[(?:\d+,)*{keys},(?:\d+,)*{config.model.head_dim}\]\S* "  # in any order of heads and keys
  assert re.search(rows, text)
  assert not re.search(rows + r"(transpose|copy)\(", text)


def test_rows_are_within_half_a_level():
  x = np.random.default_rng(0).normal(0, 3, (5, 2, 16)).astype(np.float32)
  x[2, 1] = 0.0
  rows = Quantised.of(jnp.asarray(x))
  assert rows.values.dtype == jnp.int8
  back = np.asarray(rows.values * rows.scale[..., None])
  assert (np.abs(back - x) <= np.asarray(rows.scale)[..., None] * 0.501).all()
  assert np.isfinite(back).all()


@pytest.mark.parametrize("pinned", [0, 3])
def test_attention_over_int8_rows_is_attention_over_what_they_mean(pinned, close):
  r = np.random.default_rng(1)
  draw = lambda *shape: jnp.asarray(r.standard_normal(shape), jnp.float32)
  queries = Queries(draw(4, 4, 8), draw(4, 4, 8))
  k, v = Quantised.of(draw(2, 7, 8)), Quantised.of(draw(2, 7, 8))
  mask = jnp.asarray(r.random((4, 7)) < 0.7).at[:, 0].set(True)
  prefix = jnp.asarray(r.random(pinned) < 0.5) if pinned else None
  plain = lambda rows: rows.values * rows.scale[..., None]
  own = Part(draw(2, 4, 8), draw(2, 4, 8), jnp.tril(jnp.ones((4, 4), bool)))
  found = attend(queries, [Part(k, v, mask, prefix), own])
  close(found, attend(queries, [Part(plain(k), plain(v), mask, prefix), own]))


def test_an_empty_cache_is_a_quantised_one_of_zeros():
  for a, b in zip(Quantised.empty((2, 3, 5, 4)), Quantised.of(jnp.zeros((2, 3, 5, 4)))):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
