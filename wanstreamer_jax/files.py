"""Files that are written whole or not at all, and paths that may lie in an object store (`gs://bucket/folder`)."""

import contextlib
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

from etils import epath


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes a JSON file whole or not at all, also beside other processes that write the same one."""
  temporary = own_temporary(path)
  temporary.write_text(json.dumps(values, indent=2) + "\n")
  os.replace(temporary, path)


def own_temporary(path: pathlib.Path) -> pathlib.Path:
  """A name beside `path` that no other process writes to, on any host."""
  return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


Path = str | os.PathLike[str]


def is_remote(path: Path) -> bool:
  """Whether a path is one of an object store: gs://bucket/folder, s3://..."""
  return "://" in os.fspath(path)


def whole_path(path: Path) -> epath.Path:
  """The path from the root, which Orbax asks for; one of a store is whole already (epath puts the folder before it)."""
  return epath.Path(path) if is_remote(path) else epath.Path(path).absolute()


@contextlib.contextmanager
def local_copy(file: epath.Path) -> Iterator[epath.Path]:
  """A file of an object store as one of this machine, for libraries that read nothing else."""
  if not is_remote(file):
    yield file
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = epath.Path(folder) / file.name
    copy.write_bytes(file.read_bytes())
    yield copy
