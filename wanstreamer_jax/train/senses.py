"""The pretrained encoders that training starts with: `train.hearing`, `train.seeing`."""

from typing import Any

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.weights.perception import import_hearing, import_seeing


def senses(config: Config, params: Any) -> dict[str, np.ndarray]:
  """Arrays by parameter name; empty without such folders. params: the stage's, of which only names are looked at.

  Raises CheckpointError for a folder that does not fit the config, ConfigError for a stage that does not perceive.
  """
  values: dict[str, np.ndarray] = {}
  for folder, read in ((config.train.hearing, import_hearing), (config.train.seeing, import_seeing)):
    if folder:
      encoder = read(folder, config)
      values |= encoder.values
      print(f"read {encoder.note}", flush=True)
  if not values.keys() <= named_leaves(params).keys():
    raise ConfigError(
      f"train.stage is {config.train.stage}, which neither hears nor sees: leave train.hearing and train.seeing empty"
    )
  return values
