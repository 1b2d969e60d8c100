"""Imports a pretrained codec from a folder of another library.

Its sizes go into the config. The result is exported like a trained codec (`store.export_weights`), so that `data
encode`, `export` and the agent's config take it as they take a native one.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from wanstreamer_jax.codecs.make import make_audio_codec, make_video_codec
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import flat_fields
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import Path
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.weights import pocket, tae, wan
from wanstreamer_jax.weights.tensor_folder import open_tensors
from wanstreamer_jax.weights.tensors import Tensors, read_json

STANDARD = ("standard.latent_mean", "standard.latent_std", "standard.residual_std")
Statistics = tuple[np.ndarray, np.ndarray]
# Tokenizers that cannot fill units of 160 ms: their latents a second.
UNFIT = {"vibevoice_acoustic_tokenizer": 7.5, "vibevoice_semantic_tokenizer": 7.5, "vibevoice": 7.5}


class Imported(NamedTuple):
  """A codec from a folder."""

  part: str  # of an agent: "audio_codec" or "video_codec"
  config: Config  # with the codec's kind and sizes
  codec: Any
  standardised: bool  # whether the folder states mean and deviation of its latents
  notes: list[str]  # what was done and left out, for the user


def import_codec(folder: Path, config: Config, decoder: Path | None = None) -> Imported:
  """The codec in `folder`, whose architecture its config.json names, as float32.

  config: what the agent is otherwise like. decoder: a folder or file with the small decoder for Wan's latents (TAEW2.1,
  TAEW2.2), which takes the place of the codec's own.
  Raises CheckpointError for folders that do not hold such a codec whole, ConfigError where it does not fit `config`.
  """
  found = read_json(pathlib.Path(folder) / "config.json", "a codec to import")
  kind = found.get("model_type") or found.get("_class_name")
  if kind == pocket.MODEL_TYPE:
    if decoder is not None:
      raise CheckpointError(f"--decoder {decoder}: a small decoder is for latents of Wan, but {folder} is {kind}")
    return _pocket(folder, config)
  if kind == wan.CLASS:
    return _wan(folder, config, decoder)
  if str(kind) in UNFIT:
    rate, unit = UNFIT[str(kind)], config.media.unit_ms
    raise CheckpointError(
      f"{folder} is {kind}: its {rate:g} latents a second are {rate * unit / 1000:g} a unit of {unit} ms; expected a "
      f"whole number, as {pocket.MODEL_TYPE} has (2)"
    )
  raise CheckpointError(
    f"{folder}/config.json names the architecture {kind!r}: expected {pocket.MODEL_TYPE} (audio) or {wan.CLASS} (video)"
  )


def _pocket(folder: Path, config: Config) -> Imported:
  sizes = pocket.pocket_config(folder)
  section = config.audio_codec.replace(kind="pocket", pocket=sizes)
  config = config.replace(audio_codec=section).freeze()
  abstract = jax.eval_shape(lambda: make_audio_codec(config.audio_codec, rngs=nnx.Rngs(0)))
  tensors = Tensors(open_tensors(folder), folder)
  pocket.take_pocket(tensors, config.audio_codec.pocket)
  _put_statistics(tensors, "", _neutral(sizes.latent_dim))
  return Imported("audio_codec", config, _filled(tensors, abstract), False, [_summary(tensors)])


def _wan(folder: Path, config: Config, decoder: Path | None) -> Imported:
  kind, sizes = wan.wan_config(folder)
  section = config.video_codec.replace(**{"kind": kind, kind: sizes, "decoder": "own"})
  small = None if decoder is None else Tensors(open_tensors(decoder), decoder)
  if small is not None:
    section = section.replace(decoder="tae", tae=tae.tae_config(small, sizes))
  config = config.replace(video_codec=section).freeze()
  abstract = jax.eval_shape(lambda: make_video_codec(config.video_codec, rngs=nnx.Rngs(0)))
  statistics = wan.latent_statistics(folder, sizes.latent_dim)
  tensors = Tensors(open_tensors(folder), folder)
  skipped = wan.take_wan(tensors, config.video_codec.wan, decoder=small is None)
  _put_statistics(tensors, "", statistics or _neutral(sizes.latent_dim))
  notes = [_summary(tensors)]
  if small is not None:
    if statistics is None:
      raise CheckpointError(f"{folder}/config.json has no latents_mean and latents_std, which {decoder} was trained on")
    left = tae.take_tae(small, config.video_codec.tae)
    notes.append(f"{_summary(small)}; {left} of its encoder and {skipped} of {folder}'s own decoder are left out")
    _put_statistics(small, "decoder.", statistics)
    tensors.join(small)
  return Imported("video_codec", config, _filled(tensors, abstract), statistics is not None, notes)


def _neutral(channels: int) -> Statistics:
  return np.zeros(channels, np.float32), np.ones(channels, np.float32)


def _put_statistics(tensors: Tensors, prefix: str, values: Statistics) -> None:
  """Mean and deviation; what the past leaves unknown was not measured."""
  mean, deviation = values
  for name, value in zip(STANDARD, (mean, deviation, np.zeros_like(mean))):
    tensors.put(prefix + name, value)


def _summary(tensors: Tensors) -> str:
  count = sum(tensors.values[name].size for name in tensors.origin)
  return f"{tensors.source}: {len(tensors.origin)} tensors, {count / 1e6:.2f} M numbers"


def _filled(tensors: Tensors, abstract: Any) -> Any:
  shapes = {name: leaf.shape for name, leaf in named_leaves(abstract).items()}
  return jax.device_put(fill_leaves(abstract, tensors.finish(shapes)))


def flags(before: Config, after: Config) -> list[str]:
  """What a config file or a command line must say for this codec: the fields in which `after` differs."""
  old, new = flat_fields(before), flat_fields(after)
  return [f"--config.{name}={value}" for name, value in new.items() if value != old.get(name)]
