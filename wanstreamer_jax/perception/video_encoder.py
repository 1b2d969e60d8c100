"""The video encoder turns the frames of a unit into a few tokens. It has no state: memory is the Transformer's."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import Config
from wanstreamer_jax.nn.blocks import Linear, RMSNorm
from wanstreamer_jax.nn.folding import space_to_depth

_STEM = 4  # pixels of the first space-to-depth


class SpatialBlock(nnx.Module):
  """x + silu(conv_3x3(norm(x))), the branch damped at initialisation."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.norm = RMSNorm(channels)
    self.w = nnx.Param(jax.random.normal(rngs.params(), (3, 3, channels, channels)) * 0.5 * (9 * channels) ** -0.5)
    self.b = nnx.Param(jnp.zeros(channels))

  def __call__(self, x: Float[Array, "R Q C"]) -> Float[Array, "R Q C"]:
    return x + jax.nn.silu(_conv(self.norm(x), self.w[...]) + self.b[...])


def _conv(x: Float[Array, "R Q I"], w: Float[Array, "3 3 I O"]) -> Float[Array, "R Q O"]:
  layout = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=layout)[0]


class UserVideoEncoder(nnx.Module):
  """User frames of one unit, in [-1, 1] -> its tokens. Time is folded into channels first, space step by step."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    p, frames = config.perception, config.media.frames
    stem = p.video_channels // 4
    self.stem = Linear(_STEM * _STEM * 3 * frames, stem, rngs=rngs, bias=True)
    self.w = nnx.Param(jax.random.normal(rngs.params(), (3, 3, stem, stem)) * (9 * stem) ** -0.5)
    self.fine = nnx.List([SpatialBlock(stem, rngs=rngs) for _ in range(p.video_blocks[0] - 1)])
    self.coarse = nnx.List([SpatialBlock(p.video_channels, rngs=rngs) for _ in range(p.video_blocks[1])])
    self.patch = Linear((p.video_patch // _STEM) ** 2 * stem, p.video_channels, rngs=rngs, bias=True)
    self.merge = Linear(p.video_merge**2 * p.video_channels, 2 * p.video_channels, rngs=rngs, bias=True)
    self.norm = RMSNorm(2 * p.video_channels)
    self.out = Linear(2 * p.video_channels, config.model.width, rngs=rngs)
    self.config = config

  def __call__(self, frames: Float[Array, "frames H W 3"]) -> Float[Array, "RQ D"]:
    p = self.config.perception
    x = jnp.clip(frames, -1.0, 1.0).transpose(1, 2, 0, 3)  # [H, W, frames, 3]
    x = jax.nn.silu(self.stem(space_to_depth(x.reshape(*x.shape[:2], -1), _STEM)))
    x = x + jax.nn.silu(_conv(x, self.w[...]))
    for block in self.fine:
      x = block(x)
    x = jax.nn.silu(self.patch(space_to_depth(x, p.video_patch // _STEM)))  # [H / patch, W / patch, C]
    for block in self.coarse:
      x = block(x)
    x = jax.nn.silu(self.merge(space_to_depth(x, p.video_merge)))  # [R, Q, 2 C]
    return self.out(self.norm(x.reshape(-1, x.shape[-1])))  # [R Q, D]
