"""A TPU kernel (Pallas) by which a few queries read many keys; it writes no cache.

Scores never leave the chip: they stay in its own memory (VMEM).

The keys are walked in blocks under a running softmax (FlashAttention). A grid step meets one tile of the queries with
one block of the keys of all heads, where it lies in the cache of all layers: cutting a layer out for a kernel would
copy it. The grid is (HALVES, tiles, blocks), the last axis innermost:

                      half 0: keys 0 .. S/2            half 1: keys S/2 .. S       (a core each, on chips with two)
                      block 0   block 1   block 2      block 0   block 1   block 2
    tile 0 of T       step 0    step 1    step 2       step 0    step 1    step 2
    tile 1            step 0    step 1    step 2       step 0    step 1    step 2

A row of a half is one running softmax: its three sums stay in VMEM from step to step, and the sums of both halves are
joined outside (`attention_parts.join`). A tile's queries of the G heads that share a head of keys are the rows of one
matrix product, [g0 t0, g0 t1, ..., g1 t0, g1 t1, ...]. A step reads one bit of the mask per pair, 32 queries in a word.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from wanstreamer_jax.nn.attention_parts import MASKED, Packed, Part, Partial, Quantised
from wanstreamer_jax.nn.backend import platform

BLOCK = 512  # keys
ROWS = 6144  # of a tile, over all heads: each key is read once for all of them
PRODUCT_ROWS = 512  # rows of one product
HALVES = 2
VMEM = 60 << 20  # bytes; every chip since v5e has more than the compiler's own limit
WORD = 32  # bits


class Sizes(NamedTuple):
  """queries, keys, tiles: their numbers; tile: queries of a tile; first: the first block of keys; blocks: blocks of one
  half, of which the last ones may be empty."""

  heads: int  # of keys
  group: int  # heads of queries for each of them
  depth: int
  queries: int
  keys: int
  tile: int
  tiles: int
  first: int
  blocks: int

  @classmethod
  def of(cls, q: jax.Array, keys: int, heads: int, start: int) -> "Sizes":
    queries, all_heads, depth = q.shape
    tiles = -(-queries * all_heads // ROWS)
    unit = WORD if tiles > 1 else 8 * 4 // q.dtype.itemsize  # the smallest tile: the rows of a register
    tile = -(-queries // (tiles * unit)) * unit
    first = start // BLOCK
    blocks = -(-(keys - first * BLOCK) // (HALVES * BLOCK))
    return cls(heads, all_heads // heads, depth, queries, keys, tile, tiles, first, blocks)

  @property
  def rows(self) -> int:
    return self.group * self.tile

  @property
  def together(self) -> int:
    """How many of the heads that share keys one product takes: enough rows for it, without needless code."""
    return max(n for n in range(1, self.group + 1) if self.group % n == 0 and (n == 1 or n * self.tile <= PRODUCT_ROWS))

  @property
  def words(self) -> int:
    return -(-self.tile // WORD)

  @property
  def walked(self) -> int:
    """The number of keys in all blocks."""
    return HALVES * self.blocks * BLOCK


def over_long(q: jax.Array, part: Part, start: int) -> Partial:
  """Attention of queries [T, N, H] over a part's keys from `start` on, none of them pinned, under a `Packed` mask:
  partials [2, M, R, ...] of two halves of the keys, for `attention_parts.join`.

  The results are those of `attention.partial_attention`, except in rows that see no key; their values are not used. On
  a mesh, call it inside `jax.shard_map`. Runs on TPUs, and interpreted (slowly) on CPUs.
  """
  assert isinstance(part.mask, Packed)
  layer = jnp.int32(0) if part.layer is None else part.layer
  k, v = jax.tree.map(lambda x: x[None] if part.layer is None else x, (part.k, part.v))
  rows = [x.values if isinstance(x, Quantised) else x for x in (k, v)]
  heads, keys = rows[0].shape[1:3]
  sizes = Sizes.of(q, keys, heads, start)
  of_layer = lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
  scales = [_lanes(of_layer(x.scale), sizes) for x in (k, v) if isinstance(x, Quantised)]
  halves = _call(sizes, q, rows, scales)(layer.reshape(1), _by_row(q, sizes), part.mask.bits, *rows, *scales)
  return Partial(*map(functools.partial(_by_query, sizes), halves))


def _by_row(q: jax.Array, sizes: Sizes) -> jax.Array:
  """[T, N, H] -> [M, rows of all tiles, H]."""
  q = jnp.pad(q, ((0, sizes.tiles * sizes.tile - sizes.queries), (0, 0), (0, 0)))
  q = q.reshape(sizes.tiles, sizes.tile, sizes.heads, sizes.group, sizes.depth)  # [tiles, tile, M, G, H]
  return q.transpose(2, 0, 3, 1, 4).reshape(sizes.heads, -1, sizes.depth)


def _by_query(sizes: Sizes, x: jax.Array) -> jax.Array:
  """[2, M, rows of all tiles, H] -> [2, M, R, H], R = G T; H is dropped where it is 1."""
  x = x.reshape(HALVES, sizes.heads, sizes.tiles, sizes.group, sizes.tile, -1).swapaxes(2, 3)
  x = x.reshape(HALVES, sizes.heads, sizes.group, sizes.tiles * sizes.tile, -1)[..., : sizes.queries, :]
  x = x.reshape(HALVES, sizes.heads, sizes.group * sizes.queries, -1)
  return x[..., 0] if x.shape[-1] == 1 else x


def _lanes(x: jax.Array, sizes: Sizes) -> jax.Array:
  """[..., S] from the first block on, padded with zeros to the end of the last block."""
  cut = x[..., sizes.first * BLOCK :]
  return jnp.pad(cut, ((0, 0),) * (x.ndim - 1) + ((0, sizes.walked - cut.shape[-1]),))


def pack(mask: jax.Array, start: int) -> jax.Array:
  """bool [T, S], without keys before `start` -> int32 [T / 32, 1, S]; bit b of word w is query 32 w + b."""
  queries, keys = mask.shape
  mask = jnp.pad(mask & (jnp.arange(keys) >= start), ((0, -queries % WORD), (0, 0)))
  bits = mask.reshape(-1, WORD, keys).astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)[:, None]
  return jax.lax.bitcast_convert_type(jnp.sum(bits, axis=1, keepdims=True, dtype=jnp.uint32), jnp.int32)


class _Specs(NamedTuple):
  """The block of every array that a grid step (half, tile, step) has in VMEM; `layer` is there before the grid
  starts."""

  queries: pl.BlockSpec  # [M, rows, H] of [M, rows of all tiles, H]
  bits: pl.BlockSpec  # [words, 1, BLOCK] of [words of all tiles, 1, S]
  keys: pl.BlockSpec  # [M, BLOCK, H] of [L, M, S, H]; also of values
  scale: pl.BlockSpec  # [M, BLOCK] of [M, keys of all blocks]

  @classmethod
  def of(cls, sizes: Sizes) -> "_Specs":
    last = -(-sizes.keys // BLOCK) - 1

    def block(half: Any, step: Any) -> Any:
      """The block of keys of a step. Steps behind the last key, which see nothing, fetch the last block again."""
      return jnp.minimum(sizes.first + half * sizes.blocks + step, last)

    return cls(
      queries=pl.BlockSpec((sizes.heads, sizes.rows, sizes.depth), lambda half, tile, step, layer: (0, tile, 0)),
      bits=pl.BlockSpec((sizes.words, 1, BLOCK), lambda half, tile, step, layer: (tile, 0, block(half, step))),
      keys=pl.BlockSpec(
        (None, sizes.heads, BLOCK, sizes.depth),
        lambda half, tile, step, layer: (layer[0], 0, block(half, step), 0),
      ),
      scale=pl.BlockSpec((sizes.heads, BLOCK), lambda half, tile, step, layer: (0, half * sizes.blocks + step)),
    )


def _sum_spec(sizes: Sizes, width: int) -> pl.BlockSpec:
  """Spec of one of the three sums: [M, rows, width] of [2, M, rows of all tiles, width], the same for all steps of a
  row."""
  return pl.BlockSpec((None, sizes.heads, sizes.rows, width), lambda half, tile, step, layer: (half, 0, tile, 0))


def _call(sizes: Sizes, q: jax.Array, rows: list[Any], scales: list[Any]) -> Any:
  """The kernel as a function of (layer [1], queries, bits, keys, values, scales) to a Partial's three sums."""
  specs = _Specs.of(sizes)
  widths = (sizes.depth, 1, 1)  # weighted_sum, sum_exp, row_max
  return pl.pallas_call(
    functools.partial(_kernel, sizes),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(HALVES, sizes.tiles, sizes.blocks),
      in_specs=[specs.queries, specs.bits, specs.keys, specs.keys, *[specs.scale] * len(scales)],
      out_specs=[_sum_spec(sizes, width) for width in widths],
    ),
    out_shape=[
      jax.ShapeDtypeStruct((HALVES, sizes.heads, sizes.tiles * sizes.rows, width), jnp.float32) for width in widths
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM
    ),
    cost_estimate=_cost(sizes, q.dtype.itemsize, rows[0].dtype.itemsize, bool(scales)),
    interpret=platform() == "cpu",
    name="over_long",
  )  # fmt: skip


