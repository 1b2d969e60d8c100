"""Split keys: a few queries meet a long cache in chunks, which changes no number and needs little memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wanstreamer_jax.nn import attention
from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_parts import Part, Quantised, Queries

QUERIES, KEYS, PINNED = 5, 103, 7


def example(int8: bool) -> tuple[Queries, list[Part]]:
  """A cache with a pinned prefix, of which a chunk nobody sees, and the queries' own keys."""
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.standard_normal(shape), jnp.float32)
  k, v = draw(2, KEYS, 8), draw(2, KEYS, 8)
  rows = (Quantised.of(k), Quantised.of(v)) if int8 else (k, v)
  mask = jnp.asarray(r.random((QUERIES, KEYS)) < 0.7).at[:, 20:60].set(False)
  cache = Part(*rows, mask, jnp.asarray(r.random(PINNED) < 0.5))
  own = Part(draw(2, QUERIES, 8), draw(2, QUERIES, 8), jnp.tril(jnp.ones((QUERIES, QUERIES), bool)))
  return Queries(3 * draw(QUERIES, 4, 8), draw(QUERIES, 4, 8)), [cache, own]


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(("chunk", "at_once"), [(8, 3), (16, 6), (48, 1)])
def test_keys_in_chunks_are_the_keys_at_once(monkeypatch, close, chunk, at_once, int8):
  queries, parts = example(int8)
  whole = attend(queries, parts)
  monkeypatch.setattr(attention, "CHUNK_KEYS", chunk)
  monkeypatch.setattr(attention, "CHUNKS_AT_ONCE", at_once)
  assert "scan" in str(jax.make_jaxpr(attend)(queries, parts))
  close(attend(queries, parts), whole)


def test_gradients_of_keys_in_chunks(monkeypatch, close):
  queries, (cache, own) = example(int8=False)

  def loss(q, k, v):
    return jnp.sum(attend(queries._replace(at_time=q), [cache._replace(k=k, v=v), own]) ** 2)

  gradient = lambda: jax.grad(loss, argnums=(0, 1, 2))(queries.at_time, cache.k, cache.v)
  whole = gradient()
  monkeypatch.setattr(attention, "CHUNK_KEYS", 8)
  close(gradient(), whole)


def test_the_scores_of_a_long_cache_are_never_all_there(monkeypatch):
  rows = jax.ShapeDtypeStruct((2, 50_000, 16), jnp.float32)
  query = jax.ShapeDtypeStruct((20, 4, 16), jnp.float32)
  own = [jax.ShapeDtypeStruct((2, 20, 16), jnp.float32)] * 2 + [jax.ShapeDtypeStruct((20, 20), jnp.bool)]
  parts = [Part(rows, rows, jax.ShapeDtypeStruct((20, 50_000), jnp.bool)), Part(*own)]

  def temporary() -> int:
    program = jax.jit(functools.partial(attend)).lower(Queries(query, query), parts).compile()
    return program.memory_analysis().temp_size_in_bytes

  scores = 4 * 20 * 50_000 * 4
  split = temporary()
  monkeypatch.setattr(attention, "FEW", 0)
  whole = temporary()
  assert whole >= scores
  assert split < 0.6 * whole
