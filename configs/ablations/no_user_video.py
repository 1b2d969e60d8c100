"""The agent is blind. Hypothesis: questions about what is held up fall to guessing, all else stays."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.user_video = False
  return config
