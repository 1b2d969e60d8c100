"""One attention: grouped queries over several parts of keys, joined in one softmax.

A part is a piece of the key sequence that lies in its own array (the cache, the REFEED keys, the tokens' own keys), so
that nothing is copied to be concatenated. Keys are stored rotated. Pinned keys lie in a prefix of the first part and
are seen by a second copy of the queries, rotated to the time without what was evicted in between (`units.evicted`).

A few queries attend to a long cache in chunks, several at a time, side by side on a batch axis. So only the scores of a
few chunks are in memory at once, and all cores of a processor have work; one long sum per query would occupy only a few
of them (FlashDecoding's split keys).

Letters: T queries, S keys, N heads of queries, M heads of keys, H head size, R = (N / M) T rows of queries that share a
head of keys (`fold_heads`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from wanstreamer_jax.nn.attention_parts import (
  MASKED,
  Packed,
  Part,
  Partial,
  Quantised,
  Queries,
  Rows,
  fold_heads,
  join,
  stack,
  unfold_heads,
)
from wanstreamer_jax.nn.backend import is_partitioned, platform

CHUNK_KEYS = 2048
CHUNKS_AT_ONCE = 4  # side by side
FEW = 1024  # queries; more of them keep any processor busy, and their keys are no longer than they are


class Way(NamedTuple):
  """How `attend` computes. The numbers are the same but for rounding.

  at_once: how many chunks of a long part's keys are met side by side. low_rank: whether the queries that share a head
  of keys become one axis before they meet the keys, which keeps products below rank 7 under two `jax.vmap` (see
  `fold_heads`). A step has no two such axes around it, and is faster without.
  """

  at_once: int
  low_rank: bool = True


def attend(queries: Queries, parts: list[Part], way: Way | None = None) -> Float[Array, "T N H"]:
  """Softmax attention over all parts at once, in the dtype of queries. Scores and softmax are float32."""
  way = way or Way(CHUNKS_AT_ONCE)
  found = [partial for part in parts for partial in _partials(queries, part, way)]
  out, _ = join(stack(found)).normalise()  # [M, R, H]
  return unfold_heads(out, queries.at_time.shape[0]).astype(queries.at_time.dtype)


def takes_kernel(queries: int, keys: int) -> bool:
  """Whether so many queries meet so many keys in the kernel of `nn.attention_cache`."""
  return platform() == "tpu" and not is_partitioned() and queries <= FEW and keys >= 2 * CHUNK_KEYS


def prepare_mask(mask: Bool[Array, "T S"], pinned: int) -> Bool[Array, "T S"] | Packed:
  """The mask of a part with this number of pinned keys, in the processor's format; made once for all layers.

  On TPUs a kernel without a gradient computes a few queries over many keys: with chunks, scores would be most of what
  a step reads and writes.
  """
  if not takes_kernel(mask.shape[0], mask.shape[1] - pinned):
    return mask
  from wanstreamer_jax.nn.attention_cache import pack  # Pallas takes a second to import

  return Packed(mask[:, :pinned], pack(mask, pinned))


def _partials(queries: Queries, part: Part, way: Way) -> list[Partial]:
  """A part's keys in pieces: its pinned prefix, then all others in the kernel, or in whole chunks where that is worth
  it, and the rest.

      [pinned | chunk | chunk | ... | rest]
  """
  found, pinned = [], 0 if part.pinned is None else part.pinned.shape[0]
  mask = part.mask.pinned if isinstance(part.mask, Packed) else part.mask
  if pinned:
    prefix = _some(part._replace(mask=mask), 0, pinned)
    found.append(partial_attention(queries, prefix._replace(pinned=part.pinned), way.low_rank))
  if isinstance(part.mask, Packed):
    from wanstreamer_jax.nn.attention_cache import over_long

    return [*found, join(over_long(queries.at_time, part, pinned))]
  keys = mask.shape[1]
  chunks = (keys - pinned) // CHUNK_KEYS if mask.shape[0] <= FEW else 0
  end = pinned
  if chunks > 1:
    found += _in_chunks(queries, part, pinned, chunks, way)
    end += chunks * CHUNK_KEYS
  return [*found, partial_attention(queries, _some(part, end, keys - end), way.low_rank)] if keys > end else found


def _some(part: Part, start: int | jax.Array, keys: int) -> Part:
  """So many of a part's keys from `start` on, cut out of those of all layers."""

  def cut(x: jax.Array) -> jax.Array:
    if part.layer is None:
      return jax.lax.dynamic_slice_in_dim(x, start, keys, axis=1)  # [M, S, ...], or the mask [T, S]
    at = (part.layer, 0, start, *(0,) * (x.ndim - 3))
    return jax.lax.dynamic_slice(x, at, (1, x.shape[1], keys, *x.shape[3:]))[0]

  k, v = jax.tree.map(cut, (part.k, part.v))
  return Part(k, v, jax.lax.dynamic_slice_in_dim(part.mask, start, keys, axis=1))


