"""Causal video VAE: 8x8 in space and 4x in time. The first frame is encoded alone, the others in groups of 4.

Squares of 2x2 pixels are folded into channels at the start and unfolded at the end: convolutions at full resolution
would have few channels and still cost more than all others. Frames of a group are convolved one by one in
space down to 1/4 of the frame, then the group is folded into channels and convolved in space and time at 1/8; the
decoder mirrors this. A linear map between blocks of 8x8 pixels x 4 frames and latents runs beside both networks.
It starts as a cosine transform of the lowest frequencies, so that an untrained codec already gives blurred frames and
training begins with the details.

A still (the portrait, the grey frame that primes a session without one) is a group of four equal frames of which the
last is kept. It uses the same weights and shapes as any group, and its latent is like that of a person who holds still.

Letters: n groups, F = 4n frames, H W pixels, h w latent rows and columns, Z latent channels. Unbatched; callers vmap.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs.interface import VideoCodec
from wanstreamer_jax.codecs.posterior import Posterior, Standardisation
from wanstreamer_jax.config import NativeVideoConfig
from wanstreamer_jax.nn.causal_conv import CausalConv3d, ChannelNorm, Residual3d
from wanstreamer_jax.nn.folding import depth_to_space, depth_to_time, space_to_depth, time_to_depth

State = dict[str, Any]
PATCH = 2  # pixels that are folded into channels
LATENT_SCALE = 4.0  # latents per cosine coefficient, for deviations near those of the prior
FRAME, POINT = (1, 3, 3), (1, 1, 1)  # kernels within a frame and at a point


def still(frame: Float[Array, "1 H W 3"], ratio: int = 4) -> Float[Array, "F H W 3"]:
  """One frame as a group in which nothing moves."""
  return jnp.tile(frame, (ratio, 1, 1, 1))


def still_first(video: Float[Array, "F H W 3"], ratio: int = 4) -> Float[Array, "G H W 3"]:
  """A clip of 1 + 4n frames as n + 1 groups: the first frame becomes a still."""
  return jnp.concatenate([still(video[:1], ratio), video[1:]])


def cosine_basis(latents: int, side: int, ratio: int) -> np.ndarray:
  """[latents, ratio * side * side * 3]: cosine waves over blocks of pixels, in the order of their share in pictures.

  Waves are products over time, rows, columns and colour (brightness and two colour differences), of mean square 1.
  """
  axes = [np.cos(np.pi * np.outer(np.arange(n), (np.arange(n) + 0.5) / n)) for n in (ratio, side, side)]
  axes = [axis / np.sqrt(np.mean(axis**2, axis=1, keepdims=True)) for axis in axes]
  colours = np.array([[1, 1, 1], [1.225, 0, -1.225], [0.707, -1.414, 0.707]])
  kinds = itertools.product(range(3), range(ratio), range(side), range(side))  # (colour, time, row, column) frequencies
  chosen = sorted(kinds, key=lambda kind: (_rarity(*kind), kind))[:latents]
  waves = [np.einsum("t,h,w,c->thwc", axes[0][t], axes[1][h], axes[2][w], colours[c]) for c, t, h, w in chosen]
  return np.stack(waves).reshape(latents, -1).astype(np.float32)


def _rarity(colour: int, time: int, row: int, column: int) -> int:
  """Grows with how little pictures have of a wave: colour is weaker than brightness, and fast changes are rare."""
  return (1 + 3 * (colour > 0)) * (1 + 4 * time**2 + 3 * (row**2 + column**2))


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


def merge_channels(x: Float[Array, "... KC"], channels: int) -> Float[Array, "... C"]:
  """Means of neighbouring channels: the shortcut past a step down (DC-AE, arXiv 2410.10733)."""
  return x.reshape(*x.shape[:-1], channels, -1).mean(axis=-1)


class NativeVideoEncoder(nnx.Module):
  """Frames [4n, H, W, 3] to a posterior's (mean, logvar), each [n, h, w, Z]."""

  def __init__(self, cfg: NativeVideoConfig, *, rngs: nnx.Rngs):
    half, quarter, eighth = cfg.channels
    self.time_stride = cfg.time_stride
    self.conv_in = CausalConv3d(3 * PATCH**2, half, FRAME, rngs=rngs)
    self.norm_half = ChannelNorm(half)
    self.to_quarter = CausalConv3d(4 * half, quarter, POINT, rngs=rngs)
    self.quarter = Stage3d(quarter, cfg.residual_blocks, 1, rngs=rngs)
    self.norm_quarter = ChannelNorm(quarter)
    self.to_eighth = CausalConv3d(4 * cfg.time_stride * quarter, eighth, POINT, rngs=rngs)
    self.eighth = Stage3d(eighth, cfg.residual_blocks, cfg.time_kernel, rngs=rngs)
    self.norm_out = ChannelNorm(eighth)
    self.conv_out = CausalConv3d(eighth, 2 * cfg.latent_dim, FRAME, scale=0.05, rngs=rngs)
    basis = cosine_basis(cfg.latent_dim, cfg.space_stride, cfg.time_stride)
    self.linear = CausalConv3d(basis.shape[1], cfg.latent_dim, POINT, rngs=rngs)
    self.linear.w = nnx.Param(jnp.asarray(LATENT_SCALE * basis.T / basis.shape[1])[None, None, None])

  def initial_state(self, height: int, width: int) -> State:
    return {
      "quarter": self.quarter.initial_state(height // 4, width // 4),
      "eighth": self.eighth.initial_state(height // 8, width // 8),
    }

  def __call__(self, frames: Float[Array, "F H W 3"], state: State) -> tuple[tuple[Array, Array], State]:
    blocks = time_to_depth(space_to_depth(frames, 4 * PATCH), self.time_stride)
    x = pointwise(self.conv_in, space_to_depth(frames, PATCH))
    y = pointwise(self.to_quarter, space_to_depth(jax.nn.silu(self.norm_half(x)), 2))
    x = y + merge_channels(space_to_depth(x, 2), y.shape[-1])
    x, quarter = self.quarter(x, state["quarter"])
    y = pointwise(self.to_eighth, self.fold(jax.nn.silu(self.norm_quarter(x))))
    x = y + merge_channels(self.fold(x), y.shape[-1])
    x, eighth = self.eighth(x, state["eighth"])
    mean, logvar = jnp.split(pointwise(self.conv_out, jax.nn.silu(self.norm_out(x))), 2, axis=-1)
    return (mean + pointwise(self.linear, blocks), logvar), {"quarter": quarter, "eighth": eighth}

  def fold(self, x: Float[Array, "F H W C"]) -> Float[Array, "n h w D"]:
    return time_to_depth(space_to_depth(x, 2), self.time_stride)


class NativeVideoDecoder(nnx.Module):
  """Latents [n, h, w, Z] to frames [4n, H, W, 3]."""

  def __init__(self, cfg: NativeVideoConfig, *, rngs: nnx.Rngs):
    half, quarter, eighth = cfg.channels
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
    self.conv_out = CausalConv3d(half, 3 * PATCH**2, FRAME, scale=0.02, rngs=rngs)
    self.colour = CausalConv3d(half, 3 * PATCH**2, POINT, scale=0.02, rngs=rngs)
    basis = cosine_basis(cfg.latent_dim, cfg.space_stride, cfg.time_stride)
    self.linear = CausalConv3d(cfg.latent_dim, basis.shape[1], POINT, rngs=rngs)
    self.linear.w = nnx.Param(jnp.asarray(basis / LATENT_SCALE)[None, None, None])

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
    x = self.step_up(x, self.norm_eighth, self.to_quarter)
    x = depth_to_space(depth_to_time(x, self.time_stride), 2)
    x, quarter = self.quarter(x, state["quarter"])
    x = depth_to_space(self.step_up(x, self.norm_quarter, self.to_half), 2)
    x, half = self.half(x, state["half"])
    x = pointwise(self.conv_out, jax.nn.silu(self.norm_half(x))) + pointwise(self.colour, x)
    blocks = depth_to_time(pointwise(self.linear, latents), self.time_stride)
    x = depth_to_space(x, PATCH) + depth_to_space(blocks, 4 * PATCH)
    return x, {"conv_in": conv_in, "eighth": eighth, "quarter": quarter, "half": half}

  def step_up(self, x: Float[Array, "T H W C"], norm: ChannelNorm, conv: CausalConv3d) -> Float[Array, "T H W D"]:
    """More channels, which the caller unfolds; the shortcut past the convolution repeats channels."""
    y = pointwise(conv, jax.nn.silu(norm(x)))
    return y + jnp.repeat(x, y.shape[-1] // x.shape[-1], axis=-1)


class NativeVideoCodec(VideoCodec):
  """Frames [4n, H, W, 3] in [-1, 1] <-> standardised latents [n, h, w, Z]; see the module's docstring."""

  def __init__(self, cfg: NativeVideoConfig, *, rngs: nnx.Rngs):
    cfg.check_rules()
    self.cfg = cfg
    self.encoder = NativeVideoEncoder(cfg, rngs=rngs)
    self.decoder = NativeVideoDecoder(cfg, rngs=rngs)
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
    (mean, logvar), state = self.encoder(frames, state)
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
