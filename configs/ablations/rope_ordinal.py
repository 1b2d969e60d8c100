"""All rotary axes count tokens instead of telling time and place. Hypothesis: slower to learn timing and mouth motion;
the grid is what ties sound, picture and words of one moment together."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.rope = "ordinal"
  return config