def _cost(sizes: Sizes, of_query: int, of_key: int, scaled: bool) -> pl.CostEstimate:
  """The work of a call, padding included: every tile reads all keys. The compiler cannot see it."""
  rows = sizes.heads * sizes.rows * sizes.tiles
  a_key = 2 * sizes.heads * (sizes.depth * of_key + 4 * scaled) + 4 * sizes.words
  a_row = HALVES * (sizes.depth * of_query + 4 * (sizes.depth + 2 * 128))
  return pl.CostEstimate(
    flops=4 * rows * sizes.depth * sizes.walked,
    transcendentals=rows * sizes.walked,
    bytes_accessed=sizes.tiles * sizes.walked * a_key + rows * a_row,
  )


def _kernel(sizes: Sizes, layer: Any, q: Any, bits: Any, k: Any, v: Any, *rest: Any) -> None:
  """One grid step. q: [M, rows, H]; bits: [words, 1, BLOCK]; k, v: [M, BLOCK, H]; rest: of int8 keys the scales
  [M, BLOCK] of k and v, then the sums, which stay where they are from step to step.

      for head of keys:
        for some of the heads of queries that share it:    one product: [together * tile, H] x [H, BLOCK]
          update their sums
  """
  *scales, weighted_sum, sum_exp, row_max = rest
  half, step = pl.program_id(0), pl.program_id(2)

  @pl.when(step == 0)
  def _() -> None:
    weighted_sum[...] = jnp.zeros_like(weighted_sum)
    sum_exp[...] = jnp.zeros_like(sum_exp)
    row_max[...] = jnp.full_like(row_max, MASKED)

  first = (sizes.first + half * sizes.blocks + step) * BLOCK
  seen = _seen(sizes, bits[...], first)  # [tile, BLOCK]
  exists = first + jax.lax.broadcasted_iota(jnp.int32, (BLOCK, 1), 0) < sizes.keys
  rows_together = sizes.together * sizes.tile

  for head in range(sizes.heads):
    keys, values = k[head], v[head]  # [BLOCK, H]
    keys = keys.astype(q.dtype)
    values = jnp.where(exists, values.astype(q.dtype), 0)  # values behind the last key may be NaN
    key_scale, value_scale = (x[head][None] for x in scales) if scales else (None, None)  # [1, BLOCK]

    def update(index: Any, _: None, head=head, keys=keys, values=values, key_scale=key_scale, value_scale=value_scale):
      """Updates the sums of the rows of `together` heads of queries."""
      at = (head, pl.ds(index * rows_together, rows_together))
      scores = _product(q[at], keys, 1) * sizes.depth**-0.5
      scores = scores if key_scale is None else scores * key_scale
      scores = scores.reshape(sizes.together, sizes.tile, BLOCK)
      scores = jnp.where(seen[None], scores, MASKED).reshape(-1, BLOCK)
      before = row_max[at]
      after = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
      weights, kept = jnp.exp(scores - after), jnp.exp(before - after)  # kept: the weight of the sums so far
      row_max[at] = after
      sum_exp[at] = sum_exp[at] * kept + jnp.sum(weights, axis=1, keepdims=True)
      weights = weights if value_scale is None else weights * value_scale
      weighted_sum[at] = weighted_sum[at] * kept + _product(weights.astype(q.dtype), values, 0)

    jax.lax.fori_loop(0, sizes.group // sizes.together, update, None)


def _seen(sizes: Sizes, bits: jax.Array, first: Any) -> jax.Array:
  """Unpacks the mask of a block that begins with key `first`: bits [words, 1, BLOCK] -> bool [tile, BLOCK]."""
  exists = first + jax.lax.broadcasted_iota(jnp.int32, (1, BLOCK), 1) < sizes.keys
  words = jnp.where(exists[None], bits, 0)
  shifts = jax.lax.broadcasted_iota(jnp.int32, (sizes.words, WORD, BLOCK), 1)  # query 32 w + b is bit b of word w
  return ((words >> shifts) & 1).reshape(sizes.words * WORD, BLOCK)[: sizes.tile] > 0


def _product(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
  """a [R, C] times b, over `axis` of it, in float32."""
  return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
