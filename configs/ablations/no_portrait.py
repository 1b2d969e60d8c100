"""WORLD holds no portrait. Hypothesis: the face is a stranger's from the start and changes over a session."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.portrait = config.flow.anchor = False
  return config
