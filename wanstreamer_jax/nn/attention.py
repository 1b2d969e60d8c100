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


class Part(NamedTuple):
  """Some keys. k, v: [S, M, H] (k rotated); mask: bool [T, S]; pinned: bool [P] for the first P keys, P <= S."""

  k: jax.Array
  v: jax.Array
  mask: jax.Array
  pinned: jax.Array | None = None


def attend(queries: Queries, parts: list[Part]) -> jax.Array:
  """Softmax attention over all parts at once. -> [T, N, H] in the dtype of v. Scores and softmax are float32."""
  groups = queries.now.shape[1] // parts[0].k.shape[1]
  scores = [_scores(queries, part, groups) for part in parts]  # [M, G, T, S] each
  highest = functools.reduce(jnp.maximum, [jnp.max(score, axis=-1, keepdims=True) for score in scores])
  weights = [jnp.exp(score - jax.lax.stop_gradient(highest)) for score in scores]
  total = functools.reduce(jnp.add, [jnp.sum(weight, axis=-1) for weight in weights])  # [M, G, T]
  mixed = [
    jnp.einsum("mgts,smh->tmgh", weight.astype(part.v.dtype), part.v, preferred_element_type=jnp.float32)
    for weight, part in zip(weights, parts)
  ]
  out = functools.reduce(jnp.add, mixed) / jnp.moveaxis(total, 2, 0)[..., None]
  return out.reshape(queries.now.shape).astype(queries.now.dtype)


def _scores(queries: Queries, part: Part, groups: int) -> jax.Array:
  """Masked, scaled scores of one part: float32 [M, G, T, S]."""
  scale = queries.now.shape[-1] ** -0.5
  dot = lambda q, k: (
    scale
    * jnp.einsum(
      "tmgh,smh->mgts", q.reshape(q.shape[0], -1, groups, q.shape[-1]), k, preferred_element_type=jnp.float32
    )
  )
  if part.pinned is None or part.pinned.shape[0] == 0:
    scores = dot(queries.now, part.k)
  else:
    prefix = part.k[: part.pinned.shape[0]]
    pinned = jnp.where(part.pinned, dot(queries.pinned, prefix), dot(queries.now, prefix))
    scores = jnp.concatenate([pinned, dot(queries.now, part.k[part.pinned.shape[0] :])], axis=-1)
  return jnp.where(part.mask, scores, MASKED)
