"""A unit sees the agent's own latents of two units ago. Thinking and performing may then overlap; REFEED shows the last
unit to the performer alone. Hypothesis: answers and timing stay the same, motion and voice get a little rougher.
"""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.commit_delay = 2
  return config
