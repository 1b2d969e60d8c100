"""What the native audio codecs share: an encoder of causal log-spectra.

Letters: S samples, T latent frames (or spectral ones), F features, C channels, Z latent channels. Unbatched.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs import pitch
from wanstreamer_jax.codecs.interface import AudioCodec, State
from wanstreamer_jax.codecs.posterior import Posterior
from wanstreamer_jax.nn.causal_conv import run_layers, stack_taps
from wanstreamer_jax.nn.mel import power_spectrum

WINDOWS = (2, 5)  # hops: a short window for what changes, a long one for pitch
PITCH_SCALE = 4.0  # gives the two pitch features weight among hundreds of spectral ones


def analysis_window(size: int) -> np.ndarray:
  """A Hann window warped towards the newest samples (peak at 0.79 of its length), since none may come later."""
  u = (np.arange(size) + 0.5) / size
  return np.sin(np.pi * u**3).astype(np.float32) ** 2


class Analysis(nnx.Module):
  """The encoder's features of each frame: log-power spectra of windows that end with it, and their pitch.

  Pitch by autocorrelation spares the network from learning to find it in the harmonics. There are no parameters. The
  state is past samples.
  """

  def __init__(self, hop: int):
    self.hop = hop

  @property
  def features(self) -> int:
    return sum(window * self.hop // 2 + 1 for window in WINDOWS) + 2

  def initial_state(self) -> Float[Array, "P"]:
    return jnp.zeros((max(WINDOWS) - 1) * self.hop)

  def __call__(
    self, samples: Float[Array, "S"], state: Float[Array, "P"]
  ) -> tuple[Float[Array, "T F"], Float[Array, "P"]]:
    past = jnp.concatenate([state, samples])
    frames = stack_taps(past.reshape(-1, self.hop), max(WINDOWS))  # [T, max(WINDOWS) * hop]
    spectra = [self.log_spectrum(frames[:, -window * self.hop :]) for window in WINDOWS]
    voice = PITCH_SCALE * pitch.soft_pitch(frames, analysis_window(frames.shape[-1]), self.hop)
    return jnp.concatenate([*spectra, voice], axis=-1), past[samples.shape[0] :]

  def log_spectrum(self, frames: Float[Array, "T N"]) -> Float[Array, "T F"]:
    window = analysis_window(frames.shape[-1])
    return 0.2 * jnp.log(power_spectrum(frames, window / window.sum()) + 1e-9) + 3.0  # about -1 (silence) to 3


class Chain(nnx.Module):
  """Layers one after another; its state is the list of theirs."""

  def __init__(self, layers: list[Any]):
    self.layers = nnx.List(layers)

  def initial_state(self) -> list[Any]:
    return [layer.initial_state() for layer in self.layers]

  def __call__(self, x: Float[Array, "S C"], state: list[Any]) -> tuple[Float[Array, "T D"], list[Any]]:
    return run_layers(self.layers, x, state)


class SpectralCodec(AudioCodec):
  """A codec that encodes log-spectra of 10 ms frames. `encoder` gives (mean, logvar) of every latent frame."""

  analysis: Analysis
  encoder: Chain

  def encoder_state(self) -> State:
    """The state before the first sample."""
    return {"analysis": self.analysis.initial_state(), "encoder": self.encoder.initial_state()}

  def encode(self, samples: Float[Array, "S"], state: State) -> tuple[Posterior, State]:
    """S = T * hop samples, clipped to [-1, 1], to T latent frames."""
    if samples.shape[0] % self.cfg.hop:
      raise ValueError(f"{samples.shape[0]} samples are not a whole number of latent frames of {self.cfg.hop}")
    x, analysis = self.analysis(jnp.clip(samples, -1.0, 1.0), state["analysis"])
    x, encoder = self.encoder(x, state["encoder"])
    mean, logvar = jnp.split(x, 2, axis=-1)
    return self.standard.normalise(mean, logvar), {"analysis": analysis, "encoder": encoder}
