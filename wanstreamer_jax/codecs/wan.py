"""The video VAEs of Wan2.1 and Wan2.2: causal, 4x in time and 8x8 or 16x16 in space.

They are described in arXiv 2503.20314. The first frame is encoded alone, the others in groups of 4. All convolutions
over time look back two frames, and their states hold these. The first frame takes another way past the steps in time: a
step down lets it pass as it is, a step up neither doubles it nor remembers it. So `encode_first` and `decode_first` are
programs of their own, and `encode` and `decode` go on from the states that these leave.

Wan2.2 folds squares of 2x2 pixels into channels first, and runs shortcuts past its stages: means of neighbouring
channels on the way down, copies on the way up. Weights are imported (`weights/wan.py`), never trained here.

Letters: F frames, n latent frames, H W pixels, h w latent rows and columns, Z latent channels, C channels. Unbatched.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs.interface import State, VideoCodec
from wanstreamer_jax.codecs.posterior import Posterior, Standardisation
from wanstreamer_jax.codecs.tae import TaeDecoder
from wanstreamer_jax.config import TaeConfig, WanConfig
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.nn.causal_conv import CausalConv3d, run_layers, within_frame
from wanstreamer_jax.nn.folding import depth_to_time

CUBE, FRAME, POINT = (3, 3, 3), (1, 3, 3), (1, 1, 1)  # kernels
MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0


def fold_pixels(x: Float[Array, "F H W C"], side: int) -> Float[Array, "F R Q D"]:
  """Squares of pixels to channels, in Wan's order: colour, column, row."""
  frames, height, width, channels = x.shape
  x = x.reshape(frames, height // side, side, width // side, side, channels).transpose(0, 1, 3, 5, 4, 2)
  return x.reshape(frames, height // side, width // side, -1)


def unfold_pixels(x: Float[Array, "F R Q D"], side: int) -> Float[Array, "F H W C"]:
  """The inverse of `fold_pixels`."""
  frames, rows, columns, channels = x.shape
  x = x.reshape(frames, rows, columns, channels // side**2, side, side).transpose(0, 1, 5, 2, 4, 3)
  return x.reshape(frames, rows * side, columns * side, -1)


def mean_down(x: Float[Array, "F H W C"], channels: int, time: int, space: int) -> Float[Array, "n h w D"]:
  """Blocks of time x space x space to channels, of which neighbours are averaged. A part of a block is preceded by
  zeros."""
  x = jnp.pad(x, ((-x.shape[0] % time, 0), (0, 0), (0, 0), (0, 0)))
  frames, height, width, _ = x.shape
  x = x.reshape(frames // time, time, height // space, space, width // space, space, -1)
  x = x.transpose(0, 2, 4, 6, 1, 3, 5)  # [n, h, w, C, time, row, column]
  return x.reshape(*x.shape[:3], channels, -1).mean(axis=-1)


def copy_up(x: Float[Array, "n h w C"], channels: int, time: int, space: int, first: bool) -> Float[Array, "F H W D"]:
  """The mirror of `mean_down`: channels are repeated and unfolded. Of a first frame the last copy in time is kept."""
  frames, height, width, inputs = x.shape
  x = jnp.repeat(x, channels * time * space**2 // inputs, axis=-1)
  x = x.reshape(frames, height, width, channels, time, space, space).transpose(0, 4, 1, 5, 2, 6, 3)
  x = x.reshape(frames * time, height * space, width * space, channels)
  return x[time - 1 :] if first else x


class WanNorm(nnx.Module):
  """x / |x| * sqrt(C) * scale over channels."""

  def __init__(self, channels: int):
    self.scale = nnx.Param(jnp.ones(channels))

  def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24)) * (x.shape[-1] ** 0.5 * self.scale[...])


class WanBlock(nnx.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))))), both convolutions over time and space."""

  def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
    self.norm_in, self.norm_out = WanNorm(inputs), WanNorm(outputs)
    self.conv_in = CausalConv3d(inputs, outputs, CUBE, rngs=rngs)
    self.conv_out = CausalConv3d(outputs, outputs, CUBE, rngs=rngs)
    self.shortcut = CausalConv3d(inputs, outputs, POINT, rngs=rngs) if inputs != outputs else None

  def initial_state(self, height: int, width: int) -> State:
    convs = {"conv_in": self.conv_in, "conv_out": self.conv_out}
    return {name: conv.initial_state(height, width) for name, conv in convs.items()}

  def __call__(self, x: Float[Array, "T H W C"], state: State) -> tuple[Float[Array, "T H W D"], State]:
    y, conv_in = self.conv_in(jax.nn.silu(self.norm_in(x)), state["conv_in"])
    y, conv_out = self.conv_out(jax.nn.silu(self.norm_out(y)), state["conv_out"])
    x = x if self.shortcut is None else within_frame(self.shortcut, x)
    return x + y, {"conv_in": conv_in, "conv_out": conv_out}


class FrameAttention(nnx.Module):
  """x + attention(norm(x)) among the pixels of each frame, with one head."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.norm = WanNorm(channels)
    self.qkv = CausalConv3d(channels, 3 * channels, POINT, rngs=rngs)
    self.out = CausalConv3d(channels, channels, POINT, rngs=rngs)

  def __call__(self, x: Float[Array, "T H W C"]) -> Float[Array, "T H W C"]:
    frames, _, _, channels = x.shape
    q, k, v = jnp.split(within_frame(self.qkv, self.norm(x)).reshape(frames, -1, 3 * channels), 3, axis=-1)
    weights = jax.nn.softmax(jnp.einsum("tqc,tkc->tqk", q, k) * channels**-0.5, axis=-1)
    return x + within_frame(self.out, jnp.einsum("tqk,tkc->tqc", weights, v).reshape(x.shape))


