"""The shipped demo weights' size: 256 x 6 at 64x64, real time on two laptop cores.

    wanstreamer train --config=configs/demo.py

Expected time: under an hour on one current GPU for 5 to 15 million units; too large to train on a CPU (see `tiny.py`).
Expected result: on held-out sessions better than copy-previous, shuffled-user and text-only, and audible, visible
answers in closed loop.
"""

from configs import base
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = base.get_config()
  config.name = "demo"
  model = config.model
  model.width, model.layers, model.mlp = 256, 6, 704
  model.heads, model.kv_heads, model.head_dim = 4, 2, 64
  config.layout.window = 62  # 10 s
  config.train.run = "runs/demo"
  return config
