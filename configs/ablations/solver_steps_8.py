"""The weights of `tiny`, sampled with 8 Euler steps instead of 4 (nothing is trained).
Hypothesis: barely better than 4; the paper's student needs few."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.flow.steps = 8
  return config
