"""Hears through the encoder of Pocket TTS' tokenizer. It gives 12.5 latents a second; the agent may speak with it too.

Its latents hold what is needed to say the same again: words, voice and manner. They are small, so that the projection
behind them is the only part that has to be trained.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.codecs.pocket import PIECE, PocketEncoder, in_pieces
from wanstreamer_jax.config import Config
from wanstreamer_jax.perception.projection import Projection


class PocketAudioEncoder(nnx.Module):
  """User audio [K * samples] -> tokens [K, audio_tokens, D]. A stream: `(x, state) -> (y, state)`.

  `trunk` has the sizes of `audio_codec.pocket`, whatever the agent speaks with; an importer fills it.
  """

  delay = 0.0  # seconds between a sound and the tokens about it, beyond the unit itself

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    pocket, width = config.audio_codec.pocket, config.model.width
    self.trunk = PocketEncoder(pocket, rngs=rngs)
    self.inputs = config.media.samples // pocket.hop // config.perception.audio_tokens * pocket.latent_dim
    self.project = Projection(self.inputs, width, width, rngs=rngs)
    self.config = config

  def initial_state(self) -> Any:
    return self.trunk.initial_state()

  def __call__(self, samples: Float[Array, "S"], state: Any) -> tuple[Float[Array, "K Ta D"], Any]:
    size = PIECE * self.config.audio_codec.pocket.hop
    latents, state = in_pieces(self.trunk, jnp.clip(samples, -1.0, 1.0)[:, None], state, size)
    tokens = self.project(latents.reshape(-1, self.inputs))
    return tokens.reshape(-1, self.config.perception.audio_tokens, self.config.model.width), state
