"""One attention: grouped queries over several parts of keys, joined in one softmax.

A part is a piece of the key sequence that lies in its own array (the cache, the REFEED keys, the tokens' own keys), so
that nothing is copied to be concatenated. Keys are stored rotated. Pinned keys lie in a prefix of the first part and
are seen by a second copy of the queries, rotated to the time without what was evicted in between (design section 3).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite: a row with no visible key stays finite, and nobody sees such a row


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
  """Some keys. k, v: [S, M, H] (k rotated); mask: bool [T, S]; pinned: bool [P] for the first P keys, P <= S."""

  k: Rows
  v: Rows
  mask: jax.Array
  pinned: jax.Array | None = None


def attend(queries: Queries, parts: list[Part]) -> jax.Array:
  """Softmax attention over all parts at once. -> [T, N, H] in the dtype of queries. Scores and softmax are float32."""
  groups = queries.now.shape[1] // jax.tree.leaves(parts[0].k)[0].shape[1]
  scores = [_scores(queries, part, groups) for part in parts]  # [M, G, T, S] each
  highest = functools.reduce(jnp.maximum, [jnp.max(score, axis=-1, keepdims=True) for score in scores])
  weights = [jnp.exp(score - jax.lax.stop_gradient(highest)) for score in scores]
  total = functools.reduce(jnp.add, [jnp.sum(weight, axis=-1) for weight in weights])  # [M, G, T]
  mixed = [_mix(weight, part.v, queries.now.dtype) for weight, part in zip(weights, parts)]
  out = functools.reduce(jnp.add, mixed) / jnp.moveaxis(total, 2, 0)[..., None]
  return out.reshape(queries.now.shape).astype(queries.now.dtype)


def _mix(weights: jax.Array, v: Rows, dtype: jnp.dtype) -> jax.Array:
  """Weights [M, G, T, S] times values: float32 [T, M, G, H]."""
  if isinstance(v, Quantised):
    weights, v = weights * v.scale.T[:, None, None], v.values
  return jnp.einsum("mgts,smh->tmgh", weights.astype(dtype), v.astype(dtype), preferred_element_type=jnp.float32)


def _dot(q: jax.Array, k: Rows, groups: int) -> jax.Array:
  """Scaled products of queries [T, N, H] and keys: float32 [M, G, T, S]."""
  values = k.values.astype(q.dtype) if isinstance(k, Quantised) else k
  q = q.reshape(q.shape[0], -1, groups, q.shape[-1])
  products = jnp.einsum("tmgh,smh->mgts", q, values, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  return products * k.scale.T[:, None, None] if isinstance(k, Quantised) else products


def _scores(queries: Queries, part: Part, groups: int) -> jax.Array:
  """Masked, scaled scores of one part: float32 [M, G, T, S]."""
  if part.pinned is None or part.pinned.shape[0] == 0:
    scores = _dot(queries.now, part.k, groups)
  else:
    pinned = part.pinned.shape[0]
    prefix, rest = jax.tree.map(lambda x: x[:pinned], part.k), jax.tree.map(lambda x: x[pinned:], part.k)
    turned = jnp.where(part.pinned, _dot(queries.pinned, prefix, groups), _dot(queries.now, prefix, groups))
    scores = jnp.concatenate([turned, _dot(queries.now, rest, groups)], axis=-1)
  return jnp.where(part.mask, scores, MASKED)
