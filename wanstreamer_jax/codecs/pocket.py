"""The tokenizer of Pocket TTS: 24 kHz speech to 32 numbers at 12.5 Hz, and back.

It is Kyutai's (arXiv 2509.06926). Encoder: causal convolutions down to 200 Hz (SEANet), a small Transformer that sees
the last 1.25 s, one more strided convolution. The decoder mirrors it. Everything is causal, so that it streams with the
convolutions' left context and the Transformers' keys and values as states. Weights are imported (`weights/pocket.py`),
never trained here. Latents have no posterior: their variance is negligible.

Letters: S samples, T latent frames, Z latent channels, C channels. Unbatched; callers vmap.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs.interface import AudioCodec, State
from wanstreamer_jax.codecs.posterior import Posterior, Standardisation
from wanstreamer_jax.config import PocketConfig
from wanstreamer_jax.nn.blocks import Linear
from wanstreamer_jax.nn.causal_conv import CausalConv1d, UpsampleConv1d, normal_weight, run_layers, stack_taps
from wanstreamer_jax.nn.windowed_attention import WindowedLayer, WindowSizes

PIECE = 25  # latent frames (2 s) that are processed at once; longer inputs pass in pieces, within the same memory
NO_VARIANCE = -20.0  # log-variance of latents without a posterior


def in_pieces(step: Callable[[Array, State], tuple[Array, State]], x: Array, state: State, size: int) -> Any:
  """`step(x, state)` over pieces of `size` rows and what is left of them: the same result within bounded memory."""
  pieces = x.shape[0] // size
  if pieces < 2:
    return step(x, state)
  cut = pieces * size

  def scanned(state: State, piece: Array) -> tuple[State, Array]:
    y, state = step(piece, state)
    return state, y

  state, y = jax.lax.scan(scanned, state, x[:cut].reshape(pieces, size, *x.shape[1:]))
  y = y.reshape(-1, *y.shape[2:])
  if cut == x.shape[0]:
    return y, state
  rest, state = step(x[cut:], state)
  return jnp.concatenate([y, rest]), state


class ResidualUnit(nnx.Module):
  """x + conv_1(elu(conv_k(elu(x)))) with fewer channels in between."""

  def __init__(self, channels: int, cfg: PocketConfig, dilation: int, *, rngs: nnx.Rngs):
    hidden = channels // cfg.compress
    self.conv_in = CausalConv1d(channels, hidden, cfg.residual_kernel, dilation=dilation, rngs=rngs)
    self.conv_out = CausalConv1d(hidden, channels, 1, rngs=rngs)

  def initial_state(self) -> State:
    return {"conv_in": self.conv_in.initial_state(), "conv_out": self.conv_out.initial_state()}

  def __call__(self, x: Float[Array, "T C"], state: State) -> tuple[Float[Array, "T C"], State]:
    y, conv_in = self.conv_in(jax.nn.elu(x), state["conv_in"])
    y, conv_out = self.conv_out(jax.nn.elu(y), state["conv_out"])
    return x + y, {"conv_in": conv_in, "conv_out": conv_out}


def residual_units(channels: int, cfg: PocketConfig, rngs: nnx.Rngs) -> nnx.List:
  growth = [cfg.dilation_growth**i for i in range(cfg.residual_blocks)]
  return nnx.List([ResidualUnit(channels, cfg, dilation, rngs=rngs) for dilation in growth])


class DownStage(nnx.Module):
  """Residual units, then a strided convolution to twice the channels."""

  def __init__(self, channels: int, stride: int, cfg: PocketConfig, *, rngs: nnx.Rngs):
    self.blocks = residual_units(channels, cfg, rngs)
    self.down = CausalConv1d(channels, 2 * channels, 2 * stride, stride=stride, rngs=rngs)

  def initial_state(self) -> State:
    return {"blocks": [block.initial_state() for block in self.blocks], "down": self.down.initial_state()}

  def __call__(self, x: Float[Array, "S C"], state: State) -> tuple[Float[Array, "T D"], State]:
    x, blocks = run_layers(self.blocks, x, state["blocks"])
    x, down = self.down(jax.nn.elu(x), state["down"])
    return x, {"blocks": blocks, "down": down}


class UpStage(nnx.Module):
  """A transposed convolution to half the channels, then residual units."""

  def __init__(self, channels: int, stride: int, cfg: PocketConfig, *, rngs: nnx.Rngs):
    self.up = UpsampleConv1d(channels, channels // 2, stride, rngs=rngs)
    self.blocks = residual_units(channels // 2, cfg, rngs)

  def initial_state(self) -> State:
    return {"up": self.up.initial_state(), "blocks": [block.initial_state() for block in self.blocks]}

  def __call__(self, x: Float[Array, "T C"], state: State) -> tuple[Float[Array, "S D"], State]:
    x, up = self.up(jax.nn.elu(x), state["up"])
    x, blocks = run_layers(self.blocks, x, state["blocks"])
    return x, {"up": up, "blocks": blocks}


class LatentDown(nnx.Module):
  """The strided convolution to latents. Before the first input it has seen that input over and over.

  State: the past inputs [P, C], and whether there have been any.
  """

  def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
    self.inputs, self.stride = inputs, stride
    self.w = normal_weight(rngs, (2 * stride, inputs, outputs))

  def initial_state(self) -> State:
    return {"past": jnp.zeros((self.stride, self.inputs)), "begun": jnp.zeros((), bool)}

  def __call__(self, x: Float[Array, "S C"], state: State) -> tuple[Float[Array, "T Z"], State]:
    past = jnp.concatenate([jnp.where(state["begun"], state["past"], x[0]), x])
    taps = stack_taps(past, 2 * self.stride, self.stride)
    y = taps @ self.w[...].reshape(taps.shape[-1], -1)
    return y, {"past": past[x.shape[0] :], "begun": jnp.ones((), bool)}


class LatentUp(nnx.Module):
  """The transposed convolution from the latents' rate, every channel by itself. State: the last input [1, C]."""

  def __init__(self, channels: int, stride: int, *, rngs: nnx.Rngs):
    self.channels = channels
    self.w = nnx.Param(jax.random.normal(rngs.params(), (2, stride, channels)))  # from the input before, from this one

  def initial_state(self) -> Float[Array, "1 C"]:
    return jnp.zeros((1, self.channels))

  def __call__(self, x: Float[Array, "T C"], state: Float[Array, "1 C"]) -> tuple[Float[Array, "S C"], Array]:
    before, now = self.w[...]
    past = jnp.concatenate([state, x])
    y = past[:-1, None] * before + x[:, None] * now  # [T, stride, C]
    return y.reshape(-1, self.channels), past[-1:]


