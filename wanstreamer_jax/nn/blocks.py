"""Building blocks of decoder layers: RMSNorm, Linear, SwiGLU, output projection. The projection joins the heads."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the last axis, computed in float32 (Qwen: cast, then scale)."""

  def __init__(self, size: int, epsilon: float = 1e-6):
    self.scale = nnx.Param(jnp.ones(size))
    self.epsilon = epsilon

  def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
    return y.astype(x.dtype) * self.scale[...].astype(x.dtype)


class Linear(nnx.Module):
  """y = x w + b over the last axis of x and the first of w; `features` may have several axes ([N, H] for heads)."""

  def __init__(
    self, inputs: int, features: int | tuple[int, ...], *, rngs: nnx.Rngs, bias: bool = False, scale: float = 1.0
  ):
    shape = (features,) if isinstance(features, int) else features
    self.w = nnx.Param(jax.random.normal(rngs.params(), (inputs, *shape)) * scale * inputs**-0.5)
    self.b = nnx.Param(jnp.zeros(shape)) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    y = jnp.tensordot(x, self.w[...].astype(x.dtype), axes=1)  # [..., D] x [D, features] -> [..., features]
    return y if self.b is None else y + self.b[...].astype(x.dtype)


class MLP(nnx.Module):
  """SwiGLU: down(silu(gate x) * up x)."""

  def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs, residual_scale: float = 1.0):
    self.gate_proj = Linear(width, hidden, rngs=rngs)
    self.up_proj = Linear(width, hidden, rngs=rngs)
    self.down_proj = Linear(hidden, width, rngs=rngs, scale=residual_scale)

  def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
    return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class OutputProjection(nnx.Module):
  """Joins the heads."""

  def __init__(self, heads: int, head_dim: int, width: int, *, rngs: nnx.Rngs, scale: float, bias: bool = False):
    self.w = nnx.Param(jax.random.normal(rngs.params(), (heads, head_dim, width)) * scale * (heads * head_dim) ** -0.5)
    self.b = nnx.Param(jnp.zeros(width)) if bias else None

  def __call__(self, x: Float[Array, "T N H"]) -> Float[Array, "T D"]:
    y = jnp.tensordot(x, self.w[...].astype(x.dtype), axes=2)
    return y if self.b is None else y + self.b[...].astype(x.dtype)
