"""One attention: grouped queries over several parts of keys, joined in one softmax.

A part is a piece of the key sequence that lies in its own array (the cache, the REFEED keys, the tokens' own keys), so
that nothing is copied to be concatenated. Keys are stored rotated. Pinned keys lie in a prefix of the first part and
are seen by a second copy of the queries, rotated to the time without what was evicted in between (design section 3).

A few queries on a long cache meet it in chunks: some at a time, side by side on a batch axis. So the scores of a few
chunks are all that is ever in memory, and there is work for all of a processor where a query's one long sum over keys
would be work for a few of its cores (design section 10; FlashDecoding's split keys).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wanstreamer_jax.nn.platform import platform

MASKED = -1e30  # finite: a row with no visible key stays finite, and nobody sees such a row
CHUNK = 2048  # keys
AT_ONCE = 4  # chunks side by side
FEW = 1024  # queries; more are enough to do for any processor, and come with keys that are no longer than they


class Queries(NamedTuple):
  """The same queries twice. now: [T, N, H], rotated to their time; pinned: [T, N, H], to their time minus the gap."""

  now: jax.Array
  pinned: jax.Array


class Quantised(NamedTuple):
  """Keys or values in int8, with one scale per token and head. values: int8 [..., S, M, H]; scale: [..., S, M]."""

  values: jax.Array
  scale: jax.Array

  @classmethod
  def of(cls, x: jax.Array) -> "Quantised":
    """The nearest of 255 levels between plus and minus the largest component."""
    scale = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=-1) / 127
    values = jnp.rint(x / jnp.maximum(scale, 1e-30)[..., None])
    return cls(values.astype(jnp.int8), scale)


Rows = jax.Array | Quantised  # [S, M, H]


class Part(NamedTuple):
  """Some keys. k, v: [S, M, H] (k rotated); mask: bool [T, S]; pinned: bool [P] for the first P keys, P <= S.

  layer: int32, if k and v are of all layers, [L, S, M, H]: which of them it is. bits: `packed` mask, if layers share it.
  """

  k: Rows
  v: Rows
  mask: jax.Array
  pinned: jax.Array | None = None
  layer: jax.Array | None = None
  bits: jax.Array | None = None

  def some(self, place: slice) -> "Part":
    """Some of the keys, cut out of all layers'."""
    own = lambda x: x if self.layer is None else jax.lax.dynamic_index_in_dim(x, self.layer, keepdims=False)
    k, v = jax.tree.map(lambda x: own(x)[place], (self.k, self.v))
    return Part(k, v, self.mask[:, place])


class Partial(NamedTuple):
  """Attention over some of the keys, in float32. Sums are of exp(score - highest) and may be joined by `_join`."""

  mixed: jax.Array  # [M, G, T, H], sum of weights times values
  total: jax.Array  # [M, G, T], sum of weights
  highest: jax.Array  # [M, G, T]


def attend(queries: Queries, parts: list[Part]) -> jax.Array:
  """Softmax attention over all parts at once. -> [T, N, H] in the dtype of queries. Scores and softmax are float32."""
  found = [partial for part in parts for partial in _partials(queries, part)]
  whole = _join(_stacked(found))
  out = jnp.moveaxis(whole.mixed / whole.total[..., None], 2, 0)
  return out.reshape(queries.now.shape).astype(queries.now.dtype)


def _partials(queries: Queries, part: Part) -> list[Partial]:
  """A part's keys in pieces: its pinned prefix, whole chunks where that is worth it, and the rest."""
  found, pinned = [], 0 if part.pinned is None else part.pinned.shape[0]
  if pinned:
    found.append(_over(queries, part.some(slice(pinned))._replace(pinned=part.pinned)))
  keys = part.mask.shape[1]
  if not _is_long(part.mask, pinned):
    return [*found, _over(queries, part.some(slice(pinned, None)))] if keys > pinned else found
  if platform() == "tpu":
    return [*found, _in_kernel(pinned, queries, part)]
  return [*found, *_in_chunks(pinned, queries, part)]


