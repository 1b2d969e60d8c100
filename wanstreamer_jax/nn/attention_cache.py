"""A few queries over a long part of keys as one TPU kernel (Pallas): no score ever leaves the chip's own memory (VMEM).

The keys are walked in blocks under a running softmax (FlashAttention). A grid step holds one block of the keys of all
heads, where it lies in the cache of all layers: cutting a layer out for a kernel would copy it. Queries come in tiles,
and a tile's queries of the G heads that share keys are the rows of one matrix product:

    grid   2 halves of the keys, for chips with two cores  x  tiles of queries  x  blocks of keys
    rows   [g0 t0, g0 t1, ..., g1 t0, g1 t1, ...]

Of the mask a step reads one bit a pair, 32 queries in a word.
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
ROWS = 6144  # of a tile, of all heads: a key is read once for all of them
AT_ONCE = 512  # rows of one product
HALVES = 2
VMEM = 60 << 20  # bytes; the compiler's own limit is below what every chip since v5e has
WORD = 32  # bits


class Sizes(NamedTuple):
  """queries, keys: how many there are; tile: queries of a tile; tiles: how many; first: block of keys to begin with;
  blocks: of one half, in which the last ones may be empty."""

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
    unit = WORD if tiles > 1 else 8 * 4 // q.dtype.itemsize  # the least that a tile may be: rows of a register
    tile = -(-queries // (tiles * unit)) * unit
    first = start // BLOCK
    blocks = -(-(keys - first * BLOCK) // (HALVES * BLOCK))
    return cls(heads, all_heads // heads, depth, queries, keys, tile, tiles, first, blocks)

  @property
  def rows(self) -> int:
    return self.group * self.tile

  @property
  def together(self) -> int:
    """Of the heads that share keys, how many a product takes: enough rows for it, and no more code than they need."""
    return max(n for n in range(1, self.group + 1) if self.group % n == 0 and (n == 1 or n * self.tile <= AT_ONCE))

  @property
  def words(self) -> int:
    return -(-self.tile // WORD)

  @property
  def walked(self) -> int:
    """Keys of all blocks."""
    return HALVES * self.blocks * BLOCK


def over_long(q: jax.Array, part: Part, start: int) -> Partial:
  """Attention of queries [T, N, H] over a part's keys from `start` on, none of them pinned, under a `Packed` mask:
  partials [2, M, G T, ...] of two halves of the keys, for `attention._join`.

  As `attention._over` sees them, except in rows that see no key, whose finite values nobody uses. On a mesh, call it
  inside `jax.shard_map`. Runs on TPUs, and interpreted (slowly) on CPUs.
  """
  assert isinstance(part.mask, Packed)
  layer = jnp.int32(0) if part.layer is None else part.layer
  k, v = jax.tree.map(lambda x: x[None] if part.layer is None else x, (part.k, part.v))
  rows = [x.values if isinstance(x, Quantised) else x for x in (k, v)]
  sizes = Sizes.of(q, rows[0].shape[1], rows[0].shape[2], start)
  of_layer = lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
  scales = [_lanes(of_layer(x.scale).T, sizes) for x in (k, v) if isinstance(x, Quantised)]
  by_head = _is_by_head(sizes.heads, rows[0].dtype.itemsize)
  rows = [x.swapaxes(1, 2) for x in rows] if by_head else rows
  halves = _call(sizes, by_head, q, rows, scales)(layer.reshape(1), _by_row(q, sizes), part.mask.bits, *rows, *scales)
  return Partial(*map(functools.partial(_by_query, sizes), halves))


def _is_by_head(heads: int, itemsize: int) -> bool:
  """Whether XLA keeps [S, M, H] with M outside of S, as it does where few heads would leave registers half empty."""
  tile = min(8, 1 << (heads - 1).bit_length())
  return heads == 1 or heads % tile > 0 or tile * itemsize < 4


def _by_row(q: jax.Array, sizes: Sizes) -> jax.Array:
  """[T, N, H] -> [M, rows of all tiles, H]."""
  q = jnp.pad(q, ((0, sizes.tiles * sizes.tile - sizes.queries), (0, 0), (0, 0)))
  q = q.reshape(sizes.tiles, sizes.tile, sizes.heads, sizes.group, sizes.depth)
  return q.transpose(2, 0, 3, 1, 4).reshape(sizes.heads, -1, sizes.depth)


def _by_query(sizes: Sizes, x: jax.Array) -> jax.Array:
  """[2, M, rows of all tiles, H] -> [2, M, G T, H]; H is dropped where it is 1."""
  x = x.reshape(HALVES, sizes.heads, sizes.tiles, sizes.group, sizes.tile, -1).swapaxes(2, 3)
  x = x.reshape(HALVES, sizes.heads, sizes.group, sizes.tiles * sizes.tile, -1)[..., : sizes.queries, :]
  x = x.reshape(HALVES, sizes.heads, sizes.group * sizes.queries, -1)
  return x[..., 0] if x.shape[-1] == 1 else x


def _lanes(x: jax.Array, sizes: Sizes) -> jax.Array:
  """[..., S] from the first block on, and zeros to the end of the last one."""
  cut = x[..., sizes.first * BLOCK :]
  return jnp.pad(cut, ((0, 0),) * (x.ndim - 1) + ((0, sizes.walked - cut.shape[-1]),))


def pack(mask: jax.Array, start: int) -> jax.Array:
  """bool [T, S], keys before `start` aside -> int32 [T / 32, 1, S]; bit b of word w is query 32 w + b."""
  queries, keys = mask.shape
  mask = jnp.pad(mask & (jnp.arange(keys) >= start), ((0, -queries % WORD), (0, 0)))
  bits = mask.reshape(-1, WORD, keys).astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)[:, None]
  return jax.lax.bitcast_convert_type(jnp.sum(bits, axis=1, keepdims=True, dtype=jnp.uint32), jnp.int32)


def _call(sizes: Sizes, by_head: bool, q: jax.Array, rows: list[Any], scales: list[Any]) -> Any:
  """The kernel as a function of (layer [1], queries, bits, keys, values, scales)."""
  last = -(-sizes.keys // BLOCK) - 1
  block = lambda half, j: jnp.minimum(sizes.first + half * sizes.blocks + j, last)
  of_tile = lambda width: pl.BlockSpec(
    (None, sizes.heads, sizes.rows, width), lambda half, tile, j, layer: (half, 0, tile, 0)
  )
  by_token = lambda half, tile, j, layer: (layer[0], block(half, j), 0, 0)
  of_keys = pl.BlockSpec((None, BLOCK, sizes.heads, sizes.depth), by_token)
  if by_head:
    place = lambda half, tile, j, layer: (layer[0], 0, block(half, j), 0)
    of_keys = pl.BlockSpec((None, sizes.heads, BLOCK, sizes.depth), place)
  queries = pl.BlockSpec((sizes.heads, sizes.rows, sizes.depth), lambda half, tile, j, layer: (0, tile, 0))
  bits = pl.BlockSpec((sizes.words, 1, BLOCK), lambda half, tile, j, layer: (tile, 0, block(half, j)))
  scale = pl.BlockSpec((sizes.heads, BLOCK), lambda half, tile, j, layer: (0, half * sizes.blocks + j))
  widths = (sizes.depth, 1, 1)
  return pl.pallas_call(
    functools.partial(_kernel, sizes, by_head),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(HALVES, sizes.tiles, sizes.blocks),
      in_specs=[queries, bits, of_keys, of_keys, *[scale] * len(scales)],
      out_specs=[of_tile(width) for width in widths],
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
  """What a call does, padding included: every tile reads all keys. The compiler sees nothing of it."""
  rows = sizes.heads * sizes.rows * sizes.tiles
  a_key = 2 * sizes.heads * (sizes.depth * of_key + 4 * scaled) + 4 * sizes.words
  a_row = HALVES * (sizes.depth * of_query + 4 * (sizes.depth + 2 * 128))
  return pl.CostEstimate(
    flops=4 * rows * sizes.depth * sizes.walked,
    transcendentals=rows * sizes.walked,
    bytes_accessed=sizes.tiles * sizes.walked * a_key + rows * a_row,
  )


def _kernel(sizes: Sizes, by_head: bool, layer: Any, q: Any, bits: Any, k: Any, v: Any, *rest: Any) -> None:
  """One block of keys. q: [M, rows, H]; bits: [words, 1, BLOCK]; k, v: [BLOCK, M, H] or [M, BLOCK, H]; then, of int8,
  the scales [M, BLOCK] of k and v; then the results, which stay where they are from block to block."""
  *scales, mixed, total, highest = rest
  half, step = pl.program_id(0), pl.program_id(2)

  @pl.when(step == 0)
  def _() -> None:
    mixed[...] = jnp.zeros_like(mixed)
    total[...] = jnp.zeros_like(total)
    highest[...] = jnp.full_like(highest, MASKED)

  first = (sizes.first + half * sizes.blocks + step) * BLOCK
  exists = lambda axis: first + jax.lax.broadcasted_iota(jnp.int32, (BLOCK, 1)[:: 1 - 2 * axis], axis) < sizes.keys
  words = jnp.where(exists(1)[None], bits[...], 0)
  shifts = jax.lax.broadcasted_iota(jnp.int32, (sizes.words, WORD, BLOCK), 1)
  seen = ((words >> shifts) & 1).reshape(sizes.words * WORD, BLOCK)[: sizes.tile] > 0
  for head in range(sizes.heads):
    of_head = lambda x, head=head: (x[head] if by_head else x[:, head]).astype(q.dtype)
    keys, values = of_head(k), jnp.where(exists(0), of_head(v), 0)  # what lies behind the last key may be NaN
    of_keys, of_values = (x[head][None] for x in scales) if scales else (None, None)

    def rows(index: Any, _: None, head=head, keys=keys, values=values, of_keys=of_keys, of_values=of_values) -> None:
      """Of some of the heads that share these keys."""
      at = (head, pl.ds(index * sizes.together * sizes.tile, sizes.together * sizes.tile))
      scores = _product(q[at], keys, 1) * sizes.depth**-0.5
      scores = scores if of_keys is None else scores * of_keys
      scores = scores.reshape(sizes.together, sizes.tile, BLOCK)
      scores = jnp.where(seen[None], scores, MASKED).reshape(-1, BLOCK)
      before = highest[at]
      now = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
      weights, kept = jnp.exp(scores - now), jnp.exp(before - now)
      highest[at] = now
      total[at] = total[at] * kept + jnp.sum(weights, axis=1, keepdims=True)
      weights = weights if of_values is None else weights * of_values
      mixed[at] = mixed[at] * kept + _product(weights.astype(q.dtype), values, 0)

    jax.lax.fori_loop(0, sizes.group // sizes.together, rows, None)


def _product(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
  """a [R, C] times b, over `axis` of it, in float32."""
  return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
