"""A word is written two units before it sounds. Hypothesis: as good a voice as with one, slower to stop."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.data.text_lead = 2
  return config
