"""Causal video VAE: 8x8 in space and 4x in time; the first frame alone, then groups of 4.

Frames of a group are convolved one by one in space down to 1/4 of the picture, then the group is folded into channels
and convolved in space and time at 1/8; the decoder mirrors this. A still (the portrait, the grey frame that primes a
session without one) is a group of four equal frames of which the last is kept: the same weights and the same program
shape as any group, and a latent of the same kind as that of somebody who holds still.

Letters: n groups, F = 4n frames, H W pixels, h w latent rows and columns, Z latent channels. Unbatched; callers vmap.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs.posterior import Posterior, Standardisation
from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.nn.causal_conv import (
  CausalConv3d,
  ChannelNorm,
  Residual3d,
  depth_to_space,
  depth_to_time,
  space_to_depth,
  time_to_depth,
)

State = dict[str, Any]
FRAME, POINT = (1, 3, 3), (1, 1, 1)  # kernels within a frame and at a point


def still(frame: Float[Array, "1 H W 3"], ratio: int = 4) -> Float[Array, "F H W 3"]:
  """One frame as a group in which nothing moves."""
  return jnp.tile(frame, (ratio, 1, 1, 1))


def still_first(video: Float[Array, "1+F H W 3"], ratio: int = 4) -> Float[Array, "G H W 3"]:
  """A clip of 1 + 4n frames as n + 1 groups: the first frame becomes a still."""
  return jnp.concatenate([still(video[:1], ratio), video[1:]])


class Stage3d(nnx.Module):
  """Residual blocks at one resolution."""

  def __init__(self, channels: int, blocks: int, time_kernel: int, *, rngs: nnx.Rngs):
    self.blocks = nnx.List([Residual3d(channels, time_kernel, rngs=rngs) for _ in range(blocks)])

  def initial_state(self, height: int, width: int) -> list[Any]:
    return [block.initial_state(height, width) for block in self.blocks]

  def __call__(self, x: Float[Array, "T H W C"], state: list[Any]) -> tuple[Float[Array, "T H W C"], list[Any]]:
    after = []
    for block, before in zip(self.blocks, state, strict=True):
      x, new = block(x, before)
      after.append(new)
    return x, after


def pointwise(conv: CausalConv3d, x: Float[Array, "T H W C"]) -> Float[Array, "T H W D"]:
  """A convolution without memory in time."""
  y, _ = conv(x, conv.initial_state(*x.shape[1:3]))
  return y


class VideoEncoder(nnx.Module):
  """Frames [4n, H, W, 3] to posterior parameters [n, h, w, 2Z]."""

  def __init__(self, cfg: VideoVAEConfig, *, rngs: nnx.Rngs):
    _, half, quarter, eighth = cfg.channels
    self.time_stride = cfg.time_stride
    self.conv_in = CausalConv3d(12, half, FRAME, rngs=rngs)
    self.norm_half = ChannelNorm(half)
    self.to_quarter = CausalConv3d(4 * half, quarter, POINT, rngs=rngs)
    self.quarter = Stage3d(quarter, cfg.residual_blocks, 1, rngs=rngs)
    self.norm_quarter = ChannelNorm(quarter)
    self.to_eighth = CausalConv3d(4 * cfg.time_stride * quarter, eighth, POINT, rngs=rngs)
    self.eighth = Stage3d(eighth, cfg.residual_blocks, cfg.time_kernel, rngs=rngs)
    self.norm_out = ChannelNorm(eighth)
    self.conv_out = CausalConv3d(eighth, 2 * cfg.latent_dim, FRAME, rngs=rngs)

  def initial_state(self, height: int, width: int) -> State:
    return {
      "quarter": self.quarter.initial_state(height // 4, width // 4),
      "eighth": self.eighth.initial_state(height // 8, width // 8),
    }

  def __call__(self, frames: Float[Array, "F H W 3"], state: State) -> tuple[Float[Array, "n h w ZZ"], State]:
    x = pointwise(self.conv_in, space_to_depth(frames, 2))
    x = pointwise(self.to_quarter, space_to_depth(jax.nn.silu(self.norm_half(x)), 2))
    x, quarter = self.quarter(x, state["quarter"])
    x = space_to_depth(jax.nn.silu(self.norm_quarter(x)), 2)
    x = pointwise(self.to_eighth, time_to_depth(x, self.time_stride))
    x, eighth = self.eighth(x, state["eighth"])
    x = pointwise(self.conv_out, jax.nn.silu(self.norm_out(x)))
    return x, {"quarter": quarter, "eighth": eighth}


class VideoDecoder(nnx.Module):
  """Latents [n, h, w, Z] to frames [4n, H, W, 3]."""

  def __init__(self, cfg: VideoVAEConfig, *, rngs: nnx.Rngs):
    full, half, quarter, eighth = cfg.channels
    self.time_stride = cfg.time_stride
    self.conv_in = CausalConv3d(cfg.latent_dim, eighth, (cfg.time_kernel, 3, 3), rngs=rngs)
    self.eighth = Stage3d(eighth, cfg.decoder_blocks[0], cfg.time_kernel, rngs=rngs)
    self.norm_eighth = ChannelNorm(eighth)
    self.to_quarter = CausalConv3d(eighth, 4 * cfg.time_stride * quarter, POINT, rngs=rngs)
    self.quarter = Stage3d(quarter, cfg.decoder_blocks[1], 1, rngs=rngs)
    self.norm_quarter = ChannelNorm(quarter)
    self.to_half = CausalConv3d(quarter, 4 * half, POINT, rngs=rngs)
    self.half = Stage3d(half, cfg.decoder_blocks[2], 1, rngs=rngs)
    self.norm_half = ChannelNorm(half)
    self.to_full = CausalConv3d(half, 4 * full, POINT, rngs=rngs)
    self.norm_out = ChannelNorm(full)
    self.conv_out = CausalConv3d(full, 3, FRAME, scale=0.3, rngs=rngs)

  def initial_state(self, height: int, width: int) -> State:
    return {
      "conv_in": self.conv_in.initial_state(height // 8, width // 8),
      "eighth": self.eighth.initial_state(height // 8, width // 8),
      "quarter": self.quarter.initial_state(height // 4, width // 4),
      "half": self.half.initial_state(height // 2, width // 2),
    }

  def __call__(self, latents: Float[Array, "n h w Z"], state: State) -> tuple[Float[Array, "F H W 3"], State]:
    x, conv_in = self.conv_in(latents, state["conv_in"])
    x, eighth = self.eighth(x, state["eighth"])
    x = pointwise(self.to_quarter, jax.nn.silu(self.norm_eighth(x)))
    x = depth_to_space(depth_to_time(x, self.time_stride), 2)
    x, quarter = self.quarter(x, state["quarter"])
    x = depth_to_space(pointwise(self.to_half, jax.nn.silu(self.norm_quarter(x))), 2)
    x, half = self.half(x, state["half"])
    x = depth_to_space(pointwise(self.to_full, jax.nn.silu(self.norm_half(x))), 2)
    x = pointwise(self.conv_out, jax.nn.silu(self.norm_out(x)))
    return x, {"conv_in": conv_in, "eighth": eighth, "quarter": quarter, "half": half}


class VideoVAE(nnx.Module):
  """Frames [4n, H, W, 3] in [-1, 1] <-> standardised latents [n, h, w, Z]; see the module's docstring."""

  def __init__(self, cfg: VideoVAEConfig, *, rngs: nnx.Rngs):
    if len(cfg.channels) != 4 or cfg.space_stride != 8:
      raise ConfigError(
        f"video_vae.channels has {len(cfg.channels)} entries and space_stride is {cfg.space_stride}: "
        "expected 4 (full, 1/2, 1/4, 1/8 resolution) and 8"
      )
    self.cfg = cfg
    self.encoder = VideoEncoder(cfg, rngs=rngs)
    self.decoder = VideoDecoder(cfg, rngs=rngs)
    self.standard = Standardisation(cfg.latent_dim)

  def encoder_state(self, height: int, width: int) -> State:
    """The zero state, for pictures of height x width pixels."""
    return self.encoder.initial_state(height, width)

  def decoder_state(self, height: int, width: int) -> State:
    """The zero state, for pictures of height x width pixels."""
    return self.decoder.initial_state(height, width)

  def encode(self, frames: Float[Array, "F H W 3"], state: State) -> tuple[Posterior, State]:
    """Groups of 4 frames to one latent frame each."""
    side, ratio = self.cfg.space_stride, self.cfg.time_stride
    if frames.shape[0] % ratio or frames.shape[1] % side or frames.shape[2] % side:
      raise ValueError(f"video {frames.shape[:3]} is not whole groups of {ratio} frames with sides divisible by {side}")
    x, state = self.encoder(frames, state)
    mean, logvar = jnp.split(x, 2, axis=-1)
    return self.standard.normalise(mean, logvar), state

  def decode(self, latents: Float[Array, "n h w Z"], state: State) -> tuple[Float[Array, "F H W 3"], State]:
    """n standardised latent frames to 4n frames; values may leave [-1, 1] a little."""
    return self.decoder(self.standard.restore(latents), state)

  def encode_first(self, frame: Float[Array, "1 H W 3"]) -> tuple[Posterior, State]:
    """The first frame, from the zero state."""
    return self.encode(still(frame, self.cfg.time_stride), self.encoder_state(*frame.shape[1:3]))

  def decode_first(self, latent: Float[Array, "1 h w Z"]) -> tuple[Float[Array, "1 H W 3"], State]:
    """The first frame, from the zero state."""
    height, width = (size * self.cfg.space_stride for size in latent.shape[1:3])
    frames, state = self.decode(latent, self.decoder_state(height, width))
    return frames[-1:], state

  def primed_encoder_state(self, height: int, width: int) -> State:
    """The state after a mid-grey first frame, which is never emitted."""
    return self.encode_first(jnp.zeros((1, height, width, 3)))[1]

  def primed_decoder_state(self, height: int, width: int) -> State:
    """The state after the latent of a mid-grey first frame, which is never emitted."""
    posterior, _ = self.encode_first(jnp.zeros((1, height, width, 3)))
    return self.decode_first(posterior.mean)[1]
