"""Reads folders of other libraries' weights: config.json and safetensors files.

There may be several files with an index. Only safetensors are read. A pickle (`.pth`, `.bin`) can run code when it is opened, and is refused with the command
that converts it. Every tensor becomes float32 and must be taken exactly once, so that nothing is dropped in silence.
"""

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wanstreamer_jax.errors import CheckpointError, one_line
from wanstreamer_jax.files import Path

STEMS = ("model", "diffusion_pytorch_model")  # as transformers and diffusers name files of weights
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
FLOATS = ("float16", "bfloat16", "float32", "float64")
NORMED = (  # the names of a weight that is stored as length and direction, whose product it is
  (".weight_g", ".weight_v"),
  (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)
Convert = Callable[[np.ndarray], np.ndarray]


def read_json(file: pathlib.Path, what: str) -> dict[str, Any]:
  """A JSON object. Raises CheckpointError; `what` is what the folder should be."""
  try:
    values = json.loads(file.read_text())
  except OSError as error:
    raise CheckpointError(f"{file.parent} is not {what}: {file.name} is missing ({error.strerror})") from error
  except ValueError as error:
    raise CheckpointError(f"{file} is damaged: {one_line(error)}; copy the folder again") from error
  if not isinstance(values, dict):
    raise CheckpointError(f"{file} is damaged: expected an object, not {type(values).__name__}; copy the folder again")
  return values


def weight_files(folder: Path) -> list[pathlib.Path]:
  """The safetensors files that together hold the weights; `folder` may be one file.

  Raises CheckpointError: there are none, only pickles, or a shard is missing.
  """
  root = pathlib.Path(folder)
  if root.is_file() and root.suffix == ".safetensors":
    return [root]
  for stem in STEMS:
    index = root / f"{stem}.safetensors.index.json"
    if index.exists():
      shards = read_json(index, "a folder of weights").get("weight_map")
      if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index} is damaged: it has no weight_map; copy the folder again")
      files = [root / str(name) for name in sorted(set(shards.values()))]
      missing = [file.name for file in files if not file.exists()]
      if missing:
        raise CheckpointError(
          f"{root}: {missing[0]} is missing, one of {len(files)} files that {index.name} lists; copy the folder again"
        )
      return files
    if (root / f"{stem}.safetensors").exists():
      return [root / f"{stem}.safetensors"]
  found = sorted(root.glob("*.safetensors")) if root.is_dir() else []
  if len(found) == 1:
    return found
  if found:
    raise CheckpointError(
      f"{root} has {len(found)} safetensors files and no index: expected {STEMS[0]}.safetensors, or one file"
    )
  pickles = [file for file in (sorted(root.glob("*")) if root.is_dir() else [root]) if file.suffix in PICKLES]
  if pickles:
    raise CheckpointError(
      f"{pickles[0]} is a pickle, which can run code: expected safetensors; convert it where you trust it, with "
      f"python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('{pickles[0].name}', "
      "weights_only=True), 'model.safetensors')\""
    )
  raise CheckpointError(f"{root} has no weights: expected {STEMS[0]}.safetensors")


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
  """All tensors of a folder by name, as float32. Raises CheckpointError."""
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  tensors: dict[str, np.ndarray] = {}
  for file in weight_files(folder):
    try:
      found = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
      raise CheckpointError(f"cannot read {file}: {one_line(error)}; it is incomplete, copy it again") from error
    for name in found:
      if found[name].dtype.name not in FLOATS:
        raise CheckpointError(f"{file}: {name} is {found[name].dtype.name}, expected one of {', '.join(FLOATS)}")
      if name in tensors:
        raise CheckpointError(f"{file}: {name} is in another file of the folder too; remove the stale one")
      tensors[name] = found[name].astype(np.float32)
  return folded(tensors)


def folded(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Weights that are stored as length and direction (weight normalisation), multiplied out."""
  for length, direction in NORMED:
    for name in [name for name in tensors if name.endswith(length)]:
      base = name.removesuffix(length)
      if base + direction in tensors:
        g, v = tensors.pop(name), tensors.pop(base + direction)
        norm = np.sqrt(np.square(v).sum(axis=tuple(i for i in range(v.ndim) if g.shape[i] == 1), keepdims=True))
        tensors[base + ".weight"] = v * (g / norm)
  return tensors


class Tensors:
  """The tensors of a folder, taken one by one under our names."""

  def __init__(self, tensors: Mapping[str, np.ndarray], source: Path):
    self.left, self.source = dict(tensors), str(source)
    self.values: dict[str, np.ndarray] = {}  # by our names
    self.origin: dict[str, str] = {}  # {our name: theirs}

  def take(self, theirs: str, ours: str, convert: Convert = lambda value: value) -> None:
    """Moves one tensor. Raises CheckpointError when it is missing or `convert` cannot reshape it."""
    if theirs not in self.left:
      raise CheckpointError(f"{self.source} has no tensor {theirs}: it is incomplete or of another architecture")
    value = self.left.pop(theirs)
    try:
      self.values[ours] = convert(value)
    except (ValueError, IndexError) as error:
      raise CheckpointError(f"{self.source}: {theirs} has shape {list(value.shape)}: {one_line(error)}") from error
    self.origin[ours] = theirs

  def put(self, ours: str, value: np.ndarray) -> None:
    """A leaf that the folder has no tensor for."""
    self.values[ours] = value

  def skip(self, pattern: str) -> int:
    """Leaves out tensors whose whole name matches; returns how many, for the report."""
    names = [name for name in self.left if re.fullmatch(pattern, name)]
    for name in names:
      del self.left[name]
    return len(names)

  def join(self, other: "Tensors") -> None:
    """Adds what was taken from another folder, of which nothing may be left."""
    other.finish({})
    self.values |= other.values
    self.origin |= {ours: f"{other.source}: {theirs}" for ours, theirs in other.origin.items()}

  def finish(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """All leaves by our names. Raises CheckpointError for a tensor that was not taken, and for shapes that differ."""
    if self.left:
      more = f" (and {len(self.left) - 1} more)" if len(self.left) > 1 else ""
      raise CheckpointError(
        f"{self.source} has an unknown tensor {sorted(self.left)[0]}{more}: it is of another architecture"
      )
    for name, shape in shapes.items():
      if name not in self.values:
        raise CheckpointError(f"{self.source} gives no {name}")
      if self.values[name].shape != tuple(shape):
        raise CheckpointError(
          f"{self.source}: {self.origin.get(name, name)} becomes {name} of shape {list(self.values[name].shape)}, but "
          f"config.json means {list(shape)}: the weights and config.json do not belong together"
        )
    return self.values
