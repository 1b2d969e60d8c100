"""The parts of attention over several arrays of keys, and how they become one softmax.

Over a part i of the keys, attention is three sums (FlashAttention's):

    row_max_i = max scores    sum_exp_i = sum exp(scores - row_max_i)    weighted_sum_i = sum exp(scores - row_max_i) v

Only `join` adds up such sums, whether a few keys or a kernel made them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int8

MASKED = -1e30  # finite: a row with no visible key stays finite; such rows are never used


class Queries(NamedTuple):
  """The same queries twice."""

  at_time: Float[Array, "T N H"]  # rotated to their time
  at_pinned: Float[Array, "T N H"]  # rotated to their time minus the evicted gap, for pinned keys


class KeyValue(NamedTuple):
  """Keys (rotated) and values of one layer, or of all layers with a leading axis L; a cache's may be `Quantised`.

  A layer makes those of its tokens as [T, M, H]. They are stored and read as [M, S, H], the keys of a head side by
  side: XLA on CPUs transposes anything else before every product.
  """

  k: jax.Array
  v: jax.Array

  def by_head(self) -> "KeyValue":
    """[..., T, M, H] -> [..., M, T, H]."""
    return KeyValue(self.k.swapaxes(-3, -2), self.v.swapaxes(-3, -2))


class Quantised(NamedTuple):
  """Keys or values in int8, with one scale per token and head."""

  values: Int8[Array, "*L M S H"]
  scale: Float32[Array, "*L M S"]

  @classmethod
  def of(cls, x: Float[Array, "*L M S H"]) -> "Quantised":
    """The nearest of 255 levels between plus and minus the largest component."""
    scale = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=-1) / 127
    values = jnp.rint(x / jnp.maximum(scale, 1e-30)[..., None])
    return cls(values.astype(jnp.int8), scale)

  @classmethod
  def empty(cls, shape: tuple[int, ...]) -> "Quantised":
    """Zeros [..., M, S, H]. (`of` zeros is the same, but compilers work it out for seconds.)"""
    return cls(jnp.zeros(shape, jnp.int8), jnp.zeros(shape[:-1], jnp.float32))


Rows = jax.Array | Quantised  # [M, S, H]


class Packed(NamedTuple):
  """The mask of a long part for the kernel of `nn.attention_cache`."""

  pinned: Bool[Array, "T P"]  # of the pinned prefix
  bits: Int[Array, "words 1 S"]  # of all other keys, 32 queries a word


class Part(NamedTuple):
  """A part of the keys. k, v: [M, S, H] (k rotated); mask: bool [T, S] or Packed; pinned: bool [P] for the first P
  keys, P <= S.

  layer: int32, the layer to read if k and v hold all layers, [L, M, S, H].
  """

  k: Rows
  v: Rows
  mask: Any
  pinned: jax.Array | None = None
  layer: jax.Array | None = None


class Partial(NamedTuple):
  """Attention over some of the keys, in float32, for rows [...] of queries (of `nn.attention`: [M, R])."""

  weighted_sum: Float32[Array, "*R H"]  # sum of exp(score - row_max) times values
  sum_exp: Float32[Array, "*R"]  # sum of exp(score - row_max)
  row_max: Float32[Array, "*R"]  # largest score

  @classmethod
  def of(cls, out: Float[Array, "*R H"], lse: Float32[Array, "*R"]) -> "Partial":
    """Made from attention's output and the log of the sum of exp(scores), which kernels return."""
    return cls(out.astype(jnp.float32), jnp.ones_like(lse), lse)

  def normalise(self) -> tuple[Float32[Array, "*R H"], Float32[Array, "*R"]]:
    """-> (out, lse)."""
    return self.weighted_sum / self.sum_exp[..., None], self.row_max + jnp.log(self.sum_exp)


def join(partials: Partial) -> Partial:
  """Joins partials over different keys, stacked along a first axis, into one."""
  row_max = jnp.max(partials.row_max, axis=0)
  scale = jnp.exp(partials.row_max - row_max)  # brings every part's sums to the common maximum
  weighted_sum = jnp.sum(partials.weighted_sum * scale[..., None], axis=0)
  return Partial(weighted_sum, jnp.sum(partials.sum_exp * scale, axis=0), row_max)


def stack(partials: list[Partial]) -> Partial:
  """Along a first axis, for `join`."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *partials)


def fold_heads(x: jax.Array, key_heads: int) -> jax.Array:
  """[T, N, ...] -> [M, R, ...]: the rows [g0 t0, g0 t1, .., g1 t0, g1 t1, ..] that share a head of keys, R = (N / M) T.

  One axis, not two: under two `jax.vmap` (rows of a batch, units) products would else have rank 7, which crashes some
  versions of jaxlib on the CPU.
  """
  return x.swapaxes(0, 1).reshape(key_heads, -1, *x.shape[2:])


def unfold_heads(x: jax.Array, tokens: int) -> jax.Array:
  """The way back: [M, R, ...] -> [T, N, ...]."""
  return x.reshape(-1, tokens, *x.shape[2:]).swapaxes(0, 1)
