"""Every perceived token is its own causal block, as text is. Hypothesis: no change; in 160 ms order hardly matters."""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.token_causal_hear = True
  return config
