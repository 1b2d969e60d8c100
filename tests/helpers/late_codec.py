"""An audio codec without loss, which is only late."""

import jax.numpy as jnp

from wanstreamer_jax.codecs.interface import AudioCodec
from wanstreamer_jax.codecs.posterior import Posterior, Standardisation


class Late(AudioCodec):
  """Its latents are the samples; it plays them `cfg.delay` samples late."""

  def __init__(self, cfg):
    self.cfg, self.standard = cfg, Standardisation(cfg.hop)

  def encoder_state(self):
    return jnp.zeros(0)

  def decoder_state(self):
    return jnp.zeros(self.cfg.delay)

  def encode(self, samples, state):
    latents = samples.reshape(-1, self.cfg.hop)
    return Posterior(latents, latents), state

  def decode(self, latents, state):
    samples = jnp.concatenate([state, latents.reshape(-1)])
    return samples[: -self.cfg.delay], samples[-self.cfg.delay :]
