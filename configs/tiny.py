"""The size that a CPU trains and the ablations use: about 1.2M parameters, 16 tokens a unit.

    wanstreamer train --config=configs/tiny.py

Expected time: about 1.5 h for a million units on two cores. Expected result: turn-taking and the words of the answers
(the prototype of this size answered 90 % of its questions after 211k units); pictures and voice stay coarse.
"""

from configs import base
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = base.get_config()
  config.name = "tiny"
  config.layout.patch, config.layout.commit_patch = 4, 2  # 2x2 noisy video tokens, one committed
  config.layout.text_slots, config.layout.user_text_slots = 2, 1
  config.perception.audio_tokens, config.perception.video_merge = 2, 4
  model = config.model
  model.width, model.layers, model.mlp = 128, 4, 352
  model.heads, model.kv_heads, model.head_dim = 4, 2, 32
  config.perception.audio_channels = config.perception.video_channels = 64
  config.train.learning_rate, config.train.warmup, config.train.ema = 2.5e-3, 40, 0.98
  config.train.run = "runs/tiny"
  return config