class Middle(nnx.Module):
  """Block, attention, block at the lowest resolution."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.before, self.after = (WanBlock(channels, channels, rngs=rngs) for _ in range(2))
    self.attention = FrameAttention(channels, rngs=rngs)

  def initial_state(self, height: int, width: int) -> State:
    return {name: block.initial_state(height, width) for name, block in self.blocks.items()}

  def __call__(self, x: Float[Array, "T H W C"], state: State) -> tuple[Float[Array, "T H W C"], State]:
    x, before = self.before(x, state["before"])
    x, after = self.after(self.attention(x), state["after"])
    return x, {"before": before, "after": after}

  @property
  def blocks(self) -> dict[str, WanBlock]:
    return {"before": self.before, "after": self.after}


class StepDown(nnx.Module):
  """Half the rows and columns and, with `time`, half the frames. State: the last frame, [1 or 0, h, w, C]."""

  def __init__(self, channels: int, time: bool, *, rngs: nnx.Rngs):
    self.channels, self.time = channels, time
    self.space_conv = CausalConv3d(channels, channels, FRAME, rngs=rngs)
    self.time_conv = CausalConv3d(channels, channels, (3, 1, 1), rngs=rngs) if time else None

  def initial_state(self, height: int, width: int) -> Float[Array, "P h w C"]:
    return jnp.zeros((int(self.time), height // 2, width // 2, self.channels))

  def __call__(
    self, x: Float[Array, "T H W C"], state: Float[Array, "P h w C"], first: bool
  ) -> tuple[Float[Array, "n h w C"], Float[Array, "P h w C"]]:
    """first: the only frame passes without the step in time."""
    layout = ("NHWC", "HWIO", "NHWC")
    border = ((0, 1), (0, 1))  # below and to the right
    x = jax.lax.conv_general_dilated(x, self.space_conv.w[0], (2, 2), border, dimension_numbers=layout)
    x = x + self.space_conv.b[...]
    if self.time_conv is None:
      return x, state
    if first:
      return x, x
    past = jnp.concatenate([state, x])
    taps = jnp.concatenate([past[i : i + x.shape[0] - 1 : 2] for i in range(3)], axis=-1)  # [n, h, w, 3 C]
    weight = self.time_conv.w[...].reshape(taps.shape[-1], -1)
    return taps @ weight + self.time_conv.b[...], past[-1:]


class StepUp(nnx.Module):
  """Twice the rows and columns and, with `time`, twice the frames. State: the last 2 or 0 inputs, [P, h, w, C]."""

  def __init__(self, inputs: int, outputs: int, time: bool, *, rngs: nnx.Rngs):
    self.inputs = inputs
    self.space_conv = CausalConv3d(inputs, outputs, FRAME, rngs=rngs)
    self.time_conv = CausalConv3d(inputs, 2 * inputs, (3, 1, 1), rngs=rngs) if time else None

  def initial_state(self, height: int, width: int) -> Float[Array, "P h w C"]:
    return jnp.zeros((0 if self.time_conv is None else 2, height, width, self.inputs))

  def __call__(
    self, x: Float[Array, "T h w C"], state: Float[Array, "P h w C"], first: bool
  ) -> tuple[Float[Array, "F H W D"], Float[Array, "P h w C"]]:
    """first: the only frame passes without the step in time, and leaves the zero state."""
    if self.time_conv is not None and not first:
      x, state = self.time_conv(x, state)
      x = depth_to_time(x, 2)
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return within_frame(self.space_conv, x), state


class Stage(nnx.Module):
  """Blocks and a step to the next resolution, which the last stage has not. With `shortcut` a path runs past both."""

  def __init__(
    self, channels: list[int], step: StepDown | StepUp | None, shortcut: bool, *, rngs: nnx.Rngs
  ):  # fmt: skip
    """channels: before the first block and after each. Raises ConfigError where the shortcut has no whole channels."""
    self.blocks = nnx.List([WanBlock(a, b, rngs=rngs) for a, b in itertools.pairwise(channels)])
    self.step = step
    self.shortcut = shortcut
    self.channels = channels[-1]
    few, many = (channels[0], channels[-1]) if isinstance(step, StepUp) else (channels[-1], channels[0])
    if shortcut and many * math.prod(self.folds) % few:
      raise ConfigError(
        f"the shortcut past a stage of {channels[0]} and {channels[-1]} channels has no whole channels: expected "
        f"{few} to divide {many} x {math.prod(self.folds)}; set multiples of the video codec"
      )

  @property
  def folds(self) -> tuple[int, int, int]:
    """Frames, rows and columns that the step makes one, or makes of one."""
    space = 1 if self.step is None else 2
    return 1 if self.step is None or self.step.time_conv is None else 2, space, space

  def initial_state(self, height: int, width: int) -> State:
    step = None if self.step is None else self.step.initial_state(height, width)
    return {"blocks": [block.initial_state(height, width) for block in self.blocks], "step": step}

  def __call__(self, x: Float[Array, "T H W C"], state: State, first: bool) -> tuple[Array, State]:
    y, blocks = run_layers(self.blocks, x, state["blocks"])
    step = state["step"]
    if self.step is not None:
      y, step = self.step(y, step, first)
    if self.shortcut:
      y = y + self.past(x, first)
    return y, {"blocks": blocks, "step": step}

  def past(self, x: Float[Array, "T H W C"], first: bool) -> Array:
    """The path past the stage."""
    time, space, _ = self.folds
    if isinstance(self.step, StepUp):
      return copy_up(x, self.channels, time, space, first)
    return mean_down(x, self.channels, time, space)


class WanEncoder(nnx.Module):
  """Frames [F, H, W, 3] to a posterior's (mean, logvar), each [n, h, w, Z]."""

  def __init__(self, cfg: WanConfig, *, rngs: nnx.Rngs):
    self.patch = cfg.patch
    widths = [cfg.base_dim * m for m in (1, *cfg.multiples)]
    self.conv_in = CausalConv3d(3 * cfg.patch**2, widths[0], CUBE, rngs=rngs)
    stages = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
      last = i == len(cfg.multiples) - 1
      step = None if last else StepDown(outputs, cfg.time_down[i], rngs=rngs)
      stages.append(Stage([inputs, *[outputs] * cfg.blocks], step, cfg.shortcuts, rngs=rngs))
    self.stages = nnx.List(stages)
    self.middle = Middle(widths[-1], rngs=rngs)
    self.norm_out = WanNorm(widths[-1])
    self.conv_out = CausalConv3d(widths[-1], 2 * cfg.latent_dim, CUBE, rngs=rngs)
    self.posterior = CausalConv3d(2 * cfg.latent_dim, 2 * cfg.latent_dim, POINT, rngs=rngs)

  def initial_state(self, height: int, width: int) -> State:
    """For pictures of height x width pixels."""
    height, width = height // self.patch, width // self.patch
    state: State = {"conv_in": self.conv_in.initial_state(height, width), "stages": []}
    for stage in self.stages:
      state["stages"].append(stage.initial_state(height, width))
      if stage.step is not None:
        height, width = height // 2, width // 2
    ends: dict[str, Any] = {"middle": self.middle, "conv_out": self.conv_out}
    return state | {name: part.initial_state(height, width) for name, part in ends.items()}

  def __call__(
    self, frames: Float[Array, "F H W 3"], state: State, first: bool
  ) -> tuple[tuple[Array, Array], State]:  # fmt: skip
    x, conv_in = self.conv_in(fold_pixels(frames, self.patch), state["conv_in"])
    x, stages = run_layers(self.stages, x, state["stages"], first)
    x, middle = self.middle(x, state["middle"])
    x, conv_out = self.conv_out(jax.nn.silu(self.norm_out(x)), state["conv_out"])
    mean, logvar = jnp.split(within_frame(self.posterior, x), 2, axis=-1)
    return (mean, logvar), {"conv_in": conv_in, "stages": stages, "middle": middle, "conv_out": conv_out}


