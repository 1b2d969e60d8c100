"""The native codec of any sound: ConvNeXt blocks over spectra, and an inverse STFT.

Encoder: causal log-spectra of 10 ms frames (those of `spectral_codec.py`), ConvNeXt blocks at the frame rate, a
strided convolution to the latent rate, further blocks, a Gaussian posterior. Decoder: the mirror image, whose head
states a magnitude and a phase for every bin of every frame; windowed inverse transforms of `window` frames overlap and
add up to sound (Vocos, arXiv 2306.00814). Nothing says what the sound is: several voices, chords and noise are alike.

A sample is finished only when the last window that covers it has come, so decoded sound is `cfg.delay` samples later
than what was encoded: `window - 1` frames, 20 ms. Losses compare with the delayed sound, and `data encode` reads the
agent's sound as much earlier, so that it is in step with the picture.

Letters: S samples, T latent frames, R spectral frames, F bins, N samples of a window, C channels, Z latent channels.
Unbatched; callers vmap.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Complex, Float

from wanstreamer_jax.codecs.posterior import Standardisation
from wanstreamer_jax.codecs.spectral_codec import Analysis, Chain, SpectralCodec
from wanstreamer_jax.config import NeuralCodecConfig
from wanstreamer_jax.nn.causal_conv import CausalConv1d, ChannelNorm, ConvNeXt1d, UpsampleConv1d

State = dict[str, Any]
REST_LEVEL = -2.0  # natural log of the magnitudes of an untrained frame
LOUDEST = 6.0  # natural log of the largest magnitude of a bin; that of a full-scale sine is about 5.2


def encoder_layers(cfg: NeuralCodecConfig, features: int, rngs: nnx.Rngs) -> list[nnx.Module]:
  """From `features` at the frame rate to (mean, logvar) at the latent rate."""
  frames, latents = cfg.encoder_blocks
  fine, coarse = cfg.channels, cfg.latent_channels
  layers: list[nnx.Module] = [CausalConv1d(features, fine, 1, rngs=rngs)]
  layers += [ConvNeXt1d(fine, cfg.kernel, cfg.expansion, rngs=rngs) for _ in range(frames)]
  layers.append(CausalConv1d(fine, coarse, cfg.frames, stride=cfg.frames, rngs=rngs))
  layers += [ConvNeXt1d(coarse, cfg.latent_kernel, cfg.expansion, rngs=rngs) for _ in range(latents)]
  return [*layers, CausalConv1d(coarse, 2 * cfg.latent_dim, 1, rngs=rngs)]


def decoder_layers(cfg: NeuralCodecConfig, rngs: nnx.Rngs) -> list[nnx.Module]:
  """From latents back to channels at the frame rate."""
  latents, frames = cfg.decoder_blocks
  fine, coarse = cfg.channels, cfg.latent_channels
  layers: list[nnx.Module] = [CausalConv1d(cfg.latent_dim, coarse, cfg.latent_kernel, rngs=rngs)]
  layers += [ConvNeXt1d(coarse, cfg.latent_kernel, cfg.expansion, rngs=rngs) for _ in range(latents)]
  layers.append(UpsampleConv1d(coarse, fine, cfg.frames, rngs=rngs))
  return layers + [ConvNeXt1d(fine, cfg.kernel, cfg.expansion, rngs=rngs) for _ in range(frames)]


class NeuralCodec(SpectralCodec):
  """Samples [T * hop] <-> standardised latents [T, Z]; see the module's docstring."""

  def __init__(self, cfg: NeuralCodecConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.analysis = Analysis(cfg.frame)
    self.encoder = Chain(encoder_layers(cfg, self.analysis.features, rngs))
    self.decoder = Chain(decoder_layers(cfg, rngs))
    self.head_norm = ChannelNorm(cfg.channels)
    self.head = CausalConv1d(cfg.channels, 2 * cfg.bins, 1, scale=0.3, rngs=rngs)
    self.standard = Standardisation(cfg.latent_dim)

  def decoder_state(self) -> State:
    """The state before the first latent: `tail` is what earlier windows add to frames to come."""
    return {"decoder": self.decoder.initial_state(), "tail": jnp.zeros((self.cfg.window - 1, self.cfg.frame))}

  def decode(self, latents: Float[Array, "T Z"], state: State) -> tuple[Float[Array, "S"], State]:
    """T standardised latent frames to T * hop samples, `cfg.delay` samples late."""
    x, decoder = self.decoder(self.standard.restore(latents), state["decoder"])
    x, _ = self.head(self.head_norm(x), self.head.initial_state())
    level, phase = jnp.split(x, 2, axis=-1)
    magnitude = jnp.exp(jnp.clip(level + REST_LEVEL, -16.0, LOUDEST))
    spectrum = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
    samples, tail = overlap_add(spectrum, state["tail"])
    return samples, {"decoder": decoder, "tail": tail}


def overlap_add(
  spectrum: Complex[Array, "R F"], tail: Float[Array, "P frame"]
) -> tuple[Float[Array, "S"], Float[Array, "P frame"]]:
  """Inverse STFT with Hann windows of P + 1 frames, one every frame, after the windows that left `tail`.

  Returns the R finished frames of samples and the next tail. It is the inverse of an STFT with the same window, for
  windows of at least 3 frames: squares of shorter ones do not add up to a constant.
  """
  frames, (parts, frame) = spectrum.shape[0], (tail.shape[0] + 1, tail.shape[1])
  window = np.hanning(parts * frame + 1)[:-1]
  window = (window / (np.square(window).sum() / frame)).astype(np.float32)  # windows of analysis and synthesis sum to 1
  pieces = (jnp.fft.irfft(spectrum, parts * frame) * window).reshape(frames, parts, frame)
  samples = jnp.zeros((frames + parts - 1, frame)).at[: parts - 1].set(tail)
  for part in range(parts):
    samples = samples.at[part : part + frames].add(pieces[:, part])
  return samples[:frames].reshape(-1), samples[frames:]
