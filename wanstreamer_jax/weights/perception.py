"""Pretrained ears and eyes: fills the trunks of `perception`. A folder is what `save_pretrained` writes.

    vision   SiglipVisionModel (a fixed square picture) or Siglip2VisionModel (NaFlex), alone or inside a whole model
    speech   MoonshineStreamingEncoder, alone or inside a model that transcribes

Only safetensors are read. Every tensor of a folder is a parameter here, or part of something that this project has no
use for (text towers, pooling heads, decoders of transcripts), or an error.
"""

import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.config import Config, MoonshineConfig, Section, Siglip2Config
from wanstreamer_jax.errors import CheckpointError, ConfigError
from wanstreamer_jax.files import Path
from wanstreamer_jax.weights.tensors import open_tensors, read_json

# Where the encoder's own config lies in config.json, by model_type: at the top, or in a part of it.
SIGLIP = {"siglip_vision_model": "", "siglip2_vision_model": "", "siglip": "vision_config", "siglip2": "vision_config"}
MOONSHINE = {"moonshine_streaming_encoder": "", "moonshine_streaming": "encoder_config"}
UNSEEN = r"(.*\.)?(text_model\..+|logit_scale|logit_bias|head\..+|embeddings\.position_ids)"
UNHEARD = r"(model\.)?decoder\..+|proj_out\.weight"


class Imported(NamedTuple):
  """values: parameters by their names in a `WanStreamer`. unused: how many tensors of the folder have no use here."""

  values: dict[str, np.ndarray]
  unused: int


