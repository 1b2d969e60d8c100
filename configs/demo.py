"""The size for an agent trained on a GPU: width 256, 6 layers, frames of 64x64. It runs in real time on two laptop
cores. The shipped weights are `tiny`.

    bash launch/train.sh demo 4000

Expected time: not measured; 5 to 15 million units should take under an hour on one current GPU. Too large to train on a
CPU (see `tiny.py`). Expected result: not trained yet.
"""

from configs import base, tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = base.get_config()
  config.name = "demo"
  model = config.model
  model.width, model.layers, model.mlp = 256, 6, 704
  model.heads, model.kv_heads, model.head_dim = 4, 2, 64
  config.layout.window = config.data.units = 62  # 10 s, in training and at work
  config.train.optimizer, config.train.learning_rate = "muon", 1.5e-3
  tiny.use_readouts(config)
  config.train.run = "runs/demo"
  return config
