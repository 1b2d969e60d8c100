"""The published sizes, made of pretrained parts that exist.

    wanstreamer inspect model --config configs/real.py:qwen3_1p7b,192x336
    wanstreamer train --config configs/real.py:qwen3_0p6b,192x336 --config.train.language_model=Qwen3-0.6B \\
      --config.train.hearing=pocket --config.train.seeing=siglip2-base --config.data.path=latents

Expected time: seconds to inspect. Expected result: a table of parts with parameters, FLOPs and states. `pods.py`
trains these on pods; docs/perception.md says where the folders come from.

    thinks      Qwen2.5-1.5B, Qwen3-0.6B, -1.7B or -8B
    hears       the encoder of Pocket TTS' tokenizer, frozen: 2 tokens a unit
    sees        SigLIP 2 base (NaFlex), frozen, the last frame of a unit: 12x21 patches become 4x7 tokens
    speaks      Pocket TTS' tokenizer: 2 latents of 32 numbers a unit
    draws       latents of Wan2.2's VAE, 16x16 pixels each; TAEW2.2 decodes them
"""

import importlib

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError

SIZES = ("qwen2p5_1p5b", "qwen3_0p6b", "qwen3_1p7b", "qwen3_8b")


def get_config(choice: str = "qwen3_1p7b,192x336") -> Config:
  """choice: "SIZE" or "SIZE,PICTURES"."""
  size, _, pictures = choice.partition(",")
  if size not in SIZES:
    raise ConfigError(f"size is {size!r}: expected one of {', '.join(SIZES)}, as in --config=FILE:qwen3_1p7b,192x336")
  config = importlib.import_module(f"configs.{size}").get_config(pictures or "192x336")
  config.name = f"real {size} {pictures or '192x336'}"
  config.audio_codec.kind = config.perception.audio = "pocket"
  config.video_codec.kind, config.video_codec.decoder = "wan2p2", "tae"
  config.perception.video = "siglip2"
  config.perception.audio_tokens, config.perception.video_merge = 2, 3
  config.layout.patch = 1  # a latent is 16 pixels wide: 252 tokens at 192x336, 920 at 640x368
  config.train.groups = "language=0.1,hearing=0,seeing=0"
  return config
