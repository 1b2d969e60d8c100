"""The weights of `tiny`, sampled with 2 Euler steps instead of 4 (nothing is trained).
Hypothesis: text stays, the voice loses some words."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.flow.steps = 2
  return config
