"""The geometry of Qwen2.5-1.5B: 28 layers of width 1536, 28 KiB of KV a token.

    wanstreamer inspect model --config=configs/qwen2p5_1p5b.py            192x336 (v0.1)
    wanstreamer inspect model --config=configs/qwen2p5_1p5b.py:640x368    640x368 (v0.2)

Expected time: seconds, nothing is allocated. Expected result: the table of parameters. `configs/pods.py` trains it.
"""

from configs import base
from wanstreamer_jax.config import Config


def get_config(size: str = "192x336") -> Config:
  config = base.large_video(base.get_config(), size)
  config.name = "qwen2p5_1p5b"
  model = config.model
  model.width, model.layers, model.mlp, model.vocab = 1536, 28, 8960, 151_936
  model.heads, model.kv_heads, model.head_dim = 12, 2, 128
  model.qk_norm, model.qkv_bias, model.tied_embedding = False, True, True
  model.rope_theta = 1_000_000.0
  return config
