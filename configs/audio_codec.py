"""Stage 0, the audio codec of a size: `configs/audio_codec.py:tiny`, `:demo` ...

    wanstreamer train --config=configs/audio_codec.py:tiny --config.data.path=data_cache/tiny/train

Expected time: 10 minutes on one CPU core. Expected result: a log-mel distance of about 0.1 on both voices, pictures in
RUN/pictures, and the standardised codec in RUN/weights.
"""

import importlib

from wanstreamer_jax.config import Config


def get_config(size: str = "tiny") -> Config:
  config = importlib.import_module(f"configs.{size}").get_config()
  config.name, config.train.stage, config.train.run = f"{size}_audio_codec", "audio_codec", f"runs/{size}/audio_codec"
  config.data.units, config.data.batch = 8, 8
  train = config.train
  train.steps, train.learning_rate, train.warmup, train.ema = 2500, 3e-3, 50, 0.99
  train.eval_every, train.checkpoint_every = 500, 500
  return config
