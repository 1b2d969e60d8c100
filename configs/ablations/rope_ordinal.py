"""All rotary axes count tokens instead of giving time and place. Hypothesis: it learns timing and mouth motion more
slowly, since the grid ties the audio, video and words of one moment together.
"""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.rope = "ordinal"
  return config