def transformer(cfg: PocketConfig, rngs: nnx.Rngs) -> nnx.List:
  """The layers at 200 Hz."""
  sizes = WindowSizes(
    cfg.width, cfg.heads, cfg.kv_heads, cfg.head_dim, cfg.mlp, cfg.window, cfg.rope_theta, cfg.norm_eps, cfg.activation
  )  # fmt: skip
  return nnx.List([WindowedLayer(sizes, rngs=rngs) for _ in range(cfg.layers)])


class PocketEncoder(nnx.Module):
  """Samples [S, 1] to latents [T, Z]."""

  def __init__(self, cfg: PocketConfig, *, rngs: nnx.Rngs):
    channels = [cfg.filters * 2**i for i in range(len(cfg.strides) + 1)]
    self.conv_in = CausalConv1d(1, cfg.filters, cfg.kernel, rngs=rngs)
    self.stages = nnx.List([DownStage(c, stride, cfg, rngs=rngs) for c, stride in zip(channels, cfg.strides)])
    self.conv_out = CausalConv1d(channels[-1], cfg.width, cfg.last_kernel, rngs=rngs)
    self.layers = transformer(cfg, rngs)
    self.down = LatentDown(cfg.width, cfg.latent_dim, cfg.latent_stride, rngs=rngs)

  def initial_state(self) -> State:
    return {
      "conv_in": self.conv_in.initial_state(),
      "stages": [stage.initial_state() for stage in self.stages],
      "conv_out": self.conv_out.initial_state(),
      "layers": [layer.initial_state() for layer in self.layers],
      "down": self.down.initial_state(),
    }

  def __call__(self, x: Float[Array, "S 1"], state: State) -> tuple[Float[Array, "T Z"], State]:
    x, conv_in = self.conv_in(x, state["conv_in"])
    x, stages = run_layers(self.stages, x, state["stages"])
    x, conv_out = self.conv_out(jax.nn.elu(x), state["conv_out"])
    x, layers = run_layers(self.layers, x, state["layers"])
    x, down = self.down(x, state["down"])
    return x, {"conv_in": conv_in, "stages": stages, "conv_out": conv_out, "layers": layers, "down": down}


