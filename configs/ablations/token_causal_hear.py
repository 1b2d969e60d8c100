"""Every perceived token is its own causal block, as text is. Hypothesis: nothing changes, since order within 160 ms
hardly matters.
"""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.token_causal_hear = True
  return config
