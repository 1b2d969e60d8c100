"""The two contracts that every codec meets: `AudioCodec` and `VideoCodec`.

A codec is a stream in both directions, `(x, state) -> (y, state)`. Two laws hold for each kind
(tests/codecs/test_contract.py): whole equals chunked, for any cut between latent frames, and later input never changes
earlier output. Latents are standardised per channel (`posterior.Standardisation`), so that the flow model sees numbers
of deviation 1. A unit holds one video latent frame and a whole number of audio latent frames.

Letters: S samples, T audio latent frames, n video latent frames, F = 4n frames, H W pixels, h w latent rows and
columns, Z latent channels. Unbatched; callers vmap.
"""

import abc
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs.posterior import Posterior, Standardisation

State = Any  # a pytree of arrays whose shapes do not change


class AudioCodec(nnx.Module):
  """Samples [T * hop] <-> standardised latents [T, Z]. `cfg` has `hop`, `latent_dim`, `sample_rate` and `delay`."""

  cfg: Any
  standard: Standardisation

  @abc.abstractmethod
  def encoder_state(self) -> State:
    """The state before the first sample."""

  @abc.abstractmethod
  def decoder_state(self) -> State:
    """The state before the first latent."""

  @abc.abstractmethod
  def encode(self, samples: Float[Array, "S"], state: State) -> tuple[Posterior, State]:
    """S = T * hop samples, clipped to [-1, 1], to T latent frames. Raises ValueError for any other S."""

  @abc.abstractmethod
  def decode(self, latents: Float[Array, "T Z"], state: State) -> tuple[Float[Array, "S"], State]:
    """T latent frames to T * hop samples, which are `cfg.delay` samples later than those that were encoded."""


class VideoCodec(nnx.Module):
  """Frames in [-1, 1] <-> standardised latents: the first frame alone, then groups of `cfg.time_stride` frames.

  `cfg` has `space_stride`, `time_stride` and `latent_dim`. decoder_is_exchangeable: others exist for the same latents.
  """

  decoder_is_exchangeable = False

  cfg: Any
  standard: Standardisation

  @abc.abstractmethod
  def encode_first(self, frame: Float[Array, "1 H W 3"]) -> tuple[Posterior, State]:
    """The first frame to one latent frame, from the state before it."""

  @abc.abstractmethod
  def decode_first(self, latent: Float[Array, "1 h w Z"]) -> tuple[Float[Array, "1 H W 3"], State]:
    """The first latent frame to one frame, from the state before it."""

  @abc.abstractmethod
  def encode(self, frames: Float[Array, "F H W 3"], state: State) -> tuple[Posterior, State]:
    """Groups of frames, after the first frame, to one latent frame each. Raises ValueError for parts of a group."""

  @abc.abstractmethod
  def decode(self, latents: Float[Array, "n h w Z"], state: State) -> tuple[Float[Array, "F H W 3"], State]:
    """Latent frames, after the first, to a group of frames each; values may leave [-1, 1] a little."""

  def encode_clip(self, frames: Float[Array, "G H W 3"]) -> Posterior:
    """A clip of G = 1 + F frames to 1 + n latent frames."""
    first, state = self.encode_first(frames[:1])
    rest, _ = self.encode(frames[1:], state)
    return Posterior(*(jnp.concatenate(pair) for pair in zip(first, rest)))

  def decode_clip(self, latents: Float[Array, "m h w Z"]) -> Float[Array, "G H W 3"]:
    """m = 1 + n latent frames to a clip of G = 1 + F frames."""
    first, state = self.decode_first(latents[:1])
    rest, _ = self.decode(latents[1:], state)
    return jnp.concatenate([first, rest])

  def primed_encoder_state(self, height: int, width: int) -> State:
    """The state after a mid-grey first frame, which is never emitted."""
    return self.encode_first(jnp.zeros((1, height, width, 3)))[1]

  def primed_decoder_state(self, height: int, width: int) -> State:
    """The state after the latent of a mid-grey first frame, which is never emitted."""
    posterior, _ = self.encode_first(jnp.zeros((1, height, width, 3)))
    return self.decode_first(posterior.mean)[1]
