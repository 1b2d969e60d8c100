"""Output heads: text logits (tied to the embedding) and velocities of the latents.

The velocity heads predict the clean latents from the past, and `velocity_from_mean` combines this with the noisy
latents. So the noise, which is as large as the latents, need not pass through the Transformer. With `flow.carry` the
video head predicts what changes: it adds to the previous unit's latents, weighed by place and channel, and begins as a
copy of them. Most of a face stays as it is, and what stays need not pass through the Transformer either. With
`flow.anchor` it adds to the portrait's latents too, beginning with none of them.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from wanstreamer_jax.config import Config
from wanstreamer_jax.flow import velocity_from_mean
from wanstreamer_jax.model.tokens import Latents, Reference
from wanstreamer_jax.nn.blocks import Linear, RMSNorm
from wanstreamer_jax.nn.folding import depth_to_space
from wanstreamer_jax.units import PERFORM, build_layout, segment_slices


class Heads(nnx.Module):
  """One head for audio and one for video, zero at initialisation; a text head only if it is not tied."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    model = config.model
    self.latent_norm = RMSNorm(model.width, model.norm_eps)
    self.audio = Linear(model.width, config.audio_codec.latent_dim, rngs=rngs, scale=0.0, bias=True)
    patch = config.layout.patch**2 * config.video_codec.latent_dim
    self.video = Linear(model.width, patch, rngs=rngs, scale=0.0, bias=True)
    latent_dim = config.video_codec.latent_dim
    weights = functools.partial(Linear, model.width, latent_dim, rngs=rngs, scale=0.0, bias=True)
    self.carry = weights() if config.flow.carry else None
    if self.carry is not None:
      self.carry.b = nnx.Param(jnp.ones(latent_dim))
    self.anchor = weights() if config.flow.anchor else None
    # Constants: how much the past leaves unknown of each channel, measured with the codecs (`train/duplex.py`).
    self.audio_variance = nnx.Param(jnp.full(config.audio_codec.latent_dim, config.flow.audio_std**2))
    self.video_variance = nnx.Param(jnp.full(config.video_codec.latent_dim, config.flow.video_std**2))
    self.text = None if model.tied_embedding else Linear(model.width, model.vocab, rngs=rngs)
    self.config = config

  def velocity(self, hidden: Float[Array, "T D"], z: Latents, tau: Float[Array, ""], reference: Reference) -> Latents:
    """Hidden states of PERFORM for noisy latents z at flow time tau -> their velocity, float32."""
    config, still = self.config, jax.lax.stop_gradient
    at = segment_slices(build_layout(config).phase(PERFORM))
    hidden = self.latent_norm(hidden).astype(jnp.float32)
    patches = self.video(hidden[at["noisy_video"]]).reshape(*config.noisy_grid, -1)  # [R Q, P^2 Z] -> [R, Q, P^2 Z]
    video, audio = depth_to_space(patches, config.layout.patch), self.audio(hidden[at["noisy_audio"]])
    for weights, latents in ((self.carry, reference.previous), (self.anchor, reference.portrait)):
      if weights is not None and latents is not None:
        kept = weights(hidden[at["noisy_video"]]).reshape(*config.noisy_grid, -1)  # [R, Q, Z]
        video += jnp.repeat(jnp.repeat(kept, config.layout.patch, 0), config.layout.patch, 1) * latents
    return Latents(
      velocity_from_mean(video, z.video, tau, still(self.video_variance[...])),
      velocity_from_mean(audio, z.audio, tau, still(self.audio_variance[...])),
    )

  def logits(self, hidden: Float[Array, "*T D"], embedding: Float[Array, "V D"]) -> Float32[Array, "*T V"]:
    """Normed hidden states and the token embedding -> logits."""
    matrix = embedding.T if self.text is None else self.text.w[...]
    return jnp.einsum("...d,dv->...v", hidden, matrix.astype(hidden.dtype), preferred_element_type=jnp.float32)
