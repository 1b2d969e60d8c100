"""A small decoder for the latents of Wan's video VAEs.

Its layout is that of TAEHV (github.com/madebyollin/taehv, MIT). Convolutions within frames only; time enters by blocks
that also see their own input of the frame before, and by 1x1 convolutions whose channels unfold into two frames. So a
state is one frame of channels per block, and a unit costs a two-hundredth of Wan2.2's own decoder. It makes details up
where that one is exact.

A latent frame gives 4 frames. Wan's first latent stands for one frame: the first three of its four fall away.

Letters: n latent frames, F = 4n frames, T frames at any rate, H W pixels, h w rows and columns, Z channels of latents.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs.interface import State
from wanstreamer_jax.codecs.posterior import Standardisation
from wanstreamer_jax.config import TaeConfig
from wanstreamer_jax.nn.causal_conv import CausalConv3d, run_layers, within_frame
from wanstreamer_jax.nn.folding import depth_to_space, depth_to_time

FRAME, POINT = (1, 3, 3), (1, 1, 1)
LATENT_RANGE = 3.0  # latents are squashed into -3 .. 3


class MemoryBlock(nnx.Module):
  """relu(x + convolutions of x and the x before). State: the last input, [1, h, w, C]."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.channels = channels
    self.conv_in = CausalConv3d(2 * channels, channels, FRAME, rngs=rngs)
    self.conv_mid = CausalConv3d(channels, channels, FRAME, rngs=rngs)
    self.conv_out = CausalConv3d(channels, channels, FRAME, rngs=rngs)

  def initial_state(self, height: int, width: int) -> Float[Array, "1 h w C"]:
    return jnp.zeros((1, height, width, self.channels))

  def __call__(self, x: Float[Array, "T h w C"], state: Float[Array, "1 h w C"]) -> tuple[Array, Array]:
    past = jnp.concatenate([state, x])
    y = jax.nn.relu(within_frame(self.conv_in, jnp.concatenate([x, past[:-1]], axis=-1)))
    y = jax.nn.relu(within_frame(self.conv_mid, y))
    return jax.nn.relu(x + within_frame(self.conv_out, y)), past[-1:]


class GrowStage(nnx.Module):
  """Memory blocks, twice the rows and columns, once or twice the frames, other channels."""

  def __init__(self, inputs: int, outputs: int, blocks: int, frames: int, *, rngs: nnx.Rngs):
    self.frames = frames
    self.blocks = nnx.List([MemoryBlock(inputs, rngs=rngs) for _ in range(blocks)])
    self.grow = CausalConv3d(inputs, frames * inputs, POINT, rngs=rngs)
    self.conv = CausalConv3d(inputs, outputs, FRAME, rngs=rngs)

  def initial_state(self, height: int, width: int) -> list[Any]:
    return [block.initial_state(height, width) for block in self.blocks]

  def __call__(self, x: Float[Array, "T h w C"], state: list[Any]) -> tuple[Float[Array, "F H W D"], list[Any]]:
    x, after = run_layers(self.blocks, x, state)
    x = depth_to_time(within_frame(self.grow, x), self.frames)  # before the pixels are repeated: the same numbers
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return within_frame(self.conv, x), after


class TaeDecoder(nnx.Module):
  """Latents [n, h, w, Z], as the encoder gave them, to frames [4n, H, W, 3]; the first latent frame to one."""

  def __init__(self, cfg: TaeConfig, latent_dim: int, patch: int, *, rngs: nnx.Rngs):
    """patch: side of the squares of pixels that are folded into channels."""
    self.cfg, self.patch = cfg, patch
    self.standard = Standardisation(latent_dim)  # of the latents that it was trained on
    self.conv_in = CausalConv3d(latent_dim, cfg.channels[0], FRAME, rngs=rngs)
    frames = (1, 2, 2)
    sizes = zip(cfg.channels, cfg.channels[1:], frames)
    self.stages = nnx.List([GrowStage(a, b, cfg.blocks, count, rngs=rngs) for a, b, count in sizes])
    self.conv_out = CausalConv3d(cfg.channels[-1], 3 * patch**2, FRAME, rngs=rngs)

  def initial_state(self, height: int, width: int) -> State:
    """For latents of height x width."""
    state = []
    for stage in self.stages:
      state.append(stage.initial_state(height, width))
      height, width = 2 * height, 2 * width
    return state

  def __call__(self, latents: Float[Array, "n h w Z"], state: State, first: bool) -> tuple[Array, State]:
    center, scale = self.standard.constants()
    x = LATENT_RANGE * jnp.tanh((latents - center) / scale / LATENT_RANGE)
    x, after = run_layers(self.stages, jax.nn.relu(within_frame(self.conv_in, x)), state)
    x = within_frame(self.conv_out, jax.nn.relu(x))
    x = 2 * depth_to_space(self.in_our_order(x), self.patch) - 1  # from 0 .. 1
    return (x[-1:] if first else x), after

  def in_our_order(self, x: Float[Array, "F R Q D"]) -> Float[Array, "F R Q D"]:
    """Channels (colour, row, column) of a square to (row, column, colour)."""
    x = x.reshape(*x.shape[:3], 3, self.patch**2)
    return jnp.swapaxes(x, -1, -2).reshape(*x.shape[:3], -1)
