"""Causal attention over the last `window` steps, as speech tokenizers have it.

A layer has LayerNorm, GELU and gains.

`(x, state) -> (y, state)`, chunks of any length. Keys are stored as they come, without rotation, and are rotated
relative to the chunk that reads them: rotary scores depend on distances only, so that no clock can run out and the
angles are constants. (`local_attention.py`, which the native codecs were trained with, rotates by absolute time.)

Letters: T steps of a chunk, P = window - 1 steps of the past, N heads of queries, M heads of keys, H head size.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_parts import KeyValue, Part, Queries
from wanstreamer_jax.nn.blocks import Linear, OutputProjection
from wanstreamer_jax.nn.encoder_layer import LayerNorm
from wanstreamer_jax.nn.rotary import Angles, rotate


class WindowSizes(NamedTuple):
  """The geometry of a layer."""

  width: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  window: int  # steps that a query sees, its own included
  theta: float = 10_000.0
  epsilon: float = 1e-5
  activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh"


class WindowState(NamedTuple):
  """The state: the last P steps, oldest first."""

  k: Float[Array, "P M H"]  # not rotated
  v: Float[Array, "P M H"]
  filled: Int[Array, ""]  # how many of them have been, at most P


class LayerScale(nnx.Module):
  """A gain per channel of a residual branch (arXiv 2103.17239)."""

  def __init__(self, channels: int, value: float = 0.1):
    self.gain = nnx.Param(jnp.full(channels, value))

  def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
    return x * self.gain[...]


def relative_angles(past: int, steps: int, head_dim: int, theta: float) -> Angles:
  """cos and sin at positions -past .. steps - 1, as constants: [past + steps, head_dim / 2] each."""
  frequency = theta ** (-np.arange(head_dim // 2) / (head_dim // 2))
  angle = np.arange(-past, steps)[:, None] * frequency
  return Angles(jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32))


class WindowedLayer(nnx.Module):
  """x + gain * attention(norm(x)), then x + gain * MLP(norm(x))."""

  def __init__(self, sizes: WindowSizes, *, rngs: nnx.Rngs):
    self.sizes = sizes
    width, head_dim = sizes.width, sizes.head_dim
    self.attn_norm, self.mlp_norm = LayerNorm(width, sizes.epsilon), LayerNorm(width, sizes.epsilon)
    self.q_proj = Linear(width, (sizes.heads, head_dim), rngs=rngs)
    self.k_proj = Linear(width, (sizes.kv_heads, head_dim), rngs=rngs)
    self.v_proj = Linear(width, (sizes.kv_heads, head_dim), rngs=rngs)
    self.o_proj = OutputProjection(sizes.heads, head_dim, width, rngs=rngs, scale=1.0)
    self.up_proj = Linear(width, sizes.mlp, rngs=rngs)
    self.down_proj = Linear(sizes.mlp, width, rngs=rngs)
    self.attn_gain, self.mlp_gain = LayerScale(width), LayerScale(width)

  def initial_state(self) -> WindowState:
    zeros = jnp.zeros((self.sizes.window - 1, self.sizes.kv_heads, self.sizes.head_dim))
    return WindowState(zeros, zeros, jnp.zeros((), jnp.int32))

  def __call__(self, x: Float[Array, "T D"], state: WindowState) -> tuple[Float[Array, "T D"], WindowState]:
    y, state = self.attention(self.attn_norm(x), state)
    x = x + self.attn_gain(y)
    hidden = jax.nn.gelu(self.up_proj(self.mlp_norm(x)), approximate=self.sizes.activation == "gelu_tanh")
    return x + self.mlp_gain(self.down_proj(hidden)), state

  def attention(self, x: Float[Array, "T D"], state: WindowState) -> tuple[Float[Array, "T D"], WindowState]:
    past, steps = self.sizes.window - 1, x.shape[0]
    angle = relative_angles(past, steps, self.sizes.head_dim, self.sizes.theta)
    before, now = Angles(*(a[:past] for a in angle)), Angles(*(a[past:] for a in angle))
    q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
    distance = np.arange(steps)[:, None] - np.arange(-past, steps)  # [T, P + T]
    near = (distance >= 0) & (distance < self.sizes.window)
    real = jnp.arange(past) >= past - state.filled
    parts = [
      Part(*KeyValue(rotate(state.k, before), state.v).by_head(), near[:, :past] & real),
      Part(*KeyValue(rotate(k, now), v).by_head(), jnp.asarray(near[:, past:])),
    ]
    q = rotate(q, now)
    y = self.o_proj(attend(Queries(q, q), parts))
    keep = lambda old, new: jnp.concatenate([old, new])[steps:]
    return y, WindowState(keep(state.k, k), keep(state.v, v), jnp.minimum(state.filled + steps, past))
