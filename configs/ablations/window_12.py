"""12 units (2 s) of history instead of 40. Hypothesis: single questions survive; counting, names and whatever was said
before the last two seconds are lost, and identity rests on the portrait alone."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.window = 12
  return config
