"""The geometry of Qwen3-1.7B: 28 layers of width 2048, 112 KiB of KV a token.

    wanstreamer inspect model --config=configs/qwen3_1p7b.py            192x336 (v0.1)
    wanstreamer inspect model --config=configs/qwen3_1p7b.py:640x368    640x368 (v0.2)

Expected time: seconds, nothing is allocated. Expected result: the table of parameters. `configs/pods.py` trains it.
"""

from configs import base
from wanstreamer_jax.config import Config


def get_config(size: str = "192x336") -> Config:
  config = base.large_video(base.get_config(), size)
  config.name = "qwen3_1p7b"
  model = config.model
  model.width, model.layers, model.mlp, model.vocab = 2048, 28, 6144, 151_936
  model.heads, model.kv_heads, model.head_dim = 16, 8, 128
  model.qk_norm, model.qkv_bias, model.tied_embedding = True, False, True
  model.rope_theta = 1_000_000.0
  return config
