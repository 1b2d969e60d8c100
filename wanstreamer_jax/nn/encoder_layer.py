"""Pre-norm Transformer layers with LayerNorm and a GELU MLP, of pretrained encoders.

`EncoderLayer` attends to all tokens of one picture. `LookAheadLayer` attends to a window of a stream, `(x, state) ->
(y, state)`; a window that reaches into the future makes the layer answer so much later, and never earlier.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from wanstreamer_jax.nn.blocks import Linear, OutputProjection

Gelu = Literal["tanh", "erf"]  # the approximation, or the definition
MASKED = -1e30  # finite: a row that sees nothing stays finite, and is never used


class LayerNorm(nnx.Module):
  """(x - mean) / deviation * scale + b over the last axis, computed in float32."""

  def __init__(self, size: int, epsilon: float = 1e-5, bias: bool = True):
    self.scale = nnx.Param(jnp.ones(size))
    self.b = nnx.Param(jnp.zeros(size)) if bias else None
    self.epsilon = epsilon

  def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
    y = y.astype(x.dtype) * self.scale[...].astype(x.dtype)
    return y if self.b is None else y + self.b[...].astype(x.dtype)


class GeluMLP(nnx.Module):
  """down(gelu(up x)), both with biases."""

  def __init__(self, width: int, hidden: int, gelu: Gelu, *, rngs: nnx.Rngs):
    self.up_proj = Linear(width, hidden, rngs=rngs, bias=True)
    self.down_proj = Linear(hidden, width, rngs=rngs, bias=True)
    self.approximate = gelu == "tanh"

  def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
    return self.down_proj(jax.nn.gelu(self.up_proj(x), approximate=self.approximate))


def mix(
  q: Float[Array, "T N H"], k: Float[Array, "S M H"], v: Float[Array, "S M H"], mask: Bool[Array, "T S"] | None
) -> Float[Array, "T N H"]:
  """Softmax attention with N / M queries a head of keys; scores and softmax are float32. Without mask: to all keys."""
  grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[2])
  scores = jnp.einsum("tmgh,smh->mgts", grouped, k, preferred_element_type=jnp.float32) * q.shape[2] ** -0.5
  if mask is not None:
    scores = jnp.where(mask, scores, MASKED)
  weights: Float32[Array, "M G T S"] = jax.nn.softmax(scores, axis=-1)
  return jnp.einsum("mgts,smh->tmgh", weights.astype(v.dtype), v).reshape(q.shape)


class EncoderLayer(nnx.Module):
  """Attention to all tokens, then the MLP."""

  def __init__(self, width: int, heads: int, mlp: int, epsilon: float, *, rngs: nnx.Rngs):
    shape = (heads, width // heads)
    self.attn_norm, self.mlp_norm = LayerNorm(width, epsilon), LayerNorm(width, epsilon)
    self.q_proj = Linear(width, shape, rngs=rngs, bias=True)
    self.k_proj = Linear(width, shape, rngs=rngs, bias=True)
    self.v_proj = Linear(width, shape, rngs=rngs, bias=True)
    self.o_proj = OutputProjection(*shape, width, rngs=rngs, scale=0.5, bias=True)
    self.mlp = GeluMLP(width, mlp, "tanh", rngs=rngs)

  def __call__(self, x: Float[Array, "T D"]) -> Float[Array, "T D"]:
    h = self.attn_norm(x)
    x = x + self.o_proj(mix(self.q_proj(h), self.k_proj(h), self.v_proj(h), None))
    return x + self.mlp(self.mlp_norm(x))


class LookAheadState(NamedTuple):
  """What a `LookAheadLayer` remembers: P = past + future - 1 steps of keys and values, and the future's own inputs."""

  k: Float[Array, "P M H"]
  v: Float[Array, "P M H"]
  x: Float[Array, "F D"]


class LookAheadLayer(nnx.Module):
  """Attention of step t to the steps t - past + 1 .. t + future, then the MLP. Output t comes `future` steps late."""

  def __init__(
    self, width: int, heads: tuple[int, int], head_dim: int, mlp: int, *, past: int, future: int, rngs: nnx.Rngs
  ):
    """heads: of queries and of keys."""
    queries, keys = heads
    self.attn_norm, self.mlp_norm = LayerNorm(width, bias=False), LayerNorm(width, bias=False)
    self.q_proj = Linear(width, (queries, head_dim), rngs=rngs)
    self.k_proj = Linear(width, (keys, head_dim), rngs=rngs)
    self.v_proj = Linear(width, (keys, head_dim), rngs=rngs)
    self.o_proj = OutputProjection(queries, head_dim, width, rngs=rngs, scale=0.5)
    self.mlp = GeluMLP(width, mlp, "erf", rngs=rngs)
    self.width, self.shape, self.past, self.future = width, (keys, head_dim), past, future

  def initial_state(self) -> LookAheadState:
    zeros = jnp.zeros((self.past - 1 + self.future, *self.shape))
    return LookAheadState(zeros, zeros, jnp.zeros((self.future, self.width)))

  def __call__(
    self, x: Float[Array, "T D"], first: Int[Array, ""], state: LookAheadState
  ) -> tuple[Float[Array, "T D"], LookAheadState]:
    """x: steps first .. first + T - 1 -> steps first - future .. first - future + T - 1. Steps below 0 do not exist."""
    steps = x.shape[0]
    x = jnp.concatenate([state.x.astype(x.dtype), x])  # [F + T, D]
    h = self.attn_norm(x)
    fresh = h[self.future :]
    k = jnp.concatenate([state.k.astype(x.dtype), self.k_proj(fresh)])
    v = jnp.concatenate([state.v.astype(x.dtype), self.v_proj(fresh)])
    asking = first - self.future + jnp.arange(steps)
    key = first - (k.shape[0] - steps) + jnp.arange(k.shape[0])
    age = asking[:, None] - key
    seen = (age < self.past) & (age >= -self.future) & (key >= 0)
    y = x[:steps]
    y = y + self.o_proj(mix(self.q_proj(h[:steps]), k, v, seen))
    y = y + self.mlp(self.mlp_norm(y))
    y = jnp.where((asking >= 0)[:, None], y, 0)
    return y, jax.tree.map(lambda old, new: new[steps:].astype(old.dtype), state, LookAheadState(k, v, x))