def seeing_config(folder: Path) -> Siglip2Config:
  """The geometry of a vision encoder. Raises CheckpointError: no config.json, another architecture."""
  values, kind = _encoder_config(folder, SIGLIP, "a SigLIP or SigLIP 2 vision encoder")
  _refuse(folder, values, {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3})
  naflex = kind.startswith("siglip2")
  places = values.get("num_patches", 256) if naflex else (values.get("image_size", 224) // values["patch_size"]) ** 2
  return Siglip2Config(
    width=values["hidden_size"],
    layers=values["num_hidden_layers"],
    heads=values["num_attention_heads"],
    mlp=values["intermediate_size"],
    patch=values["patch_size"],
    places=places,
    patches=places,
    epsilon=values.get("layer_norm_eps", 1e-6),
  )


def hearing_config(folder: Path) -> MoonshineConfig:
  """The geometry of a speech encoder. Raises CheckpointError: no config.json, another architecture."""
  values, _ = _encoder_config(folder, MOONSHINE, "a Moonshine streaming encoder")
  _refuse(folder, values, {"hidden_act": "gelu", "sample_rate": 16_000, "frame_ms": 5.0, "attention_bias": False})
  windows = values["sliding_windows"]
  return MoonshineConfig(
    width=values["hidden_size"],
    heads=values["num_attention_heads"],
    kv_heads=values["num_key_value_heads"],
    head_dim=values.get("head_dim"),
    mlp=values["intermediate_size"],
    past=tuple(past for past, _ in windows),
    future=tuple(future for _, future in windows),
  )


def _encoder_config(folder: Path, kinds: dict[str, str], what: str) -> tuple[dict[str, Any], str]:
  """(the encoder's part of config.json with transformers' defaults, model_type)."""
  values = read_json(pathlib.Path(folder) / "config.json")
  kind = str(values.get("model_type"))
  if kind not in kinds:
    raise CheckpointError(f"{folder} has model_type {kind!r}: expected {what}, one of {', '.join(kinds)}")
  part = values.get(kinds[kind], values) if kinds[kind] else values
  return (SIGLIP_BASE if kinds is SIGLIP else MOONSHINE_TINY) | {k: v for k, v in part.items() if v is not None}, kind


# What config.json leaves out has these values in transformers.
SIGLIP_BASE = {
  "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "patch_size": 16,
}  # fmt: skip
MOONSHINE_TINY = {
  "hidden_size": 320, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 1280,
  "sliding_windows": ((16, 4), (16, 4), (16, 0), (16, 0), (16, 4), (16, 4)),
}  # fmt: skip


def _refuse(folder: Path, values: dict[str, Any], expected: dict[str, Any]) -> None:
  for name, value in expected.items():
    if values.get(name, value) != value:
      raise CheckpointError(f"{folder} has {name} {values[name]!r}: this encoder has {value!r}")


def import_seeing(folder: Path, config: Config) -> Imported:
  """`see.trunk.*` of a streamer whose `perception.video` is siglip2. Raises CheckpointError or ConfigError."""
  if config.perception.video != "siglip2":
    raise ConfigError(f"train.seeing is {folder}, but perception.video is {config.perception.video}: set it to siglip2")
  found, sizes = seeing_config(folder), config.perception.siglip2
  _check_same(folder, found, sizes, "perception.siglip2", but=("patches",))
  tensors = _Taken(folder, ("vision_model.", "model.vision_model.", ""))
  values = {"places": tensors.take("embeddings.position_embedding.weight")}
  patch = tensors.take("embeddings.patch_embedding.weight")
  if patch.ndim == 4:  # a convolution [D, 3, P, P]; NaFlex has a product [D, P P 3]
    patch = patch.transpose(0, 2, 3, 1).reshape(len(patch), -1)
  values |= {"patch.w": patch.T, "patch.b": tensors.take("embeddings.patch_embedding.bias")}
  values |= tensors.norm("final_norm", "post_layernorm")
  layers = [_vision_layer(tensors, f"encoder.layers.{i}.", sizes) for i in range(sizes.layers)]
  values |= {f"layers.{name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}
  return Imported({f"see.trunk.{name}": value for name, value in values.items()}, tensors.finish(UNSEEN))


def _vision_layer(tensors: "_Taken", prefix: str, sizes: Siglip2Config) -> dict[str, np.ndarray]:
  out = tensors.norm("attn_norm", prefix + "layer_norm1") | tensors.norm("mlp_norm", prefix + "layer_norm2")
  for name in ("q_proj", "k_proj", "v_proj"):
    out |= tensors.heads(name, f"{prefix}self_attn.{name}", sizes.heads)
  out["o_proj.w"] = tensors.take(f"{prefix}self_attn.out_proj.weight").T.reshape(sizes.heads, -1, sizes.width)
  out["o_proj.b"] = tensors.take(f"{prefix}self_attn.out_proj.bias")
  return out | tensors.mlp(prefix)


def import_hearing(folder: Path, config: Config) -> Imported:
  """`hear.trunk.*` of a streamer whose `perception.audio` is moonshine. Raises CheckpointError or ConfigError."""
  if config.perception.audio != "moonshine":
    raise ConfigError(
      f"train.hearing is {folder}, but perception.audio is {config.perception.audio}: set it to moonshine"
    )
  found, sizes = hearing_config(folder), config.perception.moonshine
  _check_same(folder, found, sizes, "perception.moonshine", but=("look_ahead",))
  tensors = _Taken(folder, ("model.encoder.", "encoder.", ""))
  values = {
    "log_gain": tensors.take("embedder.comp.log_k").reshape(1),
    "frame.w": tensors.take("embedder.linear.weight").T,
    "final_norm.scale": 1 + tensors.take("final_norm.gamma"),
  }
  for ours, theirs in (("conv_in", "conv1"), ("conv_out", "conv2")):
    values[f"{ours}.w"] = tensors.take(f"embedder.{theirs}.weight").transpose(2, 1, 0)  # [O, I, 5] -> [5, I, O]
    values[f"{ours}.b"] = tensors.take(f"embedder.{theirs}.bias")
  for i in range(len(sizes.past)):
    layer = _speech_layer(tensors, f"layers.{i}.", sizes)
    values |= {f"layers.{i}.{name}": value for name, value in layer.items()}
  return Imported({f"hear.trunk.{name}": value for name, value in values.items()}, tensors.finish(UNHEARD))


def _speech_layer(tensors: "_Taken", prefix: str, sizes: MoonshineConfig) -> dict[str, np.ndarray]:
  out = {
    "attn_norm.scale": 1 + tensors.take(f"{prefix}input_layernorm.gamma"),
    "mlp_norm.scale": 1 + tensors.take(f"{prefix}post_attention_layernorm.gamma"),
  }
  for name, heads in (("q_proj", sizes.heads), ("k_proj", sizes.kv_heads), ("v_proj", sizes.kv_heads)):
    out |= tensors.heads(name, f"{prefix}self_attn.{name}", heads, bias=False)
  out["o_proj.w"] = tensors.take(f"{prefix}self_attn.o_proj.weight").T.reshape(sizes.heads, -1, sizes.width)
  return out | tensors.mlp(prefix)


def _check_same(folder: Path, found: Section, wanted: Section, section: str, but: tuple[str, ...]) -> None:
  for name, value in found.fields().items():
    if name not in but and value != getattr(wanted, name):
      raise CheckpointError(f"{folder} has {name} {value!r}, but {section}.{name} is {getattr(wanted, name)!r}")


class _Taken:
  """The tensors of a folder, each of which is taken once. prefixes: where the encoder may lie in a larger model."""

  def __init__(self, folder: Path, prefixes: tuple[str, ...]):
    self.folder, self.tensors = folder, open_tensors(folder)
    self.rest = set(self.tensors)
    starts = [prefix for prefix in prefixes if any(name.startswith(prefix) for name in self.rest)]
    self.prefix = starts[0]

  def take(self, name: str) -> np.ndarray:
    """A tensor in float32. Raises CheckpointError when it is missing."""
    full = self.prefix + name
    if full not in self.rest:
      raise CheckpointError(f"{self.folder} has no tensor {full!r}: a shard is missing, or it is another architecture")
    self.rest.remove(full)
    return self.tensors[full].astype(np.float32)

  def norm(self, ours: str, theirs: str) -> dict[str, np.ndarray]:
    return {f"{ours}.scale": self.take(f"{theirs}.weight"), f"{ours}.b": self.take(f"{theirs}.bias")}

  def heads(self, ours: str, theirs: str, heads: int, bias: bool = True) -> dict[str, np.ndarray]:
    """A projection into heads: [N H, D] -> [D, N, H]."""
    weight = self.take(f"{theirs}.weight").T
    out = {f"{ours}.w": weight.reshape(len(weight), heads, -1)}
    return out | ({f"{ours}.b": self.take(f"{theirs}.bias").reshape(heads, -1)} if bias else {})

  def mlp(self, prefix: str) -> dict[str, np.ndarray]:
    out = {}
    for ours, theirs in (("up_proj", "fc1"), ("down_proj", "fc2")):
      out[f"mlp.{ours}.w"] = self.take(f"{prefix}mlp.{theirs}.weight").T
      out[f"mlp.{ours}.b"] = self.take(f"{prefix}mlp.{theirs}.bias")
    return out

  def finish(self, unused: str) -> int:
    """How many tensors are left that match `unused`. Raises CheckpointError for any other that is left."""
    unknown = sorted(name for name in self.rest if not re.fullmatch(unused, name))
    if unknown:
      raise CheckpointError(f"{self.folder} has an unknown tensor {unknown[0]!r}, and {len(unknown) - 1} more")
    return len(self.rest)
