"""What the hidden states say: text logits (tied to the embedding) and the velocities of audio and video latents."""

import jax
import jax.numpy as jnp
from flax import nnx

from wanstreamer_jax.config import Config
from wanstreamer_jax.model.tokens import Latents, unpatchify
from wanstreamer_jax.nn.blocks import Linear, RMSNorm
from wanstreamer_jax.units import PERFORM, build_layout, segment_slices


class Heads(nnx.Module):
  """One velocity head for audio and one for video, zero at initialisation; a text head only where it is not tied."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    model = config.model
    self.latent_norm = RMSNorm(model.width, model.norm_eps)
    self.audio = Linear(model.width, config.audio_vae.latent_dim, rngs=rngs, scale=0.0, bias=True)
    patch = config.layout.patch**2 * config.video_vae.latent_dim
    self.video = Linear(model.width, patch, rngs=rngs, scale=0.0, bias=True)
    self.text = None if model.tied_embedding else Linear(model.width, model.vocab, rngs=rngs)
    self.config = config

  def velocity(self, hidden: jax.Array) -> Latents:
    """Hidden states of PERFORM [T, D] -> the velocity eps - z0 of the unit's latents, float32."""
    config = self.config
    at = segment_slices(build_layout(config).phase(PERFORM))
    hidden = self.latent_norm(hidden).astype(jnp.float32)
    video = unpatchify(self.video(hidden[at["noisy_video"]]), config.noisy_grid, config.layout.patch)
    return Latents(video, self.audio(hidden[at["noisy_audio"]]))

  def logits(self, hidden: jax.Array, embedding: jax.Array) -> jax.Array:
    """Normed hidden states [T, D] and the token embedding [V, D] -> float32 [T, V]."""
    if self.text is not None:
      return self.text(hidden).astype(jnp.float32)
    return jnp.einsum("td,vd->tv", hidden, embedding.astype(hidden.dtype), preferred_element_type=jnp.float32)