def _in_chunks(queries: Queries, part: Part, start: int, chunks: int, way: Way) -> list[Partial]:
  """As `partial_attention` of so many chunks from key `start` on, `way.at_once` of them side by side."""

  def side_by_side(first: int | jax.Array, count: int) -> Partial:
    """Chunks `first` to `first + count`, read where they lie."""
    keys = _some(part, start + first * CHUNK_KEYS, count * CHUNK_KEYS)
    split = lambda x: x.reshape(x.shape[0], count, CHUNK_KEYS, *x.shape[2:])  # [M, S, ...] or [T, S], S = count chunks
    one = functools.partial(partial_attention, queries, low_rank=way.low_rank)
    return join(jax.vmap(one, in_axes=1)(jax.tree.map(split, keys)))

  rounds, rest = divmod(chunks, way.at_once)
  over_round = lambda i: side_by_side(i * way.at_once, way.at_once)
  found = [join(jax.lax.map(over_round, jnp.arange(rounds)))] if rounds else []
  return [*found, side_by_side(rounds * way.at_once, rest)] if rest else found


def partial_attention(queries: Queries, part: Part, low_rank: bool = True) -> Partial:
  """Attention over all keys of a part at once, its scores in memory: rows [M, R]. The mask is an array; the layer is
  already cut out."""
  scores = scaled_scores(queries.at_time, part.k, low_rank)
  if part.pinned is not None:
    scores = jnp.where(part.pinned, scaled_scores(queries.at_pinned, part.k, low_rank), scores)
  by_token = scores.reshape(scores.shape[0], -1, *part.mask.shape)  # [M, R, S] -> [M, G, T, S], for the mask's [T, S]
  scores = jnp.where(part.mask, by_token, MASKED).reshape(scores.shape)
  row_max = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
  weights = jnp.exp(scores - row_max[..., None])
  return Partial(_mix(weights, part.v, queries.at_time.dtype), jnp.sum(weights, axis=-1), row_max)


def scaled_scores(q: Float[Array, "T N H"], k: Rows, low_rank: bool = True) -> Float32[Array, "M R S"]:
  """Products of queries and keys [M, S, H], times H^-0.5. low_rank: see `Way`."""
  values = k.values.astype(q.dtype) if isinstance(k, Quantised) else k
  heads, keys = values.shape[:2]
  if low_rank:
    products = jnp.einsum("mrh,msh->mrs", fold_heads(q, heads), values, preferred_element_type=jnp.float32)
  else:
    by_group = q.reshape(q.shape[0], heads, -1, q.shape[-1])  # [T, N, H] -> [T, M, G, H]
    products = jnp.einsum("tmgh,msh->mgts", by_group, values, preferred_element_type=jnp.float32)
  products = products.reshape(heads, -1, keys) * q.shape[-1] ** -0.5  # [M, R, S], R = G T
  return products * k.scale[:, None] if isinstance(k, Quantised) else products


def _mix(weights: Float32[Array, "M R S"], v: Rows, dtype: jnp.dtype) -> Float32[Array, "M R H"]:
  """Weights times values [M, S, H]."""
  if isinstance(v, Quantised):
    weights, v = weights * v.scale[:, None], v.values
  return jnp.einsum("mrs,msh->mrh", weights.astype(dtype), v.astype(dtype), preferred_element_type=jnp.float32)
