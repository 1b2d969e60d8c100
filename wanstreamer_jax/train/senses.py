"""Starts a streamer's ears and eyes from pretrained encoders: `train.hearing` and `train.seeing`.

What else there is keeps the weights that it has: random ones, or those of a language model.
"""

from typing import Any

import jax
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.train.stage import Params
from wanstreamer_jax.weights.perception import import_hearing, import_seeing


def with_senses(config: Config, params: Params) -> Params:
  """Parameters of the streamer with the encoders of both folders; every array stays where it is, on all its devices.

  Raises CheckpointError for a folder that does not fit the config, ConfigError for a stage that does not perceive.
  """
  leaves: dict[str, Any] = dict(named_leaves(params))
  for folder, read in ((config.train.hearing, import_hearing), (config.train.seeing, import_seeing)):
    if not folder:
      continue
    encoder = read(folder, config)
    if not encoder.values.keys() <= leaves.keys():
      raise ConfigError(
        f"train.stage is {config.train.stage}, which neither hears nor sees: leave train.hearing and train.seeing empty"
      )
    for name, value in encoder.values.items():
      leaves[name] = _placed(value, leaves[name])
    print(f"read {encoder.note}", flush=True)
  return fill_leaves(params, leaves)


def _placed(value: np.ndarray, like: jax.Array) -> jax.Array:
  """A host's array where `like` lies: every device gets its own part, on as many hosts as there are."""
  return jax.make_array_from_callback(like.shape, like.sharding, lambda part: value[part].astype(like.dtype))
