"""Stage 0, the audio codec of a size and a kind: `:tiny`, `:demo,neural`, ...

    wanstreamer train --config=configs/audio_codec.py:tiny --config.data.path=data_cache/tiny/train
    wanstreamer data make --config=configs/tiny.py --source sounds --speech DIR --out data_cache/sounds
    wanstreamer train --config=configs/audio_codec.py:tiny,neural --config.data.path=data_cache/sounds
    wanstreamer data make --config=configs/tiny.py --source voices --out data_cache/voices \
        --config.data.voices=formant,flite
    wanstreamer train --config=configs/audio_codec.py:tiny,voice --config.data.path=data_cache/voices \
        --config.train.latent_noise=0.6

Expected time: 10 minutes on one CPU core. Expected result: a log-mel distance of about 0.1 on both voices of
duplex_world (the first command), pictures in RUN/pictures, and the standardised codec in RUN/weights. What the neural
codec reaches: docs/codecs.md. An agent's config uses it after `use_neural`, or with `--config.audio_codec.kind=neural`.
"""

import importlib

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError

NEURAL = {  # fields of audio_codec.neural that are not the defaults
  "neural": {},  # 2 M parameters, 0.7 ms of a CPU core for a unit
  "voice": {"latent_dim": 16},  # for voices alone: 16 numbers hold 98 % of what the 32 say of speech
  "neural_small": {"channels": 64, "latent_channels": 96, "decoder_blocks": (1, 3)},
  "neural_large": {
    "channels": 384, "latent_channels": 512, "kernel": 7, "encoder_blocks": (3, 3), "decoder_blocks": (4, 8),
  },
}  # fmt: skip


def use_neural(config: Config, size: str = "neural") -> Config:
  """Gives a config the neural codec in a size of NEURAL, at the sample rate of its media."""
  config.audio_codec.kind, sizes = "neural", {"sample_rate": config.media.sample_rate, **NEURAL[size]}
  for name, value in sizes.items():
    setattr(config.audio_codec.neural, name, value)
  return config


def get_config(choice: str = "tiny") -> Config:
  """choice: "SIZE" for its own codec, or "SIZE,NEURAL"."""
  size, _, codec = choice.partition(",")
  if codec and codec not in NEURAL:
    raise ConfigError(f"{choice!r}: expected SIZE, or SIZE and one of {', '.join(NEURAL)}, as in tiny,neural")
  config = importlib.import_module(f"configs.{size}").get_config()
  name = codec or "audio_codec"
  config.name, config.train.stage, config.train.run = f"{size}_{name}", "audio_codec", f"runs/{size}/{name}"
  config.data.units, config.data.batch = 8, 8
  train = config.train
  train.steps, train.learning_rate, train.warmup, train.ema = 2500, 3e-3, 50, 0.99
  train.eval_every, train.checkpoint_every = 500, 500
  return use_neural(config, codec) if codec else config
