"""The native video codec, a causal VAE: the first frame alone, then groups of 4.

Squares of 2x2 (or `fold`) pixels are folded into channels at the start and unfolded at the end: convolutions at full
resolution would have few channels and still cost more than all others. Every further entry of `channels` is one more
halving. Frames of a group are convolved one by one in space down to the last but one, then the group is folded into
channels and convolved in space and time; the decoder mirrors this. A linear map between blocks of pixels (as large as
a latent's place, 8x8 with three entries and squares of 2x2) x 4 frames and latents runs beside both networks.
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
from wanstreamer_jax.nn.causal_conv import CausalConv3d, ChannelNorm, Residual3d, run_layers, within_frame
from wanstreamer_jax.nn.folding import depth_to_space, depth_to_time, space_to_depth, time_to_depth

State = Any
LATENT_SCALE = 4.0  # latents per cosine coefficient, for deviations near those of the prior
FRAME, POINT = (1, 3, 3), (1, 1, 1)  # kernels within a frame and at a point


def still(frame: Float[Array, "1 H W 3"], ratio: int) -> Float[Array, "F H W 3"]:
  """One frame as a group in which nothing moves."""
  return jnp.tile(frame, (ratio, 1, 1, 1))


def still_first(video: Float[Array, "F H W 3"], ratio: int) -> Float[Array, "G H W 3"]:
  """A clip of 1 + n ratio frames as n + 1 groups: the first frame becomes a still."""
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
    return run_layers(self.blocks, x, state)


def merge_channels(x: Float[Array, "... KC"], channels: int) -> Float[Array, "... C"]:
  """Means of neighbouring channels: the shortcut past a step down (DC-AE, arXiv 2410.10733)."""
  return x.reshape(*x.shape[:-1], channels, -1).mean(axis=-1)


class StepDown(nnx.Module):
  """Folds squares of 2x2 (and, in the last step, groups of frames) into channels, then convolves."""

  def __init__(self, inputs: int, channels: int, blocks: int, time_stride: int, time_kernel: int, *, rngs: nnx.Rngs):
    self.time_stride = time_stride
    self.norm = ChannelNorm(inputs)
    self.conv = CausalConv3d(4 * time_stride * inputs, channels, POINT, rngs=rngs)
    self.stage = Stage3d(channels, blocks, time_kernel, rngs=rngs)

  def __call__(self, x: Float[Array, "F H W C"], state: list[Any]) -> tuple[Float[Array, "n h w D"], list[Any]]:
    y = within_frame(self.conv, self.fold(jax.nn.silu(self.norm(x))))
    return self.stage(y + merge_channels(self.fold(x), y.shape[-1]), state)

  def fold(self, x: Float[Array, "F H W C"]) -> Float[Array, "n h w D"]:
    return time_to_depth(space_to_depth(x, 2), self.time_stride)


class StepUp(nnx.Module):
  """More channels, which unfold into squares of 2x2 (and, in the first step, groups of frames); then convolves."""

  def __init__(self, inputs: int, channels: int, blocks: int, time_stride: int, *, rngs: nnx.Rngs):
    self.time_stride = time_stride
    self.norm = ChannelNorm(inputs)
    self.conv = CausalConv3d(inputs, 4 * time_stride * channels, POINT, rngs=rngs)
    self.stage = Stage3d(channels, blocks, 1, rngs=rngs)

  def __call__(self, x: Float[Array, "n h w C"], state: list[Any]) -> tuple[Float[Array, "F H W D"], list[Any]]:
    y = within_frame(self.conv, jax.nn.silu(self.norm(x)))
    y = y + jnp.repeat(x, y.shape[-1] // x.shape[-1], axis=-1)  # the shortcut repeats channels
    return self.stage(depth_to_space(depth_to_time(y, self.time_stride), 2), state)


class NativeVideoEncoder(nnx.Module):
  """Frames [4n, H, W, 3] to a posterior's (mean, logvar), each [n, h, w, Z]."""

  def __init__(self, cfg: NativeVideoConfig, *, rngs: nnx.Rngs):
    self.time_stride, self.side, self.fold = cfg.time_stride, cfg.space_stride, cfg.fold
    self.conv_in = CausalConv3d(3 * cfg.fold**2, cfg.channels[0], FRAME, rngs=rngs)
    steps = []
    for i, (inputs, outputs, blocks) in enumerate(zip(cfg.channels, cfg.channels[1:], cfg.encoder_blocks), 2):
      in_time = (cfg.time_stride, cfg.time_kernel) if i == len(cfg.channels) else (1, 1)
      steps.append(StepDown(inputs, outputs, blocks, *in_time, rngs=rngs))
    self.steps = nnx.List(steps)
    self.norm_out = ChannelNorm(cfg.channels[-1])
    self.conv_out = CausalConv3d(cfg.channels[-1], 2 * cfg.latent_dim, FRAME, scale=0.05, rngs=rngs)
    basis = cosine_basis(cfg.latent_dim, self.side, cfg.time_stride)
    self.linear = CausalConv3d(basis.shape[1], cfg.latent_dim, POINT, rngs=rngs)
    self.linear.w = nnx.Param(jnp.asarray(LATENT_SCALE * basis.T / basis.shape[1])[None, None, None])

  def initial_state(self, height: int, width: int) -> State:
    """One entry a step: those of 1/4, 1/8, ... of the picture, where squares of 2x2 are folded."""
    sides = [self.fold * 2**scale for scale in range(1, 1 + len(self.steps))]
    return [step.stage.initial_state(height // side, width // side) for side, step in zip(sides, self.steps)]

  def __call__(self, frames: Float[Array, "F H W 3"], state: State) -> tuple[tuple[Array, Array], State]:
    blocks = time_to_depth(space_to_depth(frames, self.side), self.time_stride)
    x, after = run_layers(self.steps, within_frame(self.conv_in, space_to_depth(frames, self.fold)), state)
    mean, logvar = jnp.split(within_frame(self.conv_out, jax.nn.silu(self.norm_out(x))), 2, axis=-1)
    return (mean + within_frame(self.linear, blocks), logvar), after


class NativeVideoDecoder(nnx.Module):
  """Latents [n, h, w, Z] to frames [4n, H, W, 3]."""

  def __init__(self, cfg: NativeVideoConfig, *, rngs: nnx.Rngs):
    self.time_stride, self.side, self.fold = cfg.time_stride, cfg.space_stride, cfg.fold
    channels = cfg.channels[::-1]
    self.conv_in = CausalConv3d(cfg.latent_dim, channels[0], (cfg.time_kernel, 3, 3), rngs=rngs)
    self.stage = Stage3d(channels[0], cfg.decoder_blocks[0], cfg.time_kernel, rngs=rngs)
    steps = []
    for i, (inputs, outputs, blocks) in enumerate(zip(channels, channels[1:], cfg.decoder_blocks[1:])):
      steps.append(StepUp(inputs, outputs, blocks, cfg.time_stride if i == 0 else 1, rngs=rngs))
    self.steps = nnx.List(steps)
    self.norm_out = ChannelNorm(channels[-1])
    self.conv_out = CausalConv3d(channels[-1], 3 * cfg.fold**2, FRAME, scale=0.02, rngs=rngs)
    self.colour = CausalConv3d(channels[-1], 3 * cfg.fold**2, POINT, scale=0.02, rngs=rngs)
    basis = cosine_basis(cfg.latent_dim, self.side, cfg.time_stride)
    self.linear = CausalConv3d(cfg.latent_dim, basis.shape[1], POINT, rngs=rngs)
    self.linear.w = nnx.Param(jnp.asarray(basis / LATENT_SCALE)[None, None, None])

  def initial_state(self, height: int, width: int) -> State:
    rows, columns = height // self.side, width // self.side
    return {
      "conv_in": self.conv_in.initial_state(rows, columns),
      "stage": self.stage.initial_state(rows, columns),
      "steps": [step.stage.initial_state(rows * 2**i, columns * 2**i) for i, step in enumerate(self.steps, 1)],
    }

  def __call__(self, latents: Float[Array, "n h w Z"], state: State) -> tuple[Float[Array, "F H W 3"], State]:
    x, conv_in = self.conv_in(latents, state["conv_in"])
    x, stage = self.stage(x, state["stage"])
    x, after = run_layers(self.steps, x, state["steps"])
    x = within_frame(self.conv_out, jax.nn.silu(self.norm_out(x))) + within_frame(self.colour, x)
    blocks = depth_to_time(within_frame(self.linear, latents), self.time_stride)
    x = depth_to_space(x, self.fold) + depth_to_space(blocks, self.side)
    return x, {"conv_in": conv_in, "stage": stage, "steps": after}


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
