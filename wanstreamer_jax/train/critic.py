"""Discriminators of the audio codec's stage 0, an option of its training.

They learn to tell decoded sound from original sound while the codec learns to deceive them. Spectra of several window
sizes are judged (as in EnCodec, arXiv 2210.13438), and the waveform folded at several periods (as in HiFi-GAN, arXiv
2010.05646).

They are parameters of the training alone: `CodecWithCritic` joins them with a codec, one loss trains both (each is held
still where the other learns), and only the codec is exported. Steps down fold neighbours into channels instead of
striding, whose gradient XLA computes slowly on CPUs. Letters: S samples, T frames, F bins, C channels. Unbatched.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import TrainConfig
from wanstreamer_jax.nn.causal_conv import normal_weight, stack_taps
from wanstreamer_jax.nn.mel import sine_window

FOLDS = (4, 2, 2)  # bins that each layer of a spectral critic folds into channels
TIME_FOLD = 4  # samples (of one phase of the period) that each layer of a period critic folds
COMPRESSION = 0.3  # exponent of magnitudes: quiet partials count beside loud ones


class Judgement(NamedTuple):
  """What one critic says of a sound: scores, high for originals, and the activations of its layers."""

  scores: Array
  features: list[Array]


class SpectralCritic(nnx.Module):
  """Judges every place of a complex spectrum with windows of `size` samples."""

  def __init__(self, size: int, channels: int, *, rngs: nnx.Rngs):
    self.size = size
    widths = [2, *[channels] * len(FOLDS)]
    layers = [normal_weight(rngs, (3, 3, fold * a, b), 1.4) for fold, a, b in zip(FOLDS, widths, widths[1:])]
    self.layers = nnx.List([Kernel(w) for w in layers])
    self.judge = Kernel(normal_weight(rngs, (3, 3, channels, 1)))

  def __call__(self, samples: Float[Array, "S"]) -> Judgement:
    features = []
    x = compressed_spectrum(samples, self.size)
    for layer, fold in zip(self.layers, FOLDS):
      x = x[:, : x.shape[1] // fold * fold].reshape(x.shape[0], x.shape[1] // fold, -1)  # [T, F / fold, fold C]
      x = jax.nn.leaky_relu(plane(layer, x), 0.1)
      features.append(x)
    return Judgement(plane(self.judge, x), features)


class PeriodCritic(nnx.Module):
  """Judges the samples of every phase of a period on their own."""

  def __init__(self, period: int, channels: int, *, rngs: nnx.Rngs):
    self.period = period
    widths = [1, channels, 2 * channels, 2 * channels]
    kernels = [normal_weight(rngs, (3, TIME_FOLD * a, b), 1.4) for a, b in itertools.pairwise(widths)]
    self.layers = nnx.List([Kernel(w) for w in kernels])
    self.judge = Kernel(normal_weight(rngs, (3, widths[-1], 1)))

  def __call__(self, samples: Float[Array, "S"]) -> Judgement:
    phases = samples[: samples.shape[0] // self.period * self.period].reshape(-1, self.period, 1)
    return jax.vmap(self.phase, in_axes=1)(phases)

  def phase(self, x: Float[Array, "S 1"]) -> Judgement:
    features = []
    for layer in self.layers:
      x = x[: x.shape[0] // TIME_FOLD * TIME_FOLD].reshape(x.shape[0] // TIME_FOLD, -1)
      x = jax.nn.leaky_relu(line(layer, x), 0.1)
      features.append(x)
    return Judgement(line(self.judge, x), features)


class Kernel(nnx.Module):
  """A convolution's kernel [..., I, O] and bias."""

  def __init__(self, w: nnx.Param):
    self.w, self.b = w, nnx.Param(jnp.zeros(w.shape[-1]))


def plane(kernel: Kernel, x: Float[Array, "T F C"]) -> Float[Array, "T F D"]:
  """Convolution over frames and bins, zero-padded."""
  y = jax.lax.conv_general_dilated(x[None], kernel.w[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  return y[0] + kernel.b[...]


def line(kernel: Kernel, x: Float[Array, "S C"]) -> Float[Array, "T D"]:
  """Convolution over time, without padding."""
  taps = stack_taps(x, kernel.w.shape[0])
  return taps @ kernel.w[...].reshape(taps.shape[-1], -1) + kernel.b[...]


def compressed_spectrum(samples: Float[Array, "S"], size: int) -> Float[Array, "T F 2"]:
  """Real and imaginary parts with magnitudes to the power of COMPRESSION; Hann windows, hop size / 4."""
  hop = size // 4
  x = samples[: samples.shape[0] // hop * hop].reshape(-1, hop)
  spectrum = jnp.fft.rfft(stack_taps(x, 4) * sine_window(size))[:, 1:]
  parts = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
  power = jnp.sum(jnp.square(parts), axis=-1, keepdims=True)
  return parts * (power + 1e-8) ** (0.5 * (COMPRESSION - 1))


class Critic(nnx.Module):
  """All discriminators."""

  def __init__(self, train: TrainConfig, *, rngs: nnx.Rngs):
    channels = train.critic_channels
    self.spectral = nnx.List([SpectralCritic(size, channels, rngs=rngs) for size in train.critic_windows])
    self.periodic = nnx.List([PeriodCritic(period, channels, rngs=rngs) for period in train.critic_periods])

  def __call__(self, samples: Float[Array, "S"]) -> list[Judgement]:
    return [critic(samples) for critic in [*self.spectral, *self.periodic]]


class CodecWithCritic(nnx.Module):
  """The parameters of stage 0 with `train.adversarial_weight`."""

  def __init__(self, codec: Any, critic: Any):
    """An `AudioCodec` and its `Critic`, or a `VideoCodec` and the `PictureCritic` of train/picture_critic.py."""
    self.codec, self.critic = codec, critic


def adversarial_loss(
  critic: Any, original: Float[Array, "..."], decoded: Float[Array, "..."], train: TrainConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """The hinge losses of both sides and the distance of features, of one clip, in one sum. Returns (loss, metrics).

  The critic's parameters get the gradient of `critic` alone, and `decoded` that of `deceive` and `features`.
  """
  still = jax.lax.stop_gradient
  real, fake = critic(original), critic(still(decoded))
  learn = mean_over(lambda a, b: hinge(1 - a.scores) + hinge(1 + b.scores), real, fake)
  seen = jax.tree.map(still, critic)(decoded)
  deceive = mean_over(lambda a, b: -jnp.mean(b.scores), real, seen)
  features = mean_over(lambda a, b: feature_distance(still(a.features), b.features), real, seen)
  loss = learn + train.adversarial_weight * (deceive + train.feature_weight * features)
  return loss, {"critic": learn, "deceive": deceive, "features": features}


def mean_over(term: Callable[[Judgement, Judgement], Any], a: Sequence[Judgement], b: Sequence[Judgement]) -> Any:
  return sum(map(term, a, b)) / len(a)


def hinge(x: Array) -> Float[Array, ""]:
  return jnp.mean(jax.nn.relu(x))


def feature_distance(a: Sequence[Array], b: Sequence[Array]) -> Float[Array, ""]:
  """Mean absolute difference, relative to the mean of a."""
  distances = [jnp.mean(jnp.abs(x - y)) / (jnp.mean(jnp.abs(x)) + 1e-3) for x, y in zip(a, b)]
  return sum(distances, jnp.float32(0)) / len(distances)
