"""Writes files whole or not at all, here or in an object store (`gs://bucket/folder`)."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any, TypeVar

from etils import epath

Path = str | os.PathLike[str]
AnyPath = TypeVar("AnyPath", pathlib.Path, epath.Path)
TEMPORARY = ".tmp"  # how names end under which something is still being written


def temporary_beside(path: AnyPath) -> AnyPath:
  """A name beside `path` that no other process writes to, on any host; whoever writes to it renames it."""
  return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{TEMPORARY}")


def _writable(path: AnyPath) -> AnyPath:
  """Where a path leads. Raises OSError for a device, a pipe and the like, and for a file without write permission."""
  if not isinstance(path, pathlib.Path):
    return path  # of an object store
  path = path.resolve() if path.is_symlink() else path
  if path.exists() and not (path.is_file() or path.is_dir()):
    raise OSError(errno.EINVAL, "neither a file nor a folder", str(path))
  if path.is_file() and not os.access(path, os.W_OK):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
  return path


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[AnyPath]:
  """A name beside `path` to write a file or a folder to. It replaces `path` when the block ends without an exception.

  A link stays one: what it points to is replaced. Raises OSError, before anything is written, for what is neither a
  file nor a folder, and for a file that may not be written. After an exception nothing of the new content is left, and
  `path` is what it was. A process that is killed leaves a name that ends in TEMPORARY.
  """
  path = _writable(path)
  temporary = temporary_beside(path)
  try:
    yield temporary
    if temporary.is_dir():
      shutil.rmtree(path, ignore_errors=True)  # a folder cannot be renamed onto one that holds files
    temporary.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):  # the first error is the one to report
      shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
    raise


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a UTF-8 text file, whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  write_text(path, json.dumps(values, indent=2) + "\n")


def save_figure(path: pathlib.Path, figure: Any, dpi: int) -> None:
  """Writes a `matplotlib.figure.Figure` as a PNG file, whole or not at all.

  Such a figure needs neither pyplot nor a backend; import it where it is drawn, since matplotlib takes 0.4 s to load.
  """
  with replacing(path) as temporary:
    figure.savefig(temporary, format="png", dpi=dpi)


def is_remote(path: Path) -> bool:
  """Whether a path is one of an object store: gs://bucket/folder, s3://..."""
  return "://" in os.fspath(path)


def absolute_path(path: Path) -> epath.Path:
  """The path from the root, which Orbax asks for. One of an object store is absolute already."""
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
