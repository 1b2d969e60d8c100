"""Stage 0, the video codec of a size: `configs/video_codec.py:tiny`, `:demo` ...

    wanstreamer train --config=configs/video_codec.py:tiny --config.data.path=data_cache/tiny/train

Expected time: half an hour on one CPU core. Expected result: recognisable faces, pictures in RUN/pictures, and the
standardised codec in RUN/weights.
"""

import importlib

from wanstreamer_jax.config import Config


def get_config(size: str = "tiny") -> Config:
  config = importlib.import_module(f"configs.{size}").get_config()
  config.name, config.train.stage, config.train.run = f"{size}_video_codec", "video_codec", f"runs/{size}/video_codec"
  config.data.units, config.data.batch = config.video_codec.memory - 1, 3
  train = config.train
  train.steps, train.learning_rate, train.warmup, train.ema = 2500, 2e-3, 50, 0.99
  train.eval_every, train.checkpoint_every = 500, 500
  return config
