"""A Qwen2, Qwen2.5 or Qwen3 language model as the text path of a WanStreamer.

A folder is what `save_pretrained` writes and the hub serves: config.json, tokenizer.json, and model.safetensors or
several files with model.safetensors.index.json. Torch's Linear stores [out, in], ours [in, out]; heads are an axis of
their own here. The rest of the streamer (perception, latents, flow time) keeps its own weights, which at initialisation
do not affect text. `LanguageModel` reads any part of any leaf, so that a leaf can be created on its own devices;
weights/qwen_export.py is the way back.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from wanstreamer_jax.config import Config, ModelConfig
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import Path
from wanstreamer_jax.weights.tensor_folder import INDEX, StoredTensor, open_tensors

CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer.json"
GEOMETRY = ("width", "layers", "heads", "kv_heads", "head_dim", "mlp", "qk_norm", "qkv_bias", "tied_embedding",
            "rope_theta", "norm_eps")  # fmt: skip
ROWS = 128  # the vocabulary is padded to a multiple, which divides over devices and fills the tiles of a TPU
NEW_ROW_NOISE = 0.1  # of the deviation of the other rows' numbers, so that new tokens differ
CHUNK = 4096  # rows of the embedding that are in memory at once when their mean is taken
COUNTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
          "vocab_size")  # fmt: skip
NORMS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
HEAD_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
MLP = ("gate_proj", "up_proj", "down_proj")
Index = tuple[slice, ...]
View = Callable[[np.ndarray], np.ndarray]


def language_model_config(folder: Path) -> ModelConfig:
  """The geometry in config.json, as files of transformers 4 (flat rope keys) and 5 (`rope_parameters`) write it.

  `vocab` is that of the file. Raises CheckpointError: no such file, another architecture, or features that this
  Transformer does not have.
  """
  file = pathlib.Path(folder) / CONFIG_FILE
  try:
    values = json.loads(file.read_text())
    return _model_config(values, file)
  except OSError as error:
    raise CheckpointError(
      f"no language model in {folder}: {file.name} is missing ({error.strerror}); give the folder of a Qwen2, Qwen2.5 "
      "or Qwen3 model"
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise CheckpointError(f"{file} is not a language model's config: {type(error).__name__} {error}") from error


def _model_config(values: dict[str, Any], file: pathlib.Path) -> ModelConfig:
  kind = values.get("model_type")
  if kind not in ("qwen2", "qwen3"):
    raise CheckpointError(
      f"{file} has model_type {kind!r}: expected qwen2 (also of Qwen2.5) or qwen3; give the folder of such a model"
    )
  rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
  rope_type = rope.get("rope_type", rope.get("type", "default"))
  refused = {
    "rope_type": rope_type != "default" and rope_type,
    "hidden_act": values.get("hidden_act", "silu") != "silu" and values["hidden_act"],
    "use_sliding_window": values.get("use_sliding_window"),
    "attention_bias": kind == "qwen3" and values.get("attention_bias"),
    "quantization_config": values.get("quantization_config"),
  }
  for name, value in refused.items():
    if value:
      raise CheckpointError(f"{file} has {name} {value!r}, which this Transformer does not support")
  for name in COUNTS:
    if type(values[name]) is not int or values[name] < 1:
      raise CheckpointError(f"{file} has {name} {values[name]!r:.40}: expected a whole number above 0; copy it again")
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


def folder_tokenizer(folder: Path) -> TextTokenizer:
  """The folder's tokenizer with our control tokens. Raises CheckpointError without one, DataError for a damaged one."""
  file = pathlib.Path(folder) / TOKENIZER_FILE
  if not file.is_file():
    raise CheckpointError(
      f"{folder} has no {TOKENIZER_FILE}: download it, or write it with transformers' "
      "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )
  return TextTokenizer(file)


def fingerprint(folder: Path) -> dict[str, Any]:
  """What tells two folders apart, for provenance: hashes of the small files and of each file's ends, and sizes.

  Returns {} when there is no such folder: a run that goes on from its own checkpoint does not need it.
  """
  folder, digest = pathlib.Path(folder), hashlib.sha256()
  weights = sorted(folder.glob("*.safetensors"))
  for file in [*(folder / name for name in (CONFIG_FILE, TOKENIZER_FILE, INDEX)), *weights]:
    if file.is_file():
      with file.open("rb") as stream:
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        digest.update(stream.read(1 << 24 if file.suffix == ".json" else 1 << 20))
        stream.seek(max(0, file.stat().st_size - (1 << 20)))
        digest.update(stream.read())
  if not weights:
    return {}
  return {"sha256_of_ends": digest.hexdigest(), "bytes": sum(file.stat().st_size for file in weights)}


@dataclasses.dataclass(frozen=True)
class _Source:
  """Where a leaf comes from. tensors: one per layer for stacked leaves, else one. view: tensor -> the (layer's) leaf.

  rows: the axis of the leaf that is the vocabulary's, if it has one."""

  tensors: tuple[StoredTensor, ...]
  view: View
  stacked: bool
  rows: int | None = None


class LanguageModel:
  """A folder whose geometry is that of `config.model`; a leaf is read when it is asked for, and only the part needed.

  Latent experts, where the config has them, start as copies of the text's MLPs. The rows of tokens that the tokenizer
  was given (PAD, `<cut>`) and those that pad the vocabulary start as the mean of the others with a little noise, seeded
  by `train.seed`. Raises CheckpointError (or DataError, of the tokenizer) for a folder that does not fit, naming the
  first difference and what to do.
  """

  def __init__(self, folder: Path, config: Config, tokenizer: TextTokenizer | None = None):
    """tokenizer: by default the one of `config.data`, which must be the folder's."""
    self.folder, self.model, self.seed = pathlib.Path(folder), config.model, config.train.seed
    self.stored_rows = self._check_geometry()
    self.tokenizer = tokenizer or self._own_tokenizer(config)
    self._sources = self._find(open_tensors(folder))

  @property
  def names(self) -> tuple[str, ...]:
    """The streamer's leaves that this model fills."""
    return tuple(self._sources)

  def stored(self) -> list[StoredTensor]:
    """All tensors that are read, each once."""
    return list(dict.fromkeys(tensor for source in self._sources.values() for tensor in source.tensors))

  def shape(self, name: str) -> tuple[int, ...]:
    source = self._sources[name]
    own = source.view(np.broadcast_to(np.float32(0), source.tensors[0].shape)).shape
    if source.rows is not None:
      own = tuple(self.model.vocab if axis == source.rows else size for axis, size in enumerate(own))
    return (len(source.tensors), *own) if source.stacked else own

  def read(self, name: str, index: Index) -> np.ndarray:
    """Part of a leaf as float32: `leaf[index]`, with a slice for each of its axes."""
    source, shape = self._sources[name], self.shape(name)
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape)]
    if source.rows is not None:
      return self._with_new_rows(source, bounds)
    if not source.stacked:
      return source.tensors[0].read(lambda x: source.view(x)[_slices(bounds)])
    out = np.empty([stop - start for start, stop in bounds], np.float32)
    for row, layer in enumerate(range(*bounds[0])):
      out[row] = source.tensors[layer].read(lambda x: source.view(x)[_slices(bounds[1:])])
    return out

  def place(self, name: str, sharding: Sharding) -> jax.Array:
    """A leaf, created on the devices of its sharding. A host reads only the parts that its own devices hold, one part
    after the other."""
    shape, by_part = self.shape(name), dict[Any, list[jax.Device]]()
    for device, index in sharding.addressable_devices_indices_map(shape).items():
      assert index is not None
      by_part.setdefault(tuple(part.indices(size) for part, size in zip(index, shape)), []).append(device)
    pieces = []
    for bounds, devices in by_part.items():
      part = self.read(name, tuple(slice(*b) for b in bounds))
      pieces += [jax.block_until_ready(jax.device_put(part, device)) for device in devices]
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

  def _check_geometry(self) -> int:
    """Rows of the stored embedding. Raises CheckpointError unless the config has the folder's geometry."""
    found, model = language_model_config(self.folder), self.model
    remedy = f"write a config for it: wanstreamer config from-hf {self.folder} --base CONFIG --out FILE"
    for name in GEOMETRY:
      theirs, ours = getattr(found, name), getattr(model, name)
      if theirs != ours:
        raise CheckpointError(f"{self.folder} has {name} {theirs}, but config.model.{name} is {ours}: {remedy}")
    if found.vocab > model.vocab:
      raise CheckpointError(
        f"{self.folder} has vocab {found.vocab}, but config.model.vocab is {model.vocab}: expected at least as many; "
        f"{remedy}"
      )
    return found.vocab

  def _own_tokenizer(self, config: Config) -> TextTokenizer:
    tokenizer, own = tokenizer_of(config), folder_tokenizer(self.folder)
    if tokenizer.sha256 != own.sha256:
      raise CheckpointError(
        f"data.tokenizer {config.data.tokenizer!r} is not the tokenizer of {self.folder}: set it to {own.path}"
      )
    return tokenizer

  def _find(self, stored: dict[str, StoredTensor]) -> dict[str, _Source]:
    """The source of every leaf. Raises CheckpointError for a tensor that is missing, unknown or of another shape."""
    model, rest = self.model, {name: tensor for name, tensor in stored.items() if not name.endswith("inv_freq")}
    if model.tied_embedding:
      rest.pop("lm_head.weight", None)  # some files repeat the embedding here
    width, heads, mlp = model.width, model.heads * model.head_dim, model.mlp

    def take(name: str, *shape: int) -> StoredTensor:
      if name not in rest:
        raise CheckpointError(f"{self.folder} has no tensor {name!r}: copy the folder again")
      tensor = rest.pop(name)
      if tensor.shape != shape:
        raise CheckpointError(
          f"{tensor.file} has {name} with shape {list(tensor.shape)}: expected {list(shape)} by {CONFIG_FILE}; the "
          "folder mixes two models: copy it again"
        )
      return tensor

    def layers(name: str, view: View, *shape: int) -> _Source:
      return _Source(tuple(take(f"model.layers.{i}.{name}", *shape) for i in range(model.layers)), view, True)

    rows = self.stored_rows
    out = {"tokens.embedding": _Source((take("model.embed_tokens.weight", rows, width),), _same, False, rows=0)}
    out["transformer.final_norm.scale"] = _Source((take("model.norm.weight", width),), _same, False)
    if not model.tied_embedding:
      out["heads.text.w"] = _Source((take("lm_head.weight", rows, width),), np.transpose, False, rows=1)
    into = functools.partial(_into_heads, head_dim=model.head_dim)
    for name, count in {"q_proj": model.heads, "k_proj": model.kv_heads, "v_proj": model.kv_heads}.items():
      size = count * model.head_dim
      out[f"transformer.layers.{name}.w"] = layers(f"self_attn.{name}.weight", into, size, width)
      if model.qkv_bias:
        view = functools.partial(_split_heads, head_dim=model.head_dim)
        out[f"transformer.layers.{name}.b"] = layers(f"self_attn.{name}.bias", view, size)
    view = functools.partial(_out_of_heads, head_dim=model.head_dim)
    out["transformer.layers.o_proj.w"] = layers("self_attn.o_proj.weight", view, width, heads)
    for ours, theirs in NORMS.items():
      out[f"transformer.layers.{ours}.scale"] = layers(f"{theirs}.weight", _same, width)
    for ours, theirs in HEAD_NORMS.items() if model.qk_norm else ():
      out[f"transformer.layers.{ours}.scale"] = layers(f"{theirs}.weight", _same, model.head_dim)
    for name in MLP:
      shape = (width, mlp) if name == "down_proj" else (mlp, width)
      out[f"transformer.layers.mlp.{name}.w"] = layers(f"mlp.{name}.weight", np.transpose, *shape)
      if model.experts == "latent":
        out[f"transformer.layers.latent_mlp.{name}.w"] = out[f"transformer.layers.mlp.{name}.w"]
    if rest:
      raise CheckpointError(f"{self.folder} has an unknown tensor {sorted(rest)[0]!r}: expected those of {CONFIG_FILE}")
    return out

  def _with_new_rows(self, source: _Source, bounds: list[tuple[int, int]]) -> np.ndarray:
    """As `read`, of a leaf with an axis of tokens: [V, D] or [D, V]."""
    (start, stop), (first, last) = bounds if source.rows == 0 else bounds[::-1]  # rows, columns
    stored = source.tensors[0].read(lambda x: x[start : min(stop, self.stored_rows), first:last])
    out = np.zeros((stop - start, last - first), np.float32)
    out[: len(stored)] = stored
    own = self.tokenizer.vocab_size - len(self.tokenizer.added)
    for row in range(start, stop):
      if row in self.tokenizer.added or row >= self.stored_rows:
        mean, deviation = self._mean_row(source.tensors[0], min(own, self.stored_rows))
        noise = np.random.default_rng([self.seed, row]).standard_normal(len(mean))
        out[row - start] = (mean + NEW_ROW_NOISE * deviation * noise)[first:last]
    return out if source.rows == 0 else out.T

  @functools.lru_cache(maxsize=2)  # noqa: B019  # the model lives as long as the import
  def _mean_row(self, tensor: StoredTensor, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column of the first `rows` rows, float64 [D]."""
    total, square = np.zeros(tensor.shape[1]), np.zeros(tensor.shape[1])
    for start in range(0, rows, CHUNK):
      chunk = tensor.read(lambda x: x[start : min(start + CHUNK, rows)]).astype(np.float64)  # noqa: B023  # read now
      total, square = total + chunk.sum(0), square + (chunk**2).sum(0)
    mean = total / rows
    return mean, np.sqrt(np.maximum(square / rows - mean**2, 0))


def _slices(bounds: list[tuple[int, int]]) -> Index:
  return tuple(slice(start, stop) for start, stop in bounds)


def _same(x: np.ndarray) -> np.ndarray:
  return x


def _into_heads(x: np.ndarray, head_dim: int) -> np.ndarray:
  """[N H, D] -> [D, N, H]."""
  return x.reshape(-1, head_dim, x.shape[1]).transpose(2, 0, 1)


def _split_heads(x: np.ndarray, head_dim: int) -> np.ndarray:
  """[N H] -> [N, H]."""
  return x.reshape(-1, head_dim)


def _out_of_heads(x: np.ndarray, head_dim: int) -> np.ndarray:
  """[D, N H] -> [N, H, D]."""
  return x.reshape(x.shape[0], -1, head_dim).transpose(1, 2, 0)
