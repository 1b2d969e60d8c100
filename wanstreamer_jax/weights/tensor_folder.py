"""Reads a folder of safetensors tensor by tensor, and of each tensor only the numbers that are asked for.

The file format: 8 bytes with the length of a header, the header as JSON ({name: {"dtype", "shape", "data_offsets"}}),
then the numbers of all tensors. Files are mapped into memory while one tensor is read, so that nothing stays.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from wanstreamer_jax.errors import CheckpointError, one_line
from wanstreamer_jax.files import Path

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F32", "BF16", "F16")
MAX_HEADER = 100_000_000  # bytes, as in the format's own library
AGAIN = "download the folder again"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
  """Where a tensor lies. offset: bytes from the start of `file`."""

  file: pathlib.Path
  dtype: str  # as the format spells it: "F32", "BF16", ...
  shape: tuple[int, ...]
  offset: int

  def read(self, view: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """float32 numbers of `view(tensor)`, a transposed, reshaped or cut view; only these are read."""
    import ml_dtypes

    kinds = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
    mapped = np.memmap(self.file, kinds[self.dtype], "r", self.offset, self.shape) if math.prod(self.shape) else None
    return np.array(view(np.zeros(self.shape) if mapped is None else mapped), np.float32)


def open_tensors(folder: Path) -> dict[str, StoredTensor]:
  """{name: where it lies} of all tensors in model.safetensors, or in the files that model.safetensors.index.json names.

  Only headers are read. Raises CheckpointError, in one line with what to do: a file that is missing, cut short or of
  another format, and numbers that are not plain floats.
  """
  folder = pathlib.Path(folder)
  found: dict[str, StoredTensor] = {}
  for name in _files(folder):
    found |= _header(folder / name)
  index = folder / INDEX
  listed = json.loads(index.read_text())["weight_map"] if index.exists() else {}
  for tensor, name in listed.items():
    if tensor not in found or found[tensor].file.name != name:
      raise CheckpointError(f"{folder / name} has no tensor {tensor!r}, which {INDEX} lists for it: {AGAIN}")
  for tensor, stored in found.items():
    if stored.dtype not in FLOATS:
      raise CheckpointError(
        f"{stored.file} has {tensor} as {stored.dtype}: expected {', '.join(FLOATS)}; give the folder of the model "
        "before it was quantised"
      )
  return found


def _files(folder: pathlib.Path) -> list[str]:
  index = folder / INDEX
  if index.exists():
    try:
      return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
      raise CheckpointError(f"{index} is not an index of tensors ({one_line(error)}): {AGAIN}") from error
  if not (folder / SINGLE).exists():
    other = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pth"))]
    hint = f"; {other[0]} is pickled and not read: save the model with safe_serialization" if other else f": {AGAIN}"
    raise CheckpointError(f"cannot read the weights in {folder}: it has neither {SINGLE} nor {INDEX}{hint}")
  return [SINGLE]


def _header(file: pathlib.Path) -> dict[str, StoredTensor]:
  """The tensors of one file. Raises CheckpointError."""
  try:
    size = os.path.getsize(file)
    with file.open("rb") as stream:
      length = int.from_bytes(stream.read(8), "little")
      if size < 8 or not 0 < length <= min(MAX_HEADER, size - 8):
        raise ValueError(f"{size} bytes cannot hold a header of {length}")
      values: dict[str, Any] = json.loads(stream.read(length))
    values.pop("__metadata__", None)
    tensors = {
      name: StoredTensor(file, str(entry["dtype"]), tuple(entry["shape"]), 8 + length + int(entry["data_offsets"][0]))
      for name, entry in values.items()
    }
    end = 8 + length + max((int(entry["data_offsets"][1]) for entry in values.values()), default=0)
  except OSError as error:
    raise CheckpointError(f"cannot read the weights: {file} is missing ({error.strerror}): {AGAIN}") from error
  except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
    raise CheckpointError(
      f"cannot read the weights: {file} is incomplete or no safetensors file ({one_line(error)}): {AGAIN}"
    ) from error
  if end != size:
    raise CheckpointError(f"cannot read the weights: {file} has {size} bytes, but its header says {end}: {AGAIN}")
  return tensors
