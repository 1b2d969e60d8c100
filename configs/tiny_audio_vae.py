"""Stage 0, the audio codec of `tiny`.

    wanstreamer train --config=configs/tiny_audio_vae.py --config.data.path=data_cache/train

Expected time: 15 minutes on one CPU core. Expected result: a mel distance of about 0.5, pictures in RUN/pictures, and
the standardised codec in RUN/weights.
"""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.name, config.train.stage, config.train.run = "tiny_audio_vae", "audio_vae", "runs/tiny_audio_vae"
  config.data.units, config.data.batch = 8, 8
  train = config.train
  train.steps, train.learning_rate, train.warmup, train.ema = 2500, 3e-3, 50, 0.99
  train.eval_every, train.checkpoint_every = 500, 500
  return config
