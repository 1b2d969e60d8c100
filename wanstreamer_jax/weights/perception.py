"""Pretrained ears and eyes: fills the trunks of `perception`. A folder is what `save_pretrained` writes.

    train.seeing    SiglipVisionModel (a fixed square picture) or Siglip2VisionModel (NaFlex), alone or in a whole model
    train.hearing   MoonshineStreamingEncoder, alone or in a model that transcribes; or the Pocket TTS tokenizer

Every tensor of a folder becomes a parameter, or is part of something that this project has no use for (text towers,
pooling heads, decoders) and is counted, or is an error.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from wanstreamer_jax.config import Config, MoonshineConfig, PocketConfig, Section, Siglip2Config
from wanstreamer_jax.errors import CheckpointError, ConfigError
from wanstreamer_jax.files import Path
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.perception.make import make_hearing, make_seeing
from wanstreamer_jax.weights import pocket
from wanstreamer_jax.weights.tensor_folder import open_tensors
from wanstreamer_jax.weights.tensors import Tensors, read_json

# Where the encoder's own config lies in config.json, by model_type: at the top, or in a part of it.
SIGLIP = {"siglip_vision_model": "", "siglip2_vision_model": "", "siglip": "vision_config", "siglip2": "vision_config"}
MOONSHINE = {"moonshine_streaming_encoder": "", "moonshine_streaming": "encoder_config"}
# What config.json leaves out has these values in transformers.
SIGLIP_BASE = {
  "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "patch_size": 16,
}  # fmt: skip
MOONSHINE_TINY = {
  "hidden_size": 320, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 1280,
  "sliding_windows": ((16, 4), (16, 4), (16, 0), (16, 0), (16, 4), (16, 4)),
}  # fmt: skip
UNSEEN = r"(.*\.)?(text_model\..+|logit_scale|logit_bias|head\..+|embeddings\.position_ids)"
UNHEARD = r"(model\.)?decoder\..+|proj_out\.weight"


class Encoder(NamedTuple):
  """values: parameters by their names in a `WanStreamer`. note: one line about what was read and left aside."""

  values: dict[str, np.ndarray]
  note: str


def with_encoders(config: Config, hearing: Path = "", seeing: Path = "") -> Config:
  """`config`, frozen, that hears and sees through the encoders of folders and starts training from them.

  Raises CheckpointError for a folder of another kind, ConfigError where it does not fit the unit.
  """
  perception, train, voice = config.perception.replace(), config.train.replace(), config.audio_codec.replace()
  if hearing:
    train.hearing = str(hearing)
    kind = read_json(pathlib.Path(hearing) / "config.json", "an encoder").get("model_type")
    if kind not in (pocket.MODEL_TYPE, *MOONSHINE):
      raise CheckpointError(
        f"{hearing} has model_type {kind!r}: expected {pocket.MODEL_TYPE}, or {', '.join(MOONSHINE)}"
      )
    if kind == pocket.MODEL_TYPE:
      perception.audio, voice.pocket = "pocket", pocket.pocket_config(hearing)
      perception.audio_tokens = min(perception.audio_tokens, config.media.samples // voice.pocket.hop)
    else:
      perception.audio, perception.moonshine = "moonshine", hearing_config(hearing)
  if seeing:
    train.seeing, perception.video, perception.siglip2 = str(seeing), "siglip2", seeing_config(seeing)
  return config.replace(perception=perception, train=train, audio_codec=voice).freeze()


def seeing_config(folder: Path) -> Siglip2Config:
  """The geometry of a vision encoder. Raises CheckpointError: no config.json, another architecture."""
  values, kind = _encoder_config(folder, SIGLIP, "a SigLIP or SigLIP 2 vision encoder", SIGLIP_BASE)
  _refuse(folder, values, {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3})
  patch, side = values["patch_size"], values.get("image_size", 224)
  if not all(type(size) is int and size > 0 for size in (patch, side)):
    raise CheckpointError(f"{folder} has patch_size {patch!r} and image_size {side!r}: expected pixels")
  places = values.get("num_patches", 256) if kind.startswith("siglip2") else (side // patch) ** 2
  return Siglip2Config(
    width=values["hidden_size"],
    layers=values["num_hidden_layers"],
    heads=values["num_attention_heads"],
    mlp=values["intermediate_size"],
    patch=patch,
    places=places,
    patches=places,
    epsilon=values.get("layer_norm_eps", 1e-6),
  )


def hearing_config(folder: Path) -> MoonshineConfig:
  """The geometry of a Moonshine encoder. Raises CheckpointError: no config.json, another architecture."""
  values, _ = _encoder_config(folder, MOONSHINE, "a Moonshine streaming encoder", MOONSHINE_TINY)
  _refuse(folder, values, {"hidden_act": "gelu", "sample_rate": 16_000, "frame_ms": 5.0, "attention_bias": False})
  windows = values["sliding_windows"]
  try:
    past, future = zip(*((int(past), int(future)) for past, future in windows))
  except (TypeError, ValueError) as error:
    raise CheckpointError(
      f"{folder} has sliding_windows {windows!r}: expected [past, future] of every layer"
    ) from error
  return MoonshineConfig(
    width=values["hidden_size"],
    heads=values["num_attention_heads"],
    kv_heads=values["num_key_value_heads"],
    head_dim=values.get("head_dim"),
    mlp=values["intermediate_size"],
    past=past,
    future=future,
  )


def _encoder_config(
  folder: Path, kinds: dict[str, str], what: str, defaults: dict[str, Any]
) -> tuple[dict[str, Any], str]:
  """(the encoder's part of config.json, model_type)."""
  values = read_json(pathlib.Path(folder) / "config.json", what)
  kind = str(values.get("model_type"))
  if kind not in kinds:
    raise CheckpointError(f"{folder} has model_type {kind!r}: expected {what}, one of {', '.join(kinds)}")
  part = values.get(kinds[kind]) or {} if kinds[kind] else values
  if not isinstance(part, dict):
    raise CheckpointError(f"{folder}/config.json has {kinds[kind]} {part!r}: expected an object")
  return defaults | {name: value for name, value in part.items() if value is not None}, kind


def _refuse(folder: Path, values: dict[str, Any], expected: dict[str, Any]) -> None:
  for name, value in expected.items():
    if values.get(name, value) != value:
      raise CheckpointError(f"{folder} has {name} {values[name]!r}: this encoder has {value!r}")


def import_seeing(folder: Path, config: Config) -> Encoder:
  """`see.trunk.*` of a streamer. Raises CheckpointError, or ConfigError where `perception.video` has no trunk."""
  if config.perception.video != "siglip2":
    raise ConfigError(f"train.seeing is {folder}, but perception.video is {config.perception.video}: set it to siglip2")
  sizes = config.perception.siglip2
  _check_same(folder, seeing_config(folder), sizes, "perception.siglip2", but=("patches",))
  tensors = Tensors(open_tensors(folder), folder)
  skipped = tensors.skip(UNSEEN)
  _take_vision(_Taking(tensors, ("vision_model.", "")), sizes)
  return _finished(tensors, "see", make_seeing, config, skipped)


def import_hearing(folder: Path, config: Config) -> Encoder:
  """`hear.trunk.*` of a streamer. Raises CheckpointError, or ConfigError where `perception.audio` has no trunk."""
  chosen = config.perception.audio
  if chosen == "native":
    raise ConfigError(f"train.hearing is {folder}, but perception.audio is native: set it to pocket or moonshine")
  if chosen == "pocket":
    return _pocket_hearing(folder, config)
  sizes = config.perception.moonshine
  _check_same(folder, hearing_config(folder), sizes, "perception.moonshine", but=("look_ahead",))
  tensors = Tensors(open_tensors(folder), folder)
  skipped = tensors.skip(UNHEARD)
  _take_speech(_Taking(tensors, ("model.encoder.", "encoder.", "")), sizes)
  return _finished(tensors, "hear", make_hearing, config, skipped)


def _pocket_hearing(folder: Path, config: Config) -> Encoder:
  sizes: PocketConfig = config.audio_codec.pocket
  _check_same(folder, pocket.pocket_config(folder), sizes, "audio_codec.pocket")
  tensors = Tensors(open_tensors(folder), folder)
  pocket.take_pocket(tensors, sizes)
  names = list(tensors.values)
  heard = {n.removeprefix("encoder."): tensors.values[n] for n in names if n.startswith("encoder.")}
  tensors.values = heard
  return _finished(tensors, "hear", make_hearing, config, len(names) - len(heard))


def _finished(tensors: Tensors, part: str, make: Callable[..., Any], config: Config, skipped: int) -> Encoder:
  abstract = jax.eval_shape(lambda: make(config, rngs=nnx.Rngs(0))).trunk
  values = tensors.finish({name: leaf.shape for name, leaf in named_leaves(abstract).items()})
  size = sum(value.size for value in values.values())
  note = f"{tensors.source}: {len(values)} arrays, {size / 1e6:.2f} M numbers; {skipped} tensors have no use here"
  return Encoder({f"{part}.trunk.{name}": value for name, value in values.items()}, note)


def _check_same(folder: Path, found: Section, wanted: Section, section: str, but: tuple[str, ...] = ()) -> None:
  for name, value in found.fields().items():
    if name not in but and value != getattr(wanted, name):
      raise CheckpointError(f"{folder} has {name} {value!r}, but {section}.{name} is {getattr(wanted, name)!r}")


class _Taking:
  """Takes the tensors of an encoder that may lie somewhere in a larger model, below one of `prefixes`."""

  def __init__(self, tensors: Tensors, prefixes: tuple[str, ...]):
    self.tensors = tensors
    found = (prefix for prefix in prefixes if any(name.startswith(prefix) for name in tensors.left))
    self.prefix = next(found, prefixes[-1])

  def plain(self, theirs: str, ours: str) -> None:
    self.tensors.take(self.prefix + theirs, ours)

  def matrix(self, theirs: str, ours: str, bias: bool = True) -> None:
    """A product [O, I] -> [I, O], and its bias."""
    self.tensors.take(f"{self.prefix}{theirs}.weight", f"{ours}.w", np.transpose)
    if bias:
      self.plain(f"{theirs}.bias", f"{ours}.b")

  def into_heads(self, theirs: str, ours: str, heads: int, bias: bool = True) -> None:
    """A product [N H, D] -> [D, N, H], and its bias."""
    self.tensors.take(f"{self.prefix}{theirs}.weight", f"{ours}.w", lambda w: w.T.reshape(w.shape[1], heads, -1))
    if bias:
      self.tensors.take(f"{self.prefix}{theirs}.bias", f"{ours}.b", lambda b: b.reshape(heads, -1))

  def out_of_heads(self, theirs: str, ours: str, heads: int, bias: bool = True) -> None:
    """A product [D, N H] -> [N, H, D], and its bias."""
    self.tensors.take(f"{self.prefix}{theirs}.weight", f"{ours}.w", lambda w: w.T.reshape(heads, -1, w.shape[0]))
    if bias:
      self.plain(f"{theirs}.bias", f"{ours}.b")

  def norm(self, theirs: str, ours: str) -> None:
    self.plain(f"{theirs}.weight", f"{ours}.scale")
    self.plain(f"{theirs}.bias", f"{ours}.b")

  def mlp(self, layer: str) -> None:
    self.matrix(f"{layer}mlp.fc1", f"{layer}mlp.up_proj")
    self.matrix(f"{layer}mlp.fc2", f"{layer}mlp.down_proj")


def _take_vision(taking: _Taking, sizes: Siglip2Config) -> None:
  def patches(w: np.ndarray) -> np.ndarray:
    """A convolution [D, 3, P, P] or, in NaFlex, a product [D, P P 3] -> [P P 3, D]."""
    return (w.transpose(0, 2, 3, 1).reshape(len(w), -1) if w.ndim == 4 else w).T

  prefix, tensors = taking.prefix, taking.tensors
  tensors.take(f"{prefix}embeddings.patch_embedding.weight", "patch.w", patches)
  taking.plain("embeddings.patch_embedding.bias", "patch.b")
  taking.plain("embeddings.position_embedding.weight", "places")
  taking.norm("post_layernorm", "final_norm")
  taking.prefix += "encoder."
  for i in range(sizes.layers):
    layer = f"layers.{i}."
    taking.norm(f"{layer}layer_norm1", f"{layer}attn_norm")
    taking.norm(f"{layer}layer_norm2", f"{layer}mlp_norm")
    for name in ("q_proj", "k_proj", "v_proj"):
      taking.into_heads(f"{layer}self_attn.{name}", layer + name, sizes.heads)
    taking.out_of_heads(f"{layer}self_attn.out_proj", f"{layer}o_proj", sizes.heads)
    taking.mlp(layer)
  for name in [name for name in tensors.values if name.startswith("layers.0.")]:
    rest = name.removeprefix("layers.0.")
    stacked = [tensors.values.pop(f"layers.{i}.{rest}") for i in range(sizes.layers)]
    if len({layer.shape for layer in stacked}) != 1:
      raise CheckpointError(f"{tensors.source}: {rest} has other shapes in some of the layers")
    tensors.put(f"layers.{rest}", np.stack(stacked))


def _take_speech(taking: _Taking, sizes: MoonshineConfig) -> None:
  prefix, take = taking.prefix, taking.tensors.take
  take(f"{prefix}embedder.comp.log_k", "log_gain", lambda k: k.reshape(1))
  taking.matrix("embedder.linear", "frame", bias=False)
  take(f"{prefix}final_norm.gamma", "final_norm.scale", lambda gamma: 1 + gamma)
  for theirs, ours in (("conv1", "conv_in"), ("conv2", "conv_out")):
    take(f"{prefix}embedder.{theirs}.weight", f"{ours}.w", lambda w: w.transpose(2, 1, 0))  # [O, I, 5] -> [5, I, O]
    taking.plain(f"embedder.{theirs}.bias", f"{ours}.b")
  for i in range(len(sizes.past)):
    layer = f"layers.{i}."
    for theirs, ours in (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "mlp_norm")):
      take(f"{prefix}{layer}{theirs}.gamma", f"{layer}{ours}.scale", lambda gamma: 1 + gamma)
    for name, heads in (("q_proj", sizes.heads), ("k_proj", sizes.kv_heads), ("v_proj", sizes.kv_heads)):
      taking.into_heads(f"{layer}self_attn.{name}", layer + name, heads, bias=False)
    taking.out_of_heads(f"{layer}self_attn.o_proj", f"{layer}o_proj", sizes.heads, bias=False)
    taking.mlp(layer)
