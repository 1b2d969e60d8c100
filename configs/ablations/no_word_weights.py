"""All words that the agent writes weigh the same. Hypothesis: answers are learned later, since most words of the loss
are the same in all of them."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.train.rare_words = 0.0
  return config
