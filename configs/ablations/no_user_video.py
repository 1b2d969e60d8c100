"""The agent does not see the user. Hypothesis: it guesses what is held up; all else stays the same."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.user_video = False
  return config
