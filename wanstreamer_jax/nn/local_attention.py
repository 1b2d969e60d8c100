"""Causal attention over the last `window` steps: `(x, state) -> (y, state)`. Chunks may have any length.

The state holds the rotated keys and the values of the last window - 1 steps, and the number of steps so far. A chunk
attends to that past and to itself, so nothing is lost when a chunk is longer than one step (a ring of `window` slots
that is written before it is read would drop the oldest key of the earlier queries).
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_parts import KeyValue, Part, Queries
from wanstreamer_jax.nn.blocks import MLP, Linear, OutputProjection, RMSNorm
from wanstreamer_jax.nn.rotary import angles, rotate

IDS_PER_STEP = 4  # of the stream, to one step of rotary positions; trained encoders rely on it


class LocalState(NamedTuple):
  """The state: keys and values of the last P = window - 1 steps."""

  k: Float[Array, "P N H"]  # rotated
  v: Float[Array, "P N H"]
  step: Int[Array, ""]  # how many steps came before


class LocalAttentionLayer(nnx.Module):
  """Pre-norm causal attention within `window` steps, then SwiGLU."""

  def __init__(self, width: int, heads: int, window: int, *, rngs: nnx.Rngs):
    self.width, self.heads, self.window = width, heads, window
    self.head_dim = width // heads
    self.attn_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)
    self.q_proj = Linear(width, (heads, self.head_dim), rngs=rngs)
    self.k_proj = Linear(width, (heads, self.head_dim), rngs=rngs)
    self.v_proj = Linear(width, (heads, self.head_dim), rngs=rngs)
    self.o_proj = OutputProjection(heads, self.head_dim, width, rngs=rngs, scale=0.5)
    self.mlp = MLP(width, 2 * width, rngs=rngs, residual_scale=0.5)

  def initial_state(self) -> LocalState:
    zeros = jnp.zeros((self.window - 1, self.heads, self.head_dim))
    return LocalState(zeros, zeros, jnp.zeros((), jnp.int32))

  def __call__(self, x: Float[Array, "T D"], state: LocalState) -> tuple[Float[Array, "T D"], LocalState]:
    past = self.window - 1
    now = state.step + jnp.arange(x.shape[0])
    before = state.step - past + jnp.arange(past)
    angle = angles(jnp.repeat(now[:, None], 3, axis=1), self.head_dim, 1000.0, IDS_PER_STEP)
    h = self.attn_norm(x)
    q, k, v = rotate(self.q_proj(h), angle), rotate(self.k_proj(h), angle), self.v_proj(h)
    recent = (before >= 0) & (now[:, None] - before < self.window)  # [T, P]
    own = (now <= now[:, None]) & (now[:, None] - now < self.window)
    parts = [Part(*KeyValue(state.k, state.v).by_head(), recent), Part(*KeyValue(k, v).by_head(), own)]
    x = x + self.o_proj(attend(Queries(q, q), parts))
    x = x + self.mlp(self.mlp_norm(x))
    keep = lambda old, new: jnp.concatenate([old, new])[-past:] if past else old
    return x, LocalState(keep(state.k, k), keep(state.v, v), state.step + x.shape[0])