class PocketDecoder(nnx.Module):
  """Latents [T, Z] to samples [S, 1]."""

  def __init__(self, cfg: PocketConfig, *, rngs: nnx.Rngs):
    channels = [cfg.filters * 2**i for i in range(len(cfg.strides), 0, -1)]
    self.latent_in = Linear(cfg.latent_dim, cfg.width, rngs=rngs)
    self.up = LatentUp(cfg.width, cfg.latent_stride, rngs=rngs)
    self.layers = transformer(cfg, rngs)
    self.conv_in = CausalConv1d(cfg.width, channels[0], cfg.kernel, rngs=rngs)
    self.stages = nnx.List([UpStage(c, stride, cfg, rngs=rngs) for c, stride in zip(channels, cfg.strides[::-1])])
    self.conv_out = CausalConv1d(cfg.filters, 1, cfg.last_kernel, rngs=rngs)

  def initial_state(self) -> State:
    return {
      "up": self.up.initial_state(),
      "layers": [layer.initial_state() for layer in self.layers],
      "conv_in": self.conv_in.initial_state(),
      "stages": [stage.initial_state() for stage in self.stages],
      "conv_out": self.conv_out.initial_state(),
    }

  def __call__(self, latents: Float[Array, "T Z"], state: State) -> tuple[Float[Array, "S 1"], State]:
    x, up = self.up(self.latent_in(latents), state["up"])
    x, layers = run_layers(self.layers, x, state["layers"])
    x, conv_in = self.conv_in(x, state["conv_in"])
    x, stages = run_layers(self.stages, x, state["stages"])
    x, conv_out = self.conv_out(jax.nn.elu(x), state["conv_out"])
    return x, {"up": up, "layers": layers, "conv_in": conv_in, "stages": stages, "conv_out": conv_out}


class PocketCodec(AudioCodec):
  """Samples [T * hop] <-> standardised latents [T, Z]; see the module's docstring."""

  def __init__(self, cfg: PocketConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.encoder = PocketEncoder(cfg, rngs=rngs)
    self.decoder = PocketDecoder(cfg, rngs=rngs)
    self.standard = Standardisation(cfg.latent_dim)

  def encoder_state(self) -> State:
    """The state before the first sample."""
    return self.encoder.initial_state()

  def decoder_state(self) -> State:
    """The state before the first latent."""
    return self.decoder.initial_state()

  def encode(self, samples: Float[Array, "S"], state: State) -> tuple[Posterior, State]:
    """S = T * hop samples, clipped to [-1, 1], to T latent frames. Raises ValueError for any other S."""
    if samples.shape[0] % self.cfg.hop:
      raise ValueError(f"{samples.shape[0]} samples are not a whole number of latent frames of {self.cfg.hop}")
    x = jnp.clip(samples, -1.0, 1.0)[:, None]
    mean, state = in_pieces(self.encoder, x, state, PIECE * self.cfg.hop)
    center, scale = self.standard.constants()
    return Posterior((mean - center) / scale, jnp.full_like(mean, NO_VARIANCE)), state

  def decode(self, latents: Float[Array, "T Z"], state: State) -> tuple[Float[Array, "S"], State]:
    """T standardised latent frames to T * hop samples."""
    samples, state = in_pieces(self.decoder, self.standard.restore(latents), state, PIECE)
    return samples[:, 0], state
