"""Writes the text path of a streamer as a folder that transformers loads.

It is the way back of `qwen.py`.
"""

import json
import pathlib
import shutil
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config, ModelConfig
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import Path, replacing
from wanstreamer_jax.weights.agent import abstract_agent, checked_part, resolve
from wanstreamer_jax.weights.qwen import CONFIG_FILE, HEAD_NORMS, MLP, NORMS, TOKENIZER_FILE
from wanstreamer_jax.weights.store import read_weights
from wanstreamer_jax.weights.tensor_folder import INDEX, SINGLE

MAX_FILE = 5_000_000_000  # bytes of tensors in one file, as the hub has it
MAX_POSITIONS = 32_768  # what config.json states; neither program's weights depend on it
Tensors = dict[str, np.ndarray]


def export_streamer(streamer: Path, folder: Path, dtype: str = "bf16") -> int:
  """`write_language_model` of a run, a checkpoint or an exported agent ("demo": the shipped one)."""
  source = resolve(streamer)
  config, values = read_weights(source)
  values = checked_part("streamer", source, values, abstract_agent(config).streamer)
  return write_language_model(values, config, folder, dtype)


def write_language_model(values: Tensors, config: Config, folder: Path, dtype: str = "bf16") -> int:
  """Writes config.json, safetensors and the tokenizer, with its control tokens. Returns the bytes of the weights.

  values: the streamer's leaves by name, float32. dtype: "f32" or "bf16". Latent experts and everything that does not
  make text stay out. Raises CheckpointError for a model that is neither Qwen2 nor Qwen3, for another dtype, and for a
  folder that exists.
  """
  model, out = config.model, pathlib.Path(folder)
  kind = model_type(model)
  if dtype not in ("f32", "bf16"):
    raise CheckpointError(f"--dtype {dtype} with --hf: transformers' folders have f32 or bf16")
  if out.exists() and any(out.iterdir()):
    raise CheckpointError(f"{out} is not empty: give --hf a new folder")
  tokenizer, tensors = tokenizer_of(config), _tensors(values, model)
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
      temporary.mkdir()
      (temporary / CONFIG_FILE).write_text(json.dumps(_config(model, kind, tokenizer, dtype), indent=2) + "\n")
      (temporary / TOKENIZER_FILE).write_text(tokenizer.to_json(), encoding="utf-8")
      (temporary / "tokenizer_config.json").write_text(json.dumps(_tokenizer_config(tokenizer), indent=2) + "\n")
      return _write_tensors(tensors, temporary, dtype)
  except OSError as error:
    raise CheckpointError(f"cannot write {out}: {error.strerror or error}") from error


def model_type(model: ModelConfig) -> str:
  """ "qwen2" or "qwen3". Raises CheckpointError for a Transformer that is neither."""
  if model.qk_norm != model.qkv_bias:
    return "qwen3" if model.qk_norm else "qwen2"
  raise CheckpointError(
    f"model.qk_norm is {model.qk_norm} and model.qkv_bias {model.qkv_bias}: Qwen3 has the first alone and Qwen2 the "
    "second alone, so that no folder of theirs holds this model"
  )


def _config(model: ModelConfig, kind: str, tokenizer: TextTokenizer, dtype: str) -> dict[str, Any]:
  return {
    "architectures": [f"{kind.capitalize()}ForCausalLM"],
    "model_type": kind,
    "vocab_size": model.vocab,
    "hidden_size": model.width,
    "intermediate_size": model.mlp,
    "num_hidden_layers": model.layers,
    "num_attention_heads": model.heads,
    "num_key_value_heads": model.kv_heads,
    "head_dim": model.head_dim,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_POSITIONS,
    "rms_norm_eps": model.norm_eps,
    "rope_theta": model.rope_theta,  # as transformers 4 reads it; 5 reads the next
    "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
    "tie_word_embeddings": model.tied_embedding,
    "attention_bias": False,
    "use_sliding_window": False,
    "pad_token_id": tokenizer.pad_id,
    "torch_dtype": {"f32": "float32", "bf16": "bfloat16"}[dtype],
  }


def _tokenizer_config(tokenizer: TextTokenizer) -> dict[str, Any]:
  return {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "pad_token": tokenizer.name_of(tokenizer.pad_id),
    "model_max_length": MAX_POSITIONS,
  }


def _tensors(values: Tensors, model: ModelConfig) -> Tensors:
  """Tensors by transformers' names."""
  out = {
    "model.embed_tokens.weight": values["tokens.embedding"],
    "model.norm.weight": values["transformer.final_norm.scale"],
  }
  if not model.tied_embedding:
    out["lm_head.weight"] = values["heads.text.w"].T
  for i in range(model.layers):
    own, theirs = lambda name: values[f"transformer.layers.{name}"][i], f"model.layers.{i}."  # noqa: B023  # used here
    for name in ("q_proj", "k_proj", "v_proj"):
      out[f"{theirs}self_attn.{name}.weight"] = own(f"{name}.w").reshape(model.width, -1).T  # [D, N, H] -> [N H, D]
      if model.qkv_bias:
        out[f"{theirs}self_attn.{name}.bias"] = own(f"{name}.b").reshape(-1)
    out[f"{theirs}self_attn.o_proj.weight"] = own("o_proj.w").reshape(-1, model.width).T  # [N, H, D] -> [D, N H]
    for ours, name in (NORMS | (HEAD_NORMS if model.qk_norm else {})).items():
      out[f"{theirs}{name}.weight"] = own(f"{ours}.scale")
    for name in MLP:
      out[f"{theirs}mlp.{name}.weight"] = own(f"mlp.{name}.w").T
  return out


def _write_tensors(tensors: Tensors, folder: pathlib.Path, dtype: str) -> int:
  """model.safetensors, or several files with an index."""
  import ml_dtypes
  from safetensors.numpy import save_file

  kind = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}[dtype]
  parts, size = [list[str]()], 0
  for name, tensor in tensors.items():
    if parts[-1] and size + tensor.size * kind.itemsize > MAX_FILE:
      parts.append([])
      size = 0
    parts[-1].append(name)
    size += tensor.size * kind.itemsize
  total = sum(tensor.size for tensor in tensors.values()) * kind.itemsize
  count = len(parts)
  files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [SINGLE]
  for file, names in zip(files, parts):
    save_file({n: np.ascontiguousarray(tensors[n], kind) for n in names}, folder / file, {"format": "pt"})
    shutil.copymode(folder / CONFIG_FILE, folder / file)  # the library makes files that only their owner may read
  if count > 1:
    where = {name: file for file, names in zip(files, parts) for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
  return total
