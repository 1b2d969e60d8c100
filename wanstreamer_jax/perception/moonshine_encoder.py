"""Hears through a streaming speech encoder of Moonshine's kind. It has short windows, and no mel frames or positions.

Samples at 16 kHz, in frames of 5 ms, each with its mean removed and its level normalised, go through two convolutions
of stride 2 to steps of 20 ms, and these through layers of windowed attention. The pretrained windows of some layers
reach three steps into the future. A unit's tokens may not wait for the next unit, so there are two settings:

  look_ahead = "none"     those windows end at the present: no delay, but not quite the function that was pretrained
  look_ahead = "delay"    the pretrained function exactly; every such layer answers 60 ms later, and the tokens of a
                          unit are about the sound `delay` seconds earlier (240 ms with four such layers)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from wanstreamer_jax.config import Config
from wanstreamer_jax.nn.blocks import Linear
from wanstreamer_jax.nn.causal_conv import normal_weight, stack_taps
from wanstreamer_jax.nn.encoder_layer import LayerNorm, LookAheadLayer, LookAheadState
from wanstreamer_jax.nn.resample import Resampler
from wanstreamer_jax.perception.projection import Projection

RATE = 16_000
FRAME = 80  # samples, 5 ms
STEP = 4 * FRAME  # samples of a step of the encoder, 20 ms
KERNEL, STRIDE = 5, 2  # of both convolutions


class MoonshineState(NamedTuple):
  """What the encoder remembers of the sound before."""

  samples: Float[Array, "P"]  # the resampler's tail
  frames: Float[Array, "4 D"]  # inputs of the first convolution
  halves: Float[Array, "4 2D"]  # and of the second
  layers: tuple[LookAheadState, ...]
  step: Int[Array, ""]  # how many steps came before


class StridedConv(nnx.Module):
  """Output t sees the inputs 2 t - 4 .. 2 t: it does not wait for the second input of its stride."""

  def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
    self.w = normal_weight(rngs, (KERNEL, inputs, outputs))
    self.b = nnx.Param(jnp.zeros(outputs))

  def __call__(
    self, x: Float[Array, "T I"], state: Float[Array, "4 I"]
  ) -> tuple[Float[Array, "T2 O"], Float[Array, "4 I"]]:
    stream = jnp.concatenate([state.astype(x.dtype), x])
    taps = stack_taps(stream[:-1], KERNEL, STRIDE)
    w = self.w[...].astype(x.dtype)
    return taps @ w.reshape(-1, w.shape[-1]) + self.b[...].astype(x.dtype), stream[x.shape[0] :].astype(state.dtype)


class MoonshineTrunk(nnx.Module):
  """Samples at 16 kHz -> features at 50 Hz. An importer fills it."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    sizes = config.perception.moonshine
    width = sizes.width
    self.log_gain = nnx.Param(jnp.log(jnp.full((1,), 0.75)))
    self.frame = Linear(FRAME, width, rngs=rngs)
    self.conv_in = StridedConv(width, 2 * width, rngs=rngs)
    self.conv_out = StridedConv(2 * width, width, rngs=rngs)
    layer = lambda past, future: LookAheadLayer(
      width, (sizes.heads, sizes.kv_heads), sizes.size_of_head, sizes.mlp, past=past, future=future, rngs=rngs
    )
    self.layers = nnx.List([layer(*window) for window in zip(sizes.past, sizes.ahead)])
    self.final_norm = LayerNorm(width, bias=False)
    self.config = config

  def initial_state(self) -> MoonshineState:
    width, past = self.config.perception.moonshine.width, KERNEL - 1
    layers = tuple(layer.initial_state() for layer in self.layers)
    frames, halves = jnp.zeros((past, width)), jnp.zeros((past, 2 * width))
    return MoonshineState(jnp.zeros(0), frames, halves, layers, jnp.zeros((), jnp.int32))

  def __call__(self, samples: Float[Array, "S"], state: MoonshineState) -> tuple[Float[Array, "T D"], MoonshineState]:
    """S samples, a multiple of STEP, -> T = S / STEP features. The state's `samples` are not touched."""
    x, frames, halves = self.embedded(samples, state)
    first, states = state.step, []
    for layer, before in zip(self.layers, state.layers):
      x, after = layer(x, first, before)
      first = first - layer.future
      states.append(after)
    x = self.final_norm(x) * (first + jnp.arange(x.shape[0]) >= 0)[:, None]  # before the sound there is nothing
    return x, MoonshineState(state.samples, frames, halves, tuple(states), state.step + x.shape[0])

  def embedded(self, samples: jax.Array, state: MoonshineState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(inputs of the layers [T, D], and the tails of both convolutions)."""
    x = samples.reshape(-1, FRAME)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
    x = jnp.arcsinh(jnp.exp(self.log_gain[...]) * x).astype(self.config.model.dtype)
    x, frames = self.conv_in(jax.nn.silu(self.frame(x)), state.frames)
    x, halves = self.conv_out(jax.nn.silu(x), state.halves)
    return x, frames, halves


class MoonshineAudioEncoder(nnx.Module):
  """User audio [K * samples] -> tokens [K, audio_tokens, D]. A stream: `(x, state) -> (y, state)`."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    width = config.perception.moonshine.width
    self.resampler = Resampler(config.media.sample_rate, RATE)
    self.trunk = MoonshineTrunk(config, rngs=rngs)
    self.project = Projection(config.features_per_audio_token * width, 2 * width, config.model.width, rngs=rngs)
    self.config = config

  @property
  def delay(self) -> float:
    """Seconds between a sound and the features that are about it, beyond the unit itself."""
    ahead = sum(layer.future for layer in self.trunk.layers)
    return self.resampler.delay / self.resampler.source + ahead * STEP / RATE

  def initial_state(self) -> MoonshineState:
    return self.trunk.initial_state()._replace(samples=self.resampler.initial_state())

  def __call__(
    self, samples: Float[Array, "S"], state: MoonshineState
  ) -> tuple[Float[Array, "K Ta D"], MoonshineState]:
    tokens, model = self.config.perception.audio_tokens, self.config.model
    sound, tail = self.resampler(jnp.clip(samples, -1.0, 1.0), state.samples)
    features, state = self.trunk(sound, state._replace(samples=tail))
    x = features.reshape(-1, self.config.features_per_audio_token * features.shape[-1])
    return self.project(x).reshape(-1, tokens, model.width), state
