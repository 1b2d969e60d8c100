"""A training step in Hugging Face transformers (torch), for `bench train --against`.

It has the same geometry, float32 weights with bfloat16 products (autocast) where the config says bfloat16, SDPA
attention (flash on GPUs), fused AdamW, clipping, gradient checkpointing where the config recomputes, and torch.compile
where that works. It needs the extra `oracles`.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import UserError


def transformers_step(config: Config, length: int) -> tuple[Callable[[], Any], int, str, float]:
  """(a function that does one whole update, number of parameters, title, seconds until the first update was done).

  Raises UserError without torch and transformers.
  """
  missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
  if missing:
    raise UserError(
      f"--against transformers needs {' and '.join(missing)}, which is not installed: "
      "pip install 'wanstreamer-jax[oracles]'"
    )
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.set_float32_matmul_precision("high")  # XLA's default on GPUs
  model = language_model(config, length).to(device).train()
  train = config.train
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=train.learning_rate, betas=(train.beta1, train.beta2), weight_decay=train.weight_decay,
    fused=True,
  )  # fmt: skip
  drawn = np.random.default_rng(0).integers(1, config.model.vocab, (config.data.batch, length))
  ids = torch.as_tensor(drawn, device=device)
  half = config.model.dtype == "bfloat16"

  def update(forward: Callable[..., Any]) -> None:
    with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
      loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss.item()  # waits for the device

  begin, forward = time.perf_counter(), torch.compile(model)
  try:
    update(forward)
    how = "compiled"
  except Exception as error:  # many kinds, for whatever torch.compile lacks on this machine
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
    how, forward = f"not compiled ({reason})", model
    optimizer.zero_grad(set_to_none=True)
    update(forward)
  title = f"transformers {_version('transformers')}, torch {torch.__version__} on {device}, {how}, sdpa attention"
  parameters = sum(parameter.numel() for parameter in model.parameters())
  return lambda: update(forward), parameters, title, time.perf_counter() - begin


def language_model(config: Config, length: int) -> Any:
  """A Qwen2 or Qwen3 of the config's geometry with random float32 weights."""
  import transformers

  model = config.model
  kind = "Qwen3" if model.qk_norm else "Qwen2"
  settings = getattr(transformers, f"{kind}Config")(
    vocab_size=model.vocab, hidden_size=model.width, intermediate_size=model.mlp, num_hidden_layers=model.layers,
    num_attention_heads=model.heads, num_key_value_heads=model.kv_heads, head_dim=model.head_dim,
    max_position_embeddings=length, tie_word_embeddings=model.tied_embedding, rms_norm_eps=model.norm_eps,
    rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta}, attn_implementation="sdpa",
  )  # fmt: skip
  network = getattr(transformers, f"{kind}ForCausalLM")(settings)
  if model.remat != "none":
    network.gradient_checkpointing_enable()
  return network


def _version(package: str) -> str:
  from importlib.metadata import version

  return version(package)