class WanDecoder(nnx.Module):
  """Latents [n, h, w, Z], as the encoder gave them, to frames [4n, H, W, 3]."""

  def __init__(self, cfg: WanConfig, *, rngs: nnx.Rngs):
    self.patch = cfg.patch
    multiples = cfg.multiples[::-1]
    widths = [cfg.decoder_width * m for m in (multiples[0], *multiples)]
    self.from_latent = CausalConv3d(cfg.latent_dim, cfg.latent_dim, POINT, rngs=rngs)
    self.conv_in = CausalConv3d(cfg.latent_dim, widths[0], CUBE, rngs=rngs)
    self.middle = Middle(widths[0], rngs=rngs)
    stages = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
      narrow = not cfg.shortcuts  # Wan2.1 halves the channels at every step up
      last = i == len(multiples) - 1
      after = outputs // 2 if narrow else outputs
      step = None if last else StepUp(outputs, after, cfg.time_down[::-1][i], rngs=rngs)
      inputs = inputs // 2 if i > 0 and narrow else inputs
      shortcut = cfg.shortcuts and not last
      stages.append(Stage([inputs, *[outputs] * (cfg.blocks + 1)], step, shortcut, rngs=rngs))
    self.stages = nnx.List(stages)
    self.norm_out = WanNorm(widths[-1])
    self.conv_out = CausalConv3d(widths[-1], 3 * cfg.patch**2, CUBE, rngs=rngs)

  def initial_state(self, height: int, width: int) -> State:
    """For latents of height x width."""
    ends: dict[str, Any] = {"conv_in": self.conv_in, "middle": self.middle}
    state: State = {name: part.initial_state(height, width) for name, part in ends.items()}
    state["stages"] = []
    for stage in self.stages:
      state["stages"].append(stage.initial_state(height, width))
      if stage.step is not None:
        height, width = 2 * height, 2 * width
    return state | {"conv_out": self.conv_out.initial_state(height, width)}

  def __call__(self, latents: Float[Array, "n h w Z"], state: State, first: bool) -> tuple[Array, State]:
    x, conv_in = self.conv_in(within_frame(self.from_latent, latents), state["conv_in"])
    x, middle = self.middle(x, state["middle"])
    x, stages = run_layers(self.stages, x, state["stages"], first)
    x, conv_out = self.conv_out(jax.nn.silu(self.norm_out(x)), state["conv_out"])
    return unfold_pixels(x, self.patch), {"conv_in": conv_in, "middle": middle, "stages": stages, "conv_out": conv_out}


