"""One decoder layer: pre-norm attention and SwiGLU; adaptive norms carry the flow time. Only latent tokens have a flow
time.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from wanstreamer_jax.config import ModelConfig
from wanstreamer_jax.nn.attention_parts import KeyValue, Queries
from wanstreamer_jax.nn.blocks import MLP, Linear, OutputProjection, RMSNorm
from wanstreamer_jax.nn.rotary import Angles, rotate

MODULATIONS = 6  # shift, scale and gate, for attention and for the MLP
MIXING = "mixing"  # named scope of scores and weighted values; it separates their cost from that of projections
FLOW_CHANNELS = 64  # size of the flow-time embedding


class RotaryAngles(NamedTuple):
  """Rotary angles of the tokens' own time, and of that time without the evicted gap (for pinned keys)."""

  at_time: Angles
  at_pinned: Angles


class DecoderLayer(nnx.Module):
  """Pre-norm attention and SwiGLU, Qwen geometry; latent tokens are shifted, scaled and gated by flow time."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    c, residual = config, (2 * config.layers) ** -0.5
    self.attn_norm = RMSNorm(c.width, c.norm_eps)
    self.mlp_norm = RMSNorm(c.width, c.norm_eps)
    self.q_proj = Linear(c.width, (c.heads, c.head_dim), rngs=rngs, bias=c.qkv_bias)
    self.k_proj = Linear(c.width, (c.kv_heads, c.head_dim), rngs=rngs, bias=c.qkv_bias)
    self.v_proj = Linear(c.width, (c.kv_heads, c.head_dim), rngs=rngs, bias=c.qkv_bias)
    self.o_proj = OutputProjection(c.heads, c.head_dim, c.width, rngs=rngs, scale=residual)
    self.q_norm = RMSNorm(c.head_dim, c.norm_eps) if c.qk_norm else None
    self.k_norm = RMSNorm(c.head_dim, c.norm_eps) if c.qk_norm else None
    self.mlp = MLP(c.width, c.mlp, rngs=rngs, residual_scale=residual)
    self.latent_mlp = MLP(c.width, c.mlp, rngs=rngs, residual_scale=residual) if c.experts == "latent" else None
    self.modulation = Modulation(c, rngs=rngs)

  def __call__(
    self, x: Float[Array, "T D"], condition: "Condition", angles: RotaryAngles,
    attention: Callable[[Queries, KeyValue], jax.Array],
  ) -> tuple[Float[Array, "T D"], KeyValue]:  # fmt: skip
    """-> (x after the layer, its new keys and values [T, M, H]). `attention` decides who is attended to."""
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition)  # [T, D] each
    with jax.named_scope("attention"):
      h = self.attn_norm(x) * (1 + scale) + shift
      q, k, v = self.q_proj(h), self.k_proj(h), self.v_proj(h)
      if self.q_norm is not None and self.k_norm is not None:
        q, k = self.q_norm(q), self.k_norm(k)
      own = KeyValue(rotate(k, angles.at_time), v)  # keys are stored rotated, once
      queries = Queries(rotate(q, angles.at_time), rotate(q, angles.at_pinned))
      with jax.named_scope(MIXING):
        mixed = attention(queries, own)  # [T, N, H]
      x = x + self.o_proj(mixed) * (1 + gate)
    with jax.named_scope("mlp"):
      h = self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift
      y = self.mlp(h)
      if self.latent_mlp is not None:
        # Both are computed, since which tokens are latents is known only at run time.
        y = jnp.where(condition.latent[:, None], self.latent_mlp(h), y)
      x = x + y * (1 + mlp_gate)
    return x, own


class Condition(NamedTuple):
  """The flow-time condition of each token."""

  shared: Float[Array, "6 T D"] | None  # the modulation, where all layers share it
  embedding: Float[Array, "T C"]  # of the flow time
  latent: Bool[Array, "T"]  # whether the token has a flow time


class Modulation(nnx.Module):
  """Shift, scale and gate of one layer, zero at initialisation and for tokens without a flow time.

  "shared": one projection for all layers (`Condition.shared`) plus this layer's bias. "layer": its own projection.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.bias = nnx.Param(jnp.zeros((MODULATIONS, config.width)))
    layered = config.modulation == "layer"
    self.proj = Linear(FLOW_CHANNELS, (MODULATIONS, config.width), rngs=rngs, scale=0.0) if layered else None

  def __call__(self, condition: Condition) -> Float[Array, "6 T D"]:
    bias = self.bias[...].astype(condition.embedding.dtype)[:, None]  # [6, 1, D]
    if self.proj is not None:
      modulation = jnp.moveaxis(self.proj(condition.embedding), 0, 1)  # [T, 6, D] -> [6, T, D]
    else:
      assert condition.shared is not None
      modulation = condition.shared
    return jnp.where(condition.latent[:, None], modulation + bias, jnp.zeros((), bias.dtype))


class FlowTimeEmbedding(nnx.Module):
  """tau in [0, 1] -> FLOW_CHANNELS numbers: sines and cosines of growing frequency, one projection, SiLU."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.proj = Linear(FLOW_CHANNELS, FLOW_CHANNELS, rngs=rngs, bias=True)

  def __call__(self, tau: Float[Array, "T"]) -> Float[Array, "T C"]:
    frequency = jnp.pi * jnp.linspace(0.5, 16.0, FLOW_CHANNELS // 2)
    angle = tau[:, None] * frequency  # [T, C / 2]
    return jax.nn.silu(self.proj(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)))
