"""Defines what an importer finds, and writes the manifest from it.

An importer is a function (folder, ImportOptions) -> Imported. It reads names, annotations and headers, no media, and
says why it leaves something out.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from wanstreamer_jax.data.transcripts import Words
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.files import write_text


@dataclasses.dataclass(frozen=True)
class ImportOptions:
  """Choices of the command line."""

  roles: str = "both"
  crop: bool = True  # Seamless: to head and shoulders, where keypoints are there
  pairs: int = 1  # AMI: of the four people of a meeting, the pairs who exchange most turns


DEFAULTS = ImportOptions()


@dataclasses.dataclass
class Imported:
  """Lines of a manifest, whose files are absolute paths; what was left out as (what, why); the terms of the corpus."""

  terms: str
  lines: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  left_out: list[tuple[str, str]] = dataclasses.field(default_factory=list)

  def write(self, out: str | pathlib.Path) -> None:
    """Writes the manifest, with files relative to it. Raises DataError when nothing was found, or for a file there."""
    out = pathlib.Path(out)
    if not self.lines:
      first = "".join(f"; the first of {len(self.left_out)} left out: {what}: {why}" for what, why in self.left_out[:1])
      raise DataError(f"no recording of two people was found{first}")
    if out.is_dir():
      raise DataError(f"{out} is a folder: give the manifest's own name, such as {out / 'manifest.jsonl'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.resolve().parent
    text = "".join(json.dumps(_relative(line, folder), ensure_ascii=False) + "\n" for line in self.lines)
    write_text(out, text)


def _relative(value: Any, folder: pathlib.Path) -> Any:
  if isinstance(value, pathlib.Path):
    return os.path.relpath(value.resolve(), folder)
  if isinstance(value, dict):
    return {key: _relative(item, folder) for key, item in value.items() if item is not None}
  return value


def listed(words: Words) -> list[dict[str, Any]]:
  """Words as a manifest has them."""
  return [{"text": text, "start": round(start, 3), "end": round(end, 3)} for text, start, end in words]


def opened_folder(folder: str | pathlib.Path) -> pathlib.Path:
  """Raises DataError unless it is a folder."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise DataError(f"{folder} is not a folder; give the folder that the corpus was downloaded to")
  return folder


def files_of(folder: pathlib.Path, suffixes: Iterable[str]) -> list[pathlib.Path]:
  """All files below a folder with one of the suffixes, sorted."""
  wanted = set(suffixes)
  return sorted(path for path in folder.rglob("*") if path.suffix.lower() in wanted and path.is_file())
