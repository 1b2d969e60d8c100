"""Loads a Qwen2, Qwen2.5 or Qwen3 language model as the text path of a WanStreamer.

A folder is what `save_pretrained` writes and the hub serves: config.json and model.safetensors, or several files with
model.safetensors.index.json. Torch's Linear stores [out, in], ours [in, out]; heads are an axis of their own here.
The rest of the streamer (perception, latents, flow time) keeps its own weights, which at initialisation do not affect
text.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from wanstreamer_jax.config import ModelConfig
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import Path
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.weights.store import first_difference

Tensors = dict[str, np.ndarray]

NORMS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
HEAD_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
MLP = ("gate_proj", "up_proj", "down_proj")


def language_model_config(folder: Path) -> ModelConfig:
  """The geometry in config.json, as files of transformers 4 (flat rope keys) and 5 (`rope_parameters`) write it.

  Raises CheckpointError: no such file, another architecture, or features that this Transformer does not have.
  """
  file = pathlib.Path(folder) / "config.json"
  try:
    values = json.loads(file.read_text())
    return _model_config(values, file)
  except OSError as error:
    raise CheckpointError(f"no language model in {folder}: {file.name} is missing ({error.strerror})") from error
  except (ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f"{file} is not a language model's config: {type(error).__name__} {error}") from error


def _model_config(values: dict[str, Any], file: pathlib.Path) -> ModelConfig:
  kind = values.get("model_type")
  if kind not in ("qwen2", "qwen3"):
    raise CheckpointError(f"{file} has model_type {kind!r}: expected qwen2 (also of Qwen2.5) or qwen3")
  rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
  rope_type = rope.get("rope_type", rope.get("type", "default"))
  refused = {
    "rope_type": rope_type != "default" and rope_type,
    "hidden_act": values.get("hidden_act", "silu") != "silu" and values["hidden_act"],
    "use_sliding_window": values.get("use_sliding_window"),
    "attention_bias": kind == "qwen3" and values.get("attention_bias"),
  }
  for name, value in refused.items():
    if value:
      raise CheckpointError(f"{file} has {name} {value!r}, which this Transformer does not support")
  heads = values["num_attention_heads"]
  return ModelConfig(
    width=values["hidden_size"],
    layers=values["num_hidden_layers"],
    heads=heads,
    kv_heads=values["num_key_value_heads"],
    head_dim=values.get("head_dim") or values["hidden_size"] // heads,
    mlp=values["intermediate_size"],
    vocab=values["vocab_size"],
    qk_norm=kind == "qwen3",
    qkv_bias=kind == "qwen2",
    tied_embedding=values.get("tie_word_embeddings", False),
    rope_theta=float(rope["rope_theta"] if "rope_theta" in rope else values["rope_theta"]),
    norm_eps=values["rms_norm_eps"],
  )


def load_language_model(folder: Path, streamer: WanStreamer) -> WanStreamer:
  """`streamer` with the language model's weights (float32) in its Transformer, embedding, final norm and text head.

  Latent experts, where the config has them, start as copies of the text's MLPs.
  Raises CheckpointError when the folder is unreadable or its geometry is not the streamer's.
  """
  found, model = language_model_config(folder), streamer.config.model
  for name in ("width", "layers", "heads", "kv_heads", "head_dim", "mlp", "vocab", "qk_norm", "qkv_bias",
               "tied_embedding", "rope_theta", "norm_eps"):  # fmt: skip
    if getattr(found, name) != getattr(model, name):
      raise CheckpointError(
        f"{folder} has {name} {getattr(found, name)}, but config.model.{name} is {getattr(model, name)}"
      )
  values = _converted(_read(pathlib.Path(folder)), model, str(folder))
  leaves = named_leaves(streamer)
  shapes = {name: leaf.shape for name, leaf in leaves.items() if name in values}
  problem = first_difference({name: value.shape for name, value in values.items()}, shapes)
  if problem:
    raise CheckpointError(f"{folder} does not fit this model: {problem}")
  return fill_leaves(streamer, leaves | values)


def _read(folder: pathlib.Path) -> Tensors:
  """All tensors of the folder, as float32."""
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  index = folder / "model.safetensors.index.json"
  try:
    files = (
      sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    )
    tensors = {name: value for file in files for name, value in load_file(folder / file).items()}
  except (OSError, ValueError, KeyError, SafetensorError) as error:
    raise CheckpointError(f"cannot read the weights in {folder}: {error}; a file is missing or incomplete") from error
  return {name: value.astype(np.float32) for name, value in tensors.items() if not name.endswith("inv_freq")}


def _converted(tensors: Tensors, model: ModelConfig, source: str) -> Tensors:
  """Tensors by our parameters' names. Raises CheckpointError for a tensor that is missing or unknown."""
  rest = dict(tensors)
  if model.tied_embedding:
    rest.pop("lm_head.weight", None)  # some files repeat the embedding here

  def take(name: str) -> np.ndarray:
    if name not in rest:
      raise CheckpointError(f"{source} has no tensor {name!r}")
    return rest.pop(name)

  out = {
    "tokens.embedding": take("model.embed_tokens.weight"),
    "transformer.final_norm.scale": take("model.norm.weight"),
  }
  if not model.tied_embedding:
    out["heads.text.w"] = take("lm_head.weight").T
  layers = [_layer(take, f"model.layers.{i}.", model) for i in range(model.layers)]
  out |= {f"transformer.layers.{name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}
  if rest:
    raise CheckpointError(f"{source} has an unknown tensor {sorted(rest)[0]!r}")
  return out


def _layer(take: Callable[[str], np.ndarray], prefix: str, model: ModelConfig) -> Tensors:
  """The parameters of one decoder layer, whose tensors have names that begin with `prefix`."""
  heads = {"q_proj": model.heads, "k_proj": model.kv_heads, "v_proj": model.kv_heads}
  out: Tensors = {}
  for name, count in heads.items():
    weight = take(f"{prefix}self_attn.{name}.weight").T
    out[f"{name}.w"] = weight.reshape(-1, count, model.head_dim)
    if model.qkv_bias:
      out[f"{name}.b"] = take(f"{prefix}self_attn.{name}.bias").reshape(count, model.head_dim)
  out["o_proj.w"] = take(f"{prefix}self_attn.o_proj.weight").T.reshape(model.heads, model.head_dim, -1)
  for ours, theirs in (NORMS | (HEAD_NORMS if model.qk_norm else {})).items():
    out[f"{ours}.scale"] = take(f"{prefix}{theirs}.weight")
  for name in MLP:
    out[f"mlp.{name}.w"] = take(f"{prefix}mlp.{name}.weight").T
    if model.experts == "latent":
      out[f"latent_mlp.{name}.w"] = out[f"mlp.{name}.w"]
  return out
