"""The smallest size that has every part, for tests and for trying a change in seconds. Frames are 32x32.

    wanstreamer train --config=configs/nano.py --config.train.steps=20

Expected time: seconds. Expected result: a finite loss; nano learns nothing worth looking at.
"""

from configs import base
from wanstreamer_jax.config import Config


def get_config() -> Config:
  config = base.get_config()
  config.name = "nano"
  config.media.height = config.media.width = 32
  config.layout.window, config.layout.world_text = 6, 8
  config.layout.text_slots, config.layout.user_text_slots = 2, 2
  model = config.model
  model.width, model.layers, model.mlp = 48, 2, 96
  model.heads, model.kv_heads, model.head_dim = 2, 1, 24
  perception = config.perception
  perception.mel_bins, perception.audio_tokens, perception.audio_channels, perception.audio_window = 16, 2, 32, 3
  perception.video_patch, perception.video_channels = 8, 32
  voice, pictures = config.audio_codec.source_filter, config.video_codec.native
  voice.channels, voice.max_channels, voice.latent_dim = 4, 16, 8
  pictures.channels, pictures.latent_dim = (8, 8, 16), 4
  config.flow.steps = 2
  config.data.units, config.data.batch = 8, 2
  return config
