"""What attention over several parts of keys is made of."""

from typing import Any, NamedTuple

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


class Packed(NamedTuple):
  """The mask of a long part for the kernel of `nn.long_keys`. pinned: bool [T, P], of the pinned prefix; bits: int32
  [T / 32, 1, S], of all other keys."""

  pinned: jax.Array
  bits: jax.Array


class Part(NamedTuple):
  """Some keys. k, v: [S, M, H] (k rotated); mask: bool [T, S] or Packed; pinned: bool [P] for the first P keys, P <= S.

  layer: int32, if k and v are of all layers, [L, S, M, H]: which of them it is.
  """

  k: Rows
  v: Rows
  mask: Any
  pinned: jax.Array | None = None
  layer: jax.Array | None = None


class Partial(NamedTuple):
  """Attention over some of the keys, in float32. Sums are of exp(score - highest) and may be joined by `_join`."""

  mixed: jax.Array  # [M, R, H], sum of weights times values
  total: jax.Array  # [M, R], sum of weights
  highest: jax.Array  # [M, R]


def _join(partials: Partial) -> Partial:
  """Partials over different keys, stacked along a first axis, as one."""
  highest = jnp.max(partials.highest, axis=0)
  scale = jnp.exp(partials.highest - highest)
  return Partial(
    jnp.sum(partials.mixed * scale[..., None], axis=0), jnp.sum(partials.total * scale, axis=0), highest
  )  # fmt: skip
