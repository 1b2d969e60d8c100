"""The kernel for long caches, interpreted on the CPU: the same numbers as keys in chunks (`attention._in_chunks`)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wanstreamer_jax.cost import count
from wanstreamer_jax.nn import attention, long_keys
from wanstreamer_jax.nn.attention import Part, Partial, Quantised, Queries, attend, packed

BLOCK, LAYERS = 128, 3


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """Blocks and chunks of a hundred keys, and the kernel chosen as on a TPU, but interpreted."""
  monkeypatch.setattr(long_keys, "BLOCK", BLOCK)
  monkeypatch.setattr(attention, "CHUNK", 64)
  monkeypatch.setattr(attention, "platform", lambda: "tpu")
  monkeypatch.setattr(long_keys, "over_long", functools.partial(long_keys.over_long, interpret=True))


def on(monkeypatch, name: str) -> None:
  monkeypatch.setattr(attention, "platform", lambda: name)


def example(queries: int, keys: int, heads: tuple[int, int], int8: bool = False, layers: int = 0):
  """Queries and a part of which they see two thirds, the one in the middle nothing."""
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.standard_normal(shape), jnp.float32)
  shape = (*((layers,) if layers else ()), keys, heads[1], 16)
  k, v = (Quantised.of(draw(*shape)) if int8 else draw(*shape) for _ in range(2))
  mask = jnp.asarray(r.random((queries, keys)) < 0.7).at[: queries // 2, : keys // 3].set(False)
  mask = mask.at[queries // 2].set(False)
  q = Queries(3 * draw(queries, heads[0], 16), draw(queries, heads[0], 16))
  return q, Part(k, v, mask, layer=jnp.int32(layers - 1) if layers else None)


def both(queries: Queries, part: Part, start: int) -> tuple[Partial, Partial]:
  join = lambda found: attention._join(attention._stacked(found))
  return attention._in_kernel(start, queries, part), join(attention._in_chunks(start, queries, part))


@pytest.mark.parametrize(
  ("queries", "keys", "start"),
  [
    (5, 256, 0),  # whole blocks, one in each half
    (1, 257, 0),  # a block of one key, and one half that ends with an empty block
    (16, 383, 128),  # the last block lacks a key; the first one does not count
    (17, 640, 129),
    (40, 1000, 127),
  ],
)
@pytest.mark.parametrize("int8", [False, True])
def test_every_edge_of_blocks_and_tiles(queries, keys, start, int8, close):
  found, expected = both(*example(queries, keys, (4, 2), int8), start)
  seeing = np.arange(queries) != queries // 2
  close(*(jax.tree.map(lambda x: x[:, :, seeing], partial) for partial in (found, expected)))
  for leaf in found:
    assert np.isfinite(leaf).all()
  assert (np.asarray(found.highest)[:, :, ~seeing] == attention.MASKED).all()


@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (3, 3), (5, 1)])
def test_every_grouping_of_heads_in_several_tiles(heads, monkeypatch, close):
  """Of all layers, whichever axis XLA would put first."""
  monkeypatch.setattr(long_keys, "ROWS", 40 * heads[0])
  queries, part = example(70, 500, heads, layers=LAYERS)
  assert long_keys.Sizes.of(queries.now, 500, heads[1], 9).tiles == 2
  found, expected = both(queries, part, 9)
  close(*(jax.tree.map(lambda x: jnp.delete(x, 35, axis=2), partial) for partial in (found, expected)))


@pytest.mark.parametrize("int8", [False, True])
def test_slots_in_lockstep_in_a_scan_over_layers(int8, monkeypatch, close):
  """As a step does it: a pinned prefix, the cache of all layers, the queries' own keys; a query that sees nothing in
  the cache sees itself."""
  slots = [example(9, 300, (4, 2), int8, LAYERS) for _ in range(2)]
  slots[1][0].now.at[0].add(1.0)
  queries, cache = jax.tree.map(lambda *x: jnp.stack(x), *slots)
  pinned = jnp.asarray(np.random.default_rng(1).random((2, 13)) < 0.5)

  def step(queries: Queries, cache: Part, pinned: jax.Array) -> jax.Array:
    own = Part(queries.now[:, :2], queries.now[:, 2:], jnp.eye(9, dtype=bool))
    bits = packed(cache.mask, 13)

    def body(x: jax.Array, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
      part = cache._replace(pinned=pinned, layer=layer, bits=bits)
      x = x + attend(queries._replace(now=x), [part, own])
      return x, x

    return jax.lax.scan(body, queries.now, jnp.arange(LAYERS))[1]

  run = lambda: jax.jit(jax.vmap(step))(queries, cache, pinned)
  program = str(jax.make_jaxpr(jax.vmap(step))(queries, cache, pinned))
  assert "over_long" in program
  found = run()
  on(monkeypatch, "cpu")
  assert packed(cache.mask[0], 13) is None
  close(found, run())


def test_gradients_are_those_of_chunks(monkeypatch, close):
  """Training without splash attention on TPUs comes this way."""
  queries, part = example(6, 300, (4, 2))

  def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.sum(attend(queries._replace(now=q), [part._replace(k=k, v=v)]) ** 2)

  gradients = lambda: jax.grad(loss, argnums=(0, 1, 2))(queries.now, part.k, part.v)
  found = gradients()
  on(monkeypatch, "cpu")
  close(found, gradients())


def test_what_the_kernel_says_of_itself_is_counted_for_every_layer():
  queries, part = example(16, 512, (4, 2), layers=LAYERS)

  def layers(queries: Queries, part: Part) -> jax.Array:
    body = lambda total, layer: (total + long_keys.over_long(queries.now, part._replace(layer=layer), 0).total, None)
    return jax.lax.scan(body, jnp.zeros((2, 2, 2, 16)), jnp.arange(LAYERS))[0]

  cost = count(layers, queries, part)
  assert cost.flops == LAYERS * 4 * (16 * 4) * 512 * 16
  keys, bits = 2 * 512 * 2 * 16 * 4, 512 * 4
  rows = 2 * (16 * 4) * (16 * 4 + (16 + 2 * 128) * 4)  # queries in, sums out, of both halves
  assert cost.bytes == LAYERS * (keys + bits + rows)
  assert cost.kernels == ()
