"""The int8 KV-cache: what it holds, what it weighs, and how little it changes."""

import jax.numpy as jnp
import numpy as np
import pytest

from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_parts import Part, Quantised, Queries


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
  k, v = Quantised.of(draw(7, 2, 8)), Quantised.of(draw(7, 2, 8))
  mask = jnp.asarray(r.random((4, 7)) < 0.7).at[:, 0].set(True)
  prefix = jnp.asarray(r.random(pinned) < 0.5) if pinned else None
  plain = lambda rows: rows.values * rows.scale[..., None]
  own = Part(draw(4, 2, 8), draw(4, 2, 8), jnp.tril(jnp.ones((4, 4), bool)))
  found = attend(queries, [Part(k, v, mask, prefix), own])
  close(found, attend(queries, [Part(plain(k), plain(v), mask, prefix), own]))
