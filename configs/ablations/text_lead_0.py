"""A word is written in the unit in which it starts to sound. Hypothesis: the voice starts words late or wrong, because
the performer gets them too late to shape the transition.
"""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.data.text_lead = 0
  return config
