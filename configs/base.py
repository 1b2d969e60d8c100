"""The defaults: every other config file is a short diff of this one.

    wanstreamer train --config=configs/base.py --config.train.steps=2000

Expected time and result: none by itself; train `tiny.py` (CPU) or `demo.py` (GPU) instead. All fields, with
their meaning, are in `wanstreamer_jax/config/`; a misspelt one fails with the nearest name.
"""

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError


def get_config() -> Config:
  config = Config(name="base")
  config.flow.carry = config.flow.anchor = True  # off where a file says nothing: in exports older than these fields
  return config


def large_video(config: Config, size: str) -> Config:
  """The pictures and codecs of the published sizes, at "192x336" (rows x columns, as in v0.1) or "640x368" (columns
  x rows, as in v0.2), with the settings that a large model needs on TPUs. Changes and returns `config`."""
  sizes = {"192x336": (192, 336), "640x368": (368, 640)}
  if size not in sizes:
    raise ConfigError(f"size is {size!r}: expected one of {', '.join(sizes)}, as in --config=FILE:192x336")
  config.media.height, config.media.width = sizes[size]
  voice, pictures = config.audio_codec.source_filter, config.video_codec.native
  voice.strides = (240, 4)  # 960 samples: 25 Hz, 4 latents a unit
  voice.channels, voice.max_channels, voice.latent_dim = 32, 512, 64
  pictures.channels, pictures.latent_dim = (128, 256, 512), 16
  perception = config.perception
  perception.audio_channels, perception.audio_layers = 512, 6  # hears through 18 M parameters, sees through 30 M
  perception.video_channels, perception.video_blocks = 768, (2, 3)
  config.layout.commit_patch = 1  # 252 video tokens a unit at 192x336, in the history too
  config.layout.world_text = 256
  config.layout.window = 375  # a minute
  config.data.units = 63  # 10 s sessions
  config.data.user_video = config.data.agent_video = "h264"  # raw pictures would be 0.77 MB a unit, and of each side
  config.model.dtype, config.model.remat, config.model.attention = "bfloat16", "full", "splash"
  return config
