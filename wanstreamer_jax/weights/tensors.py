"""Reads tensors of a folder that `save_pretrained` writes. An array is read when it is asked for."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import Path

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """A JSON object. Raises CheckpointError."""
  try:
    values = json.loads(file.read_text())
  except (OSError, ValueError) as error:
    raise CheckpointError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
  if not isinstance(values, dict):
    raise CheckpointError(f"{file} holds a {type(values).__name__}: expected an object")
  return values


class FolderTensors(Mapping[str, np.ndarray]):
  """{name: array} of all files of a folder; an array is read when it is asked for."""

  def __init__(self, folder: Path):
    from safetensors import SafetensorError, safe_open

    self.folder = pathlib.Path(folder)
    index = self.folder / INDEX
    files = sorted(set(read_json(index).get("weight_map", {}).values())) if index.exists() else [ONE]
    self.places: dict[str, str] = {}
    for name in files:
      try:
        with safe_open(self.folder / name, "np") as file:
          self.places |= dict.fromkeys(file.keys(), name)
      except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {self.folder / name}: {error}; it is missing or incomplete") from error

  def __getitem__(self, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(self.folder / self.places[name], "np") as file:
      return file.get_tensor(name)

  def __iter__(self) -> Iterator[str]:
    return iter(self.places)

  def __len__(self) -> int:
    return len(self.places)


def open_tensors(folder: Path) -> FolderTensors:
  """The tensors of a folder. Raises CheckpointError for a file that is missing or damaged."""
  return FolderTensors(folder)
