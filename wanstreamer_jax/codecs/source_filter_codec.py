"""Causal audio VAE: samples to continuous latents at 12.5 or 25 Hz, and back. It has no lookahead.

Encoder: causal log-spectra of 10 ms frames, strided causal convolutions, a Gaussian posterior. Decoder: polyphase
upsampling back to frames, then the source-filter synthesis of `source_filter.py`. Convolutions up to the
waveform would not do: 12.5 latents a second cannot carry a waveform's phase, so such a decoder has to invent it, which
takes adversarial training and long runs. An oscillator with a state gives a steady pitch at once, with 1/50 of the
operations. Its limitation: it models one voice at a time, not music.

Letters: S samples, T latent frames, Z latent channels, C channels. Unbatched; callers vmap.
"""

from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs import source_filter
from wanstreamer_jax.codecs.posterior import Standardisation
from wanstreamer_jax.codecs.spectral_codec import Analysis, Chain, SpectralCodec
from wanstreamer_jax.config import SourceFilterConfig
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.nn.causal_conv import CausalConv1d, ChannelNorm, Residual1d, UpsampleConv1d
from wanstreamer_jax.nn.local_attention import LocalAttentionLayer

State = dict[str, Any]


class VoiceFrames(NamedTuple):
  """The output of the decoder's network for each 10 ms frame."""

  pitch_logit: Float[Array, "T"]  # see source_filter.pitch_octaves
  cepstra: Float[Array, "T 2 K"]  # filters of pulses and noise


def stage_channels(cfg: SourceFilterConfig) -> list[int]:
  """Channels at the frame rate and after each further stride."""
  return [min(cfg.channels * 2**i, cfg.max_channels) for i in range(len(cfg.strides))]


def latent_attention(cfg: SourceFilterConfig, channels: int, rngs: nnx.Rngs) -> list[LocalAttentionLayer]:
  """Attention among latent frames, the same in the encoder and the decoder."""
  if channels % cfg.attention_heads:
    raise ConfigError(f"audio_codec: {channels} channels do not divide into {cfg.attention_heads} attention heads")
  heads, window = cfg.attention_heads, cfg.attention_window
  return [LocalAttentionLayer(channels, heads, window, rngs=rngs) for _ in range(cfg.attention_layers)]


def encoder_layers(cfg: SourceFilterConfig, features: int, rngs: nnx.Rngs) -> list[nnx.Module]:
  """From `features` at the frame rate to (mean, logvar) at the latent rate."""
  channels = stage_channels(cfg)
  layers: list[nnx.Module] = [CausalConv1d(features, channels[0], 1, rngs=rngs)]
  layers += [Residual1d(channels[0], cfg.kernel, rngs=rngs) for _ in range(cfg.residual_blocks)]
  for stride, inputs, outputs in zip(cfg.strides[1:], channels, channels[1:]):
    layers.append(CausalConv1d(inputs, outputs, 2 * stride, stride=stride, rngs=rngs))
    layers += [Residual1d(outputs, cfg.kernel, rngs=rngs) for _ in range(cfg.residual_blocks)]
  layers += latent_attention(cfg, channels[-1], rngs)
  return [*layers, CausalConv1d(channels[-1], 2 * cfg.latent_dim, 1, rngs=rngs)]


def decoder_layers(cfg: SourceFilterConfig, rngs: nnx.Rngs) -> list[nnx.Module]:
  """From latents back to channels at the frame rate."""
  channels = stage_channels(cfg)
  layers: list[nnx.Module] = [CausalConv1d(cfg.latent_dim, channels[-1], 3, rngs=rngs)]
  layers += latent_attention(cfg, channels[-1], rngs)
  layers += [Residual1d(channels[-1], cfg.kernel, rngs=rngs) for _ in range(cfg.residual_blocks)]
  for stride, inputs, outputs in reversed(list(zip(cfg.strides[1:], channels[1:], channels))):
    layers.append(UpsampleConv1d(inputs, outputs, stride, rngs=rngs))
    layers += [Residual1d(outputs, cfg.kernel, rngs=rngs) for _ in range(cfg.residual_blocks)]
  return layers


class SourceFilterCodec(SpectralCodec):
  """Samples [T * hop] <-> standardised latents [T, Z]; see the module's docstring."""

  def __init__(self, cfg: SourceFilterConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.analysis = Analysis(cfg.strides[0])
    self.encoder = Chain(encoder_layers(cfg, self.analysis.features, rngs))
    self.decoder = Chain(decoder_layers(cfg, rngs))
    self.head_norm = ChannelNorm(stage_channels(cfg)[0])
    self.head = CausalConv1d(stage_channels(cfg)[0], 1 + 2 * cfg.cepstrum, 1, scale=0.1, rngs=rngs)
    self.standard = Standardisation(cfg.latent_dim)

  def decoder_state(self) -> State:
    """The state before the first latent."""
    voice = source_filter.initial_state(self.cfg.strides[0], self.cfg.cepstrum)
    return {"decoder": self.decoder.initial_state(), "voice": voice}

  def decode(self, latents: Float[Array, "T Z"], state: State) -> tuple[Float[Array, "S"], State]:
    """T standardised latent frames to T * hop samples."""
    frames, decoder = self.voice_frames(latents, state["decoder"])
    samples, voice = self.synthesise(frames, state["voice"])
    return samples, {"decoder": decoder, "voice": voice}

  def voice_frames(self, latents: Float[Array, "T Z"], state: list[Any]) -> tuple[VoiceFrames, list[Any]]:
    """The network half of `decode`; training looks at its pitch."""
    x, state = self.decoder(self.standard.restore(latents), state)
    x, _ = self.head(jax.nn.silu(self.head_norm(x)), self.head.initial_state())
    cepstra = x[:, 1:].reshape(-1, 2, self.cfg.cepstrum)
    return VoiceFrames(pitch_logit=x[:, 0], cepstra=cepstra), state

  def synthesise(
    self, frames: VoiceFrames, state: source_filter.SourceFilterState
  ) -> tuple[Float[Array, "S"], source_filter.SourceFilterState]:
    """The signal half of `decode`."""
    index = source_filter.pitch_index(frames.pitch_logit)
    return source_filter.synthesise(index, frames.cepstra, state, self.cfg.strides[0])
