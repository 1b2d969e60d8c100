"""The kernel for long caches, interpreted on the CPU: the same numbers as the plain computation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from wanstreamer_jax.nn import attention, attention_cache
from wanstreamer_jax.nn.attention import attend, prepare_mask
from wanstreamer_jax.nn.attention_parts import MASKED, KeyValue, Packed, Part, Partial, Quantised, Queries, join
from wanstreamer_jax.parallel.cost import count
from wanstreamer_jax.parallel.mesh import make_mesh

BLOCK, LAYERS = 128, 3


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """Blocks and chunks of a hundred keys."""
  monkeypatch.setattr(attention_cache, "BLOCK", BLOCK)
  monkeypatch.setattr(attention, "CHUNK_KEYS", 64)


def on(monkeypatch, name: str) -> None:
  """`prepare_mask` chooses as it would there."""
  monkeypatch.setattr(attention, "platform", lambda: name)


def example(queries: int, keys: int, heads: tuple[int, int], int8: bool = False, layers: int = 0):
  """Queries and a part of which they see two thirds, the one in the middle nothing."""
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.standard_normal(shape), jnp.float32)
  shape = (*((layers,) if layers else ()), heads[1], keys, 16)
  k, v = (Quantised.of(draw(*shape)) if int8 else draw(*shape) for _ in range(2))
  mask = jnp.asarray(r.random((queries, keys)) < 0.7).at[: queries // 2, : keys // 3].set(False)
  mask = mask.at[queries // 2].set(False)
  q = Queries(3 * draw(queries, heads[0], 16), draw(queries, heads[0], 16))
  return q, Part(k, v, mask, layer=jnp.int32(layers - 1) if layers else None)


@functools.partial(jax.jit, static_argnums=2)
def both(queries: Queries, part: Part, start: int) -> tuple[Partial, Partial]:
  """By the kernel, and by the plain computation over the keys from `start` on: [M, G, T, ...]."""
  packed = part._replace(mask=Packed(part.mask[:, :start], attention_cache.pack(part.mask, start)))
  plain = attention.partial_attention(queries, attention._some(part, start, part.mask.shape[1] - start))
  found = join(attention_cache.over_long(queries.at_time, packed, start))
  by_query = lambda x: x.reshape(x.shape[0], -1, len(queries.at_time), *x.shape[2:])  # [M, R, ...] -> [M, G, T, ...]
  return jax.tree.map(by_query, (found, plain))


@pytest.mark.parametrize(
  ("queries", "keys", "start", "int8"),
  [
    (5, 256, 0, False),  # whole blocks, one in each half
    (1, 257, 0, False),  # a block of one key, and a half that ends with an empty block
    (16, 383, 128, True),  # the last block lacks a key, and the first one does not count
    (17, 641, 129, True),
    (40, 1000, 127, False),
  ],
)
def test_every_edge_of_blocks_and_tiles(queries, keys, start, int8, close):
  found, expected = both(*example(queries, keys, (4, 2), int8), start)
  seeing = np.arange(queries) != queries // 2
  close(*(jax.tree.map(lambda x: x[:, :, seeing], partial) for partial in (found, expected)))
  for leaf in found:
    assert np.isfinite(leaf).all()
  assert (np.asarray(found.row_max)[:, :, ~seeing] == MASKED).all()


@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (3, 3), (5, 1)])
def test_every_grouping_of_heads_in_several_tiles(heads, monkeypatch, close):
  """In the keys of all layers."""
  monkeypatch.setattr(attention_cache, "ROWS", 40 * heads[0])
  queries, part = example(70, 500, heads, layers=LAYERS)
  assert attention_cache.Sizes.of(queries.at_time, 500, heads[1], 9).tiles == 2
  found, expected = both(queries, part, 9)
  close(*(jax.tree.map(lambda x: jnp.delete(x, 35, axis=2), partial) for partial in (found, expected)))


def test_slots_in_lockstep_in_a_scan_over_layers(monkeypatch, close):
  """As a step does it: a pinned prefix, the int8 cache of all layers, the queries' own keys; a query that sees nothing
  in the cache sees itself."""
  pinned = 13

  def slot(turn: jax.Array) -> jax.Array:
    queries, cache = example(9, 300, (4, 2), int8=True, layers=LAYERS)
    own = Part(*KeyValue(queries.at_time[:, :2], queries.at_time[:, 2:]).by_head(), jnp.eye(9, dtype=bool))
    mask, prefix = jnp.roll(cache.mask, turn, axis=1), jnp.arange(pinned) % 3 == turn
    mask = prepare_mask(mask, pinned)

    def body(x: jax.Array, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
      part = cache._replace(mask=mask, pinned=prefix, layer=layer)
      x = x + attend(queries._replace(at_time=x), [part, own])
      return x, x

    return jax.lax.scan(body, queries.at_time, jnp.arange(LAYERS))[1]

  def run() -> tuple[jax.Array, bool]:
    step, turns = jax.vmap(lambda turn: slot(turn)), jnp.arange(2)
    return jax.jit(step)(turns), "over_long" in str(jax.make_jaxpr(step)(turns))

  on(monkeypatch, "tpu")
  found, in_kernel = run()
  on(monkeypatch, "cpu")
  expected, in_chunks = run()
  assert in_kernel
  assert not in_chunks
  close(found, expected)


def test_the_kernel_is_for_tpus_few_queries_many_keys_and_programs_that_xla_does_not_partition(monkeypatch):
  is_packed = lambda queries, keys: isinstance(prepare_mask(jnp.ones((queries, keys), bool), 7), Packed)
  mesh = make_mesh("fsdp=2", jax.devices()[:2])
  for name, expected in (("tpu", True), ("cpu", False), ("gpu", False)):
    on(monkeypatch, name)
    assert is_packed(1, 2 * 64 + 7) == is_packed(attention.FEW, 300) == expected
  on(monkeypatch, "tpu")
  assert not is_packed(1, 2 * 64 + 6)
  assert not is_packed(attention.FEW + 1, 300)
  with jax.set_mesh(mesh):
    assert not is_packed(1, 300)
  inside = []
  spread = lambda x: inside.append(is_packed(1, 300)) or x
  jax.make_jaxpr(jax.shard_map(spread, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()))(jnp.ones(2))
  assert inside == [True]


def test_what_the_kernel_says_of_itself_is_counted_for_every_layer():
  queries, part = example(16, 512, (4, 2), layers=LAYERS)
  part = part._replace(mask=Packed(part.mask[:, :0], attention_cache.pack(part.mask, 0)))

  def layers(queries: Queries, part: Part) -> jax.Array:
    body = lambda total, layer: (
      total + attention_cache.over_long(queries.at_time, part._replace(layer=layer), 0).sum_exp,
      None,
    )
    return jax.lax.scan(body, jnp.zeros((2, 2, 2 * 16)), jnp.arange(LAYERS))[0]

  cost = count(layers, queries, part)
  assert cost.flops == LAYERS * 4 * (16 * 4) * 512 * 16
  keys, bits = 2 * 512 * 2 * 16 * 4, 512 * 4
  rows = 2 * (16 * 4) * (16 * 4 + (16 + 2 * 128) * 4)  # queries in, sums out, of both halves
  assert cost.bytes == LAYERS * (keys + bits + rows)
  assert cost.kernels == ()