class WanCodec(VideoCodec):
  """Frames in [-1, 1] <-> standardised latents [n, h, w, Z]; see the module's docstring."""

  decoder_is_exchangeable = True

  def __init__(self, cfg: WanConfig, tae: TaeConfig | None = None, *, rngs: nnx.Rngs):
    """tae: the small decoder that takes the place of Wan's own."""
    self.cfg = cfg
    self.encoder = WanEncoder(cfg, rngs=rngs)
    self.decoder: WanDecoder | TaeDecoder
    if tae is None:
      self.decoder = WanDecoder(cfg, rngs=rngs)
    else:
      self.decoder = TaeDecoder(tae, cfg.latent_dim, cfg.patch, rngs=rngs)
    self.standard = Standardisation(cfg.latent_dim)

  @property
  def decoder_fields(self) -> dict[str, Any]:
    """The fields of `VideoCodecConfig` that name its decoder."""
    if isinstance(self.decoder, TaeDecoder):
      return {"decoder": "tae", "tae": self.decoder.cfg.replace()}
    return {"decoder": "own"}

  def encode_first(self, frame: Float[Array, "1 H W 3"]) -> tuple[Posterior, State]:
    """The first frame to one latent frame, from the zero state."""
    self._check_sides(frame)
    return self._encode(frame, self.encoder.initial_state(*frame.shape[1:3]), first=True)

  def encode(self, frames: Float[Array, "F H W 3"], state: State) -> tuple[Posterior, State]:
    """Groups of 4 frames, after the first frame, to one latent frame each."""
    self._check_sides(frames)
    if frames.shape[0] % self.cfg.time_stride:
      raise ValueError(f"{frames.shape[0]} frames are not whole groups of {self.cfg.time_stride}")
    return self._encode(frames, state, first=False)

  def decode_first(self, latent: Float[Array, "1 h w Z"]) -> tuple[Float[Array, "1 H W 3"], State]:
    """The first latent frame to one frame, from the zero state."""
    state = self.decoder.initial_state(*latent.shape[1:3])
    return self.decoder(self.standard.restore(latent), state, first=True)

  def decode(self, latents: Float[Array, "n h w Z"], state: State) -> tuple[Float[Array, "F H W 3"], State]:
    """n latent frames, after the first, to 4n frames; values may leave [-1, 1]."""
    return self.decoder(self.standard.restore(latents), state, first=False)

  def _encode(self, frames: Float[Array, "F H W 3"], state: State, first: bool) -> tuple[Posterior, State]:
    (mean, logvar), state = self.encoder(frames, state, first)
    center, scale = self.standard.constants()
    logvar = jnp.clip(logvar, MIN_LOGVAR, MAX_LOGVAR) - 2 * jnp.log(scale)
    return Posterior((mean - center) / scale, logvar), state

  def _check_sides(self, frames: Float[Array, "F H W 3"]) -> None:
    side = self.cfg.space_stride
    if frames.shape[1] % side or frames.shape[2] % side:
      raise ValueError(f"pictures of {frames.shape[1:3]} do not have sides divisible by {side}")
