"""Audio and video are separate blocks, for user and agent alike. The video sees the voice of its unit, not the reverse.
Hypothesis: little is lost, since the past says nearly everything that one modality needs of the other.
"""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.layout.split_modalities = True
  return config
