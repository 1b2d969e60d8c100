"""The agent does not see its own latents, only its words. Hypothesis: the voice is broken at every unit boundary, the
face jumps, and speech does not know how far it has come."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.committed_history = config.flow.carry = False
  return config
