"""The audio encoder: causal log-mel frames, a convolution and causal attention. Groups of frames become tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import Config
from wanstreamer_jax.nn.blocks import Linear, RMSNorm
from wanstreamer_jax.nn.local_attention import LocalAttentionLayer, LocalState
from wanstreamer_jax.nn.mel import log_mel, mel_filterbank, power_spectrum

_FLOOR = 1e-5  # of the mel power; silence in a 16-bit file is about 1e-6


class AudioState(NamedTuple):
  """What the encoder remembers of the sound before."""

  samples: Float[Array, "P"]  # the last mel_window - mel_hop ones
  token: Float[Array, "2 C"]  # the inputs of the last two tokens
  layers: tuple[LocalState, ...]


def mel_frames(
  samples: Float[Array, "S"], tail: Float[Array, "P"], config: Config
) -> tuple[Float[Array, "frames bins"], Float[Array, "P"]]:
  """S samples and the tail before them -> (log-mel of S / hop frames, about -1..1, and the new tail).

  Frame i ends with sample (i + 1) * hop: all of its window lies in the past.
  """
  p = config.perception
  stream = jnp.concatenate([tail, jnp.clip(samples, -1.0, 1.0)])
  frames = samples.shape[0] // p.mel_hop
  index = np.arange(frames)[:, None] * p.mel_hop + np.arange(p.mel_window)  # [frames, mel_window]
  power = power_spectrum(stream[index], np.hanning(p.mel_window).astype(np.float32)) / p.mel_window
  mel = log_mel(power, mel_filterbank(p.mel_window, p.mel_bins, config.media.sample_rate), _FLOOR)
  return (mel + 2.5) / 2.5, stream[frames * p.mel_hop :]


class UserAudioEncoder(nnx.Module):
  """User audio [K * samples] -> tokens [K, audio_tokens, D]. A stream: `(x, state) -> (y, state)`."""

  delay = 0.0  # seconds between a sound and the tokens about it, beyond the unit itself

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    p = config.perception
    self.group = config.media.samples // p.mel_hop // p.audio_tokens  # mel frames per token
    self.stem = Linear(self.group * p.mel_bins, p.audio_channels, rngs=rngs, bias=True)
    self.conv = Linear(3 * p.audio_channels, p.audio_channels, rngs=rngs, bias=True)
    window = p.audio_window * p.audio_tokens
    layer = lambda: LocalAttentionLayer(p.audio_channels, max(1, p.audio_channels // 32), window, rngs=rngs)
    self.layers = nnx.List([layer() for _ in range(p.audio_layers)])
    self.norm = RMSNorm(p.audio_channels)
    self.out = Linear(p.audio_channels, config.model.width, rngs=rngs)
    self.config = config

  def initial_state(self) -> AudioState:
    p = self.config.perception
    return AudioState(
      jnp.zeros(p.mel_window - p.mel_hop),
      jnp.zeros((2, p.audio_channels)),
      tuple(layer.initial_state() for layer in self.layers),
    )

  def __call__(self, samples: Float[Array, "S"], state: AudioState) -> tuple[Float[Array, "K Ta D"], AudioState]:
    p = self.config.perception
    mel, tail = mel_frames(samples, state.samples, self.config)
    x = jax.nn.silu(self.stem(mel.reshape(-1, self.group * p.mel_bins)))  # [frames, bins] -> [K Ta, C]
    stream = jnp.concatenate([state.token, x])
    taps = jnp.concatenate([stream[:-2], stream[1:-1], stream[2:]], axis=-1)  # of a causal convolution of width 3
    x = x + jax.nn.silu(self.conv(taps))
    states = []
    for layer, before in zip(self.layers, state.layers):
      x, after = layer(x, before)
      states.append(after)
    tokens = self.out(self.norm(x)).reshape(-1, p.audio_tokens, self.config.model.width)
    return tokens, AudioState(tail, stream[-2:], tuple(states))
