"""Reads a folder of safetensors tensor by tensor, and only the numbers asked for.

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

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # what exports of language models write
STEMS = ("model", "diffusion_pytorch_model")  # as transformers and diffusers name files of weights
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
BYTES = {"F32": 4, "BF16": 2, "F16": 2}  # a number
MAX_HEADER = 100_000_000  # bytes, as in the format's own library
AGAIN = "copy the folder again"


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
  """{name: where it lies} of all tensors in model.safetensors, or the files that model.safetensors.index.json names.

  Names of diffusers begin with diffusion_pytorch_model; `folder` may also be, or hold, one safetensors file of any
  name. Only headers are read. Raises CheckpointError, in one line with what to do: a file that is missing, cut short or
  of another format, and numbers that are not plain floats.
  """
  folder = pathlib.Path(folder)
  found: dict[str, StoredTensor] = {}
  files, listed = _files(folder)
  for file in files:
    found |= _header(file)
  for tensor, name in listed.items():
    if tensor not in found or found[tensor].file.name != name:
      raise CheckpointError(f"{folder / name} has no tensor {tensor!r}, which an index lists for it: {AGAIN}")
  for tensor, stored in found.items():
    if stored.dtype not in BYTES:
      raise CheckpointError(
        f"{stored.file} has {tensor} as {stored.dtype}: expected {', '.join(BYTES)}; give the folder of the model "
        "before it was quantised"
      )
  return found


def _files(folder: pathlib.Path) -> tuple[list[pathlib.Path], dict[str, str]]:
  """The files, and the index's {tensor: name of its file} if there is one."""
  if folder.is_file() and folder.suffix == ".safetensors":
    return [folder], {}
  for stem in STEMS:
    index = folder / f"{stem}.safetensors.index.json"
    if index.exists():
      try:
        listed = dict(json.loads(index.read_text())["weight_map"])
        return [folder / name for name in sorted(set(listed.values()))], listed
      except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not an index of tensors ({one_line(error)}): {AGAIN}") from error
    if (folder / f"{stem}.safetensors").exists():
      return [folder / f"{stem}.safetensors"], {}
  found = sorted(folder.glob("*.safetensors"))
  if len(found) == 1:
    return found, {}
  if found:
    raise CheckpointError(
      f"{folder} has {len(found)} safetensors files and no index that joins them: expected one; give the file itself"
    )
  pickles = [path for path in (folder, *sorted(folder.glob("*"))) if path.is_file() and path.suffix in PICKLES]
  if pickles:
    raise CheckpointError(
      f"{pickles[0]} is pickled and not read, since it could run code: save the model with safe_serialization, or "
      f'convert it where you trust it: python -c "import torch, safetensors.torch as s; s.save_file(torch.load('
      f"'{pickles[0].name}', weights_only=True), 'model.safetensors')\""
    )
  raise CheckpointError(
    f"cannot read the weights in {folder}: it has no weights, neither {SINGLE} nor an index of several: {AGAIN}"
  )


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
    for name, entry in values.items():
      _check_size(name, tensors[name], entry["data_offsets"])
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


def _check_size(name: str, tensor: StoredTensor, offsets: list[int]) -> None:
  """Raises ValueError unless a tensor of floats fills the bytes that the header gives it."""
  wanted = math.prod(tensor.shape) * BYTES.get(tensor.dtype, 0)
  if tensor.dtype in BYTES and offsets[1] - offsets[0] != wanted:
    raise ValueError(f"{name} of shape {list(tensor.shape)} has {offsets[1] - offsets[0]} bytes, expected {wanted}")