def _is_long(mask: jax.Array, start: int) -> bool:
  """Whether few queries meet many keys, from `start` on."""
  return mask.shape[1] - start >= 2 * CHUNK and mask.shape[0] <= FEW


def packed(mask: jax.Array, start: int) -> jax.Array | None:
  """The mask of a part with `start` pinned keys, as the kernel reads it, where there is one: every layer's is the same,
  but the compiler would make it again for each."""
  if platform() != "tpu" or not _is_long(mask, start):
    return None
  from wanstreamer_jax.nn.long_keys import pack  # Pallas takes a second to import

  return pack(mask, start)


def _in_chunks(start: int, queries: Queries, part: Part) -> list[Partial]:
  """A part's keys from `start` on, none of them pinned: whole chunks and the rest."""
  keys = part.mask.shape[1]
  chunks = (keys - start) // CHUNK
  end = start + chunks * CHUNK
  found = [_over_chunks(queries, part.some(slice(start, end)), chunks)]
  return [*found, _over(queries, part.some(slice(end, None)))] if keys > end else found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_kernel(start: int, queries: Queries, part: Part) -> Partial:
  """`_in_chunks` on TPUs, where chunks' scores would be most of what a step reads and writes."""
  from wanstreamer_jax.nn.long_keys import over_long  # Pallas takes a second to import

  return _join(over_long(queries.now, part, start))


def _in_kernel_forward(start: int, queries: Queries, part: Part) -> tuple[Partial, tuple[Queries, Part]]:
  return _in_kernel(start, queries, part), (queries, part)


def _in_kernel_backward(start: int, kept: tuple[Queries, Part], grad: Partial) -> tuple[Queries, Part]:
  queries, part = kept
  chunks = lambda q, k, v: _join(_stacked(_in_chunks(start, q, part._replace(k=k, v=v))))
  _, backward = jax.vjp(chunks, queries, part.k, part.v)
  of_queries, k, v = backward(grad)
  return of_queries, Part(k, v, *[None] * 4)  # type: ignore[list-item]


_in_kernel.defvjp(_in_kernel_forward, _in_kernel_backward)


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
  scores = jnp.where(part.mask, scores, MASKED)
  highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
  weights = jnp.exp(scores - highest[..., None])
  return Partial(_mix(weights, part.v, queries.now.dtype), jnp.sum(weights, axis=-1), highest)


def _stacked(partials: list[Partial]) -> Partial:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *partials)


def _join(partials: Partial) -> Partial:
  """Partials over different keys, stacked along a first axis, as one."""
  highest = jnp.max(partials.highest, axis=0)
  scale = jnp.exp(partials.highest - highest)
  return Partial(
    jnp.sum(partials.mixed * scale[..., None], axis=0), jnp.sum(partials.total * scale, axis=0), highest
  )  # fmt: skip


def _mix(weights: jax.Array, v: Rows, dtype: jnp.dtype) -> jax.Array:
  """Weights [M, G, T, S] times values: float32 [M, G, T, H]."""
  if isinstance(v, Quantised):
    weights, v = weights * v.scale.T[:, None, None], v.values
  return jnp.einsum("mgts,smh->mgth", weights.astype(dtype), v.astype(dtype), preferred_element_type=jnp.float32)


def _dot(q: jax.Array, k: Rows) -> jax.Array:
  """Scaled products of queries [T, N, H] and keys: float32 [M, G, T, S]."""
  values = k.values.astype(q.dtype) if isinstance(k, Quantised) else k
  q = q.reshape(q.shape[0], values.shape[1], -1, q.shape[-1])
  products = jnp.einsum("tmgh,smh->mgts", q, values, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  return products * k.scale.T[:, None, None] if isinstance(k, Quantised) else products
