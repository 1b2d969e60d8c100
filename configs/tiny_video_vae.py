"""Stage 0, the video codec of `tiny`.

    wanstreamer train --config=configs/tiny_video_vae.py --config.data.path=data_cache/train

Expected time: 20 minutes on one CPU core. Expected result: about 30 dB PSNR, pictures in RUN/pictures, and the
standardised codec in RUN/weights.
"""

from configs import tiny
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = tiny.get_config()
  config.name, config.train.stage, config.train.run = "tiny_video_vae", "video_vae", "runs/tiny_video_vae"
  config.data.units, config.data.batch = 1, 8
  train = config.train
  train.steps, train.learning_rate, train.warmup, train.ema = 3000, 3e-3, 50, 0.99
  train.eval_every, train.checkpoint_every = 500, 500
  return config
