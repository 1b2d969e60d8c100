"""One attention: grouped queries over several parts of keys, joined in one softmax.

A part is a piece of the key sequence that lies in its own array (the cache, the REFEED keys, the tokens' own keys), so
that nothing is copied to be concatenated. Keys are stored rotated. Pinned keys lie in a prefix of the first part and
are seen by a second copy of the queries, rotated to the time without what was evicted in between (design section 3).

A few queries on a long cache meet it in chunks: some at a time, side by side on a batch axis. So the scores of a few
chunks are all that is ever in memory, and there is work for all of a processor where a query's one long sum over keys
would be work for a few of its cores (design section 10; FlashDecoding's split keys).

Letters: T queries, S keys, N heads of queries, M heads of keys, G = N / M, H head size, R = G T: the queries that share
a head of keys are the rows [g0 t0, g0 t1, ..., g1 t0, g1 t1, ...] of one matrix product. Two axes for them would give
products under two `jax.vmap` (rows of a batch and units) a rank of 7, which crashes some versions of jaxlib
(`parallel/xla_flags.py`).
"""

import functools

import jax
import jax.numpy as jnp

from wanstreamer_jax.nn.attention_parts import MASKED, Packed, Part, Partial, Quantised, Queries, Rows, _join
from wanstreamer_jax.nn.backend import is_partitioned, platform

CHUNK = 2048  # keys
AT_ONCE = 4  # chunks side by side
FEW = 1024  # queries; more are enough to do for any processor, and come with keys that are no longer than they


def attend(queries: Queries, parts: list[Part]) -> jax.Array:
  """Softmax attention over all parts at once. -> [T, N, H] in the dtype of queries. Scores and softmax are float32."""
  found = [partial for part in parts for partial in _partials(queries, part)]
  whole = _join(_stacked(found))
  tokens, heads, depth = queries.now.shape
  out = (whole.mixed / whole.total[..., None]).reshape(heads, tokens, depth)  # [M, R, H] -> [N, T, H]
  return out.swapaxes(0, 1).astype(queries.now.dtype)


def prepare_mask(mask: jax.Array, pinned: int) -> jax.Array | Packed:
  """The mask [T, S] of a part with so many pinned keys, as the processor wants it, to be made once for all layers.

  On TPUs a few queries meet many keys in a kernel, which has no gradient: of chunks, the scores would be most of what a
  step reads and writes.
  """
  few, long = mask.shape[0] <= FEW, mask.shape[1] - pinned >= 2 * CHUNK
  if platform() != "tpu" or is_partitioned() or not (few and long):
    return mask
  from wanstreamer_jax.nn.attention_cache import pack  # Pallas takes a second to import

  return Packed(mask[:, :pinned], pack(mask, pinned))


def _partials(queries: Queries, part: Part) -> list[Partial]:
  """A part's keys in pieces: its pinned prefix; then all in the kernel, or whole chunks where that is worth it, and the
  rest."""
  found, pinned = [], 0 if part.pinned is None else part.pinned.shape[0]
  mask = part.mask.pinned if isinstance(part.mask, Packed) else part.mask
  if pinned:
    prefix = _some(part._replace(mask=mask), slice(pinned))
    found.append(_over(queries, prefix._replace(pinned=part.pinned)))
  if isinstance(part.mask, Packed):
    from wanstreamer_jax.nn.attention_cache import over_long

    return [*found, _join(over_long(queries.now, part, pinned))]
  keys = mask.shape[1]
  chunks = (keys - pinned) // CHUNK if mask.shape[0] <= FEW else 0
  end = pinned + chunks * CHUNK if chunks > 1 else pinned
  if end > pinned:
    found.append(_over_chunks(queries, _some(part, slice(pinned, end)), chunks))
  return [*found, _over(queries, _some(part, slice(end, None)))] if keys > end else found


def _some(part: Part, place: slice) -> Part:
  """Some of a part's keys, cut out of all layers'."""
  own = lambda x: x if part.layer is None else jax.lax.dynamic_index_in_dim(x, part.layer, keepdims=False)
  k, v = jax.tree.map(lambda x: own(x)[place], (part.k, part.v))
  return Part(k, v, part.mask[:, place])


def _over_chunks(queries: Queries, part: Part, chunks: int) -> Partial:
  """As `_over`, a few chunks at a time."""
  k, v = jax.tree.map(lambda x: x.reshape(chunks, -1, *x.shape[1:]), (part.k, part.v))
  mask = jnp.moveaxis(part.mask.reshape(-1, chunks, part.mask.shape[1] // chunks), 1, 0)
  return _join(jax.lax.map(functools.partial(_over, queries), Part(k, v, mask), batch_size=AT_ONCE))


def _over(queries: Queries, part: Part) -> Partial:
  """All keys of a part at once."""
  scores = _dot(queries.now, part.k)
  if part.pinned is not None:
    scores = jnp.where(part.pinned, _dot(queries.pinned, part.k), scores)
  mask = jnp.tile(part.mask, (scores.shape[1] // part.mask.shape[0], 1))  # [T, S] -> [R, S]
  scores = jnp.where(mask, scores, MASKED)
  highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
  weights = jnp.exp(scores - highest[..., None])
  return Partial(_mix(weights, part.v, queries.now.dtype), jnp.sum(weights, axis=-1), highest)


def _stacked(partials: list[Partial]) -> Partial:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *partials)


def _mix(weights: jax.Array, v: Rows, dtype: jnp.dtype) -> jax.Array:
  """Weights [M, R, S] times values: float32 [M, R, H]."""
  if isinstance(v, Quantised):
    weights, v = weights * v.scale.T[:, None], v.values
  return jnp.einsum("mrs,smh->mrh", weights.astype(dtype), v.astype(dtype), preferred_element_type=jnp.float32)


def _dot(q: jax.Array, k: Rows) -> jax.Array:
  """Scaled products of queries [T, N, H] and keys: float32 [M, R, S]."""
  values = k.values.astype(q.dtype) if isinstance(k, Quantised) else k
  rows = q.swapaxes(0, 1).reshape(values.shape[1], -1, q.shape[-1])  # [T, N, H] -> [N, T, H] -> [M, R, H]
  products = jnp.einsum("mrh,smh->mrs", rows, values, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  return products * k.scale.T[:, None] if isinstance(k, Quantised) else products
