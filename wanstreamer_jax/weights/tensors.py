"""Takes the tensors of another library's folder under our names, each exactly once.

A tensor that is missing, left over or of another shape is an error that names it, so that nothing is dropped in
silence. Every tensor becomes float32.
"""

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wanstreamer_jax.errors import CheckpointError, one_line
from wanstreamer_jax.files import Path
from wanstreamer_jax.weights.tensor_folder import StoredTensor

NORMED = (  # the names of a weight that is stored as length and direction (weight normalisation)
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


class Tensors:
  """The tensors of a folder, which are read one by one. tensors: of `tensor_folder.open_tensors`."""

  def __init__(self, tensors: Mapping[str, StoredTensor], source: Path):
    self.left, self.source = dict(tensors), str(source)
    self.values: dict[str, np.ndarray] = {}  # by our names
    self.origin: dict[str, str] = {}  # {our name: theirs}

  def take(self, theirs: str, ours: str, convert: Convert = lambda value: value) -> None:
    """Moves one tensor. Raises CheckpointError when it is missing or `convert` cannot reshape it."""
    value = self._read(theirs)
    try:
      self.values[ours] = convert(value)
    except (ValueError, IndexError) as error:
      raise CheckpointError(f"{self.source}: {theirs} has shape {list(value.shape)}: {one_line(error)}") from error
    self.origin[ours] = theirs

  def _read(self, theirs: str) -> np.ndarray:
    """One tensor as float32, which is gone then; length and direction multiplied out."""
    if theirs in self.left:
      return self.left.pop(theirs).read(lambda value: value)
    base = theirs.removesuffix(".weight")
    for length, direction in NORMED:
      if base != theirs and base + length in self.left and base + direction in self.left:
        g, v = self._read(base + length), self._read(base + direction)
        norm = np.sqrt(np.square(v).sum(axis=tuple(i for i in range(v.ndim) if g.shape[i] == 1), keepdims=True))
        return v * (g / norm)
    raise CheckpointError(f"{self.source} has no tensor {theirs}: it is incomplete or of another architecture")

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
