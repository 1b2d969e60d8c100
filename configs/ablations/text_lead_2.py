"""A word is written two units before it sounds. Hypothesis: the voice is as good as with one unit, but stops more
slowly.
"""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.data.text_lead = 2
  return config
