"""Copies folders of records from object stores to this machine, as they are needed.

A path with "://" (gs://bucket/latents, s3://..., any that fsspec knows) is a remote folder. Its manifest is read at
once; shards are downloaded when they are first needed, each to a temporary name that is renamed when its size and its
hash are those of the manifest. The cache is $WANSTREAMER_CACHE, else wanstreamer/records in $XDG_CACHE_HOME (~/.cache).
A changed folder has another manifest and hence another place there; nothing is ever deleted.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from wanstreamer_jax.errors import DataError, one_line, one_line_with_type
from wanstreamer_jax.files import replacing

AT_ONCE = 8  # downloads side by side
TRIES = 3  # of a download
PAUSE = 1.0  # seconds before the second try, and twice as long before the third

Result = TypeVar("Result")


def cache_folder() -> pathlib.Path:
  """Where copies of remote folders are kept."""
  if os.environ.get("WANSTREAMER_CACHE"):
    return pathlib.Path(os.environ["WANSTREAMER_CACHE"])
  home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  return home / "wanstreamer" / "records"


class RemoteFolder:
  """A folder in an object store, and the part of it that is on this machine.

  path: as the user gave it. local: the folder of the copies, which holds `manifest` after the constructor. Raises
  DataError for a path that cannot be read: no such folder, no package for it, no network, no right.
  """

  def __init__(self, path: str, manifest: str):
    self.path = path.rstrip("/")
    self._files, self._root = _file_system(self.path)
    blob = self._try(f"{self.path}/{manifest}", lambda: self._files.cat_file(f"{self._root}/{manifest}"))
    digest = hashlib.sha256(self.path.encode() + b"\0" + blob).hexdigest()
    self.local = cache_folder() / f"{self.path.rsplit('/', 1)[-1]}-{digest[:16]}"
    self._locks: dict[str, threading.Lock] = {}
    self._guard = threading.Lock()
    if not (self.local / manifest).is_file():
      with _disk(self.local):
        self.local.mkdir(parents=True, exist_ok=True)
        with replacing(self.local / manifest) as temporary:
          temporary.write_bytes(blob)

  def sizes(self) -> dict[str, int]:
    """Bytes of every file in the store, by name."""
    listed = self._try(self.path, lambda: self._files.ls(self._root, detail=True))
    return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in listed if entry["type"] == "file"}

  def has(self, file: dict[str, Any]) -> bool:
    """Whether a file of the manifest ({"name", "bytes", "sha256"}) is on this machine."""
    path = self.local / file["name"]
    return path.is_file() and path.stat().st_size == file["bytes"]

  def fetch(self, file: dict[str, Any]) -> pathlib.Path:
    """A file of the manifest on this machine, downloaded unless it is there. Raises DataError."""
    with self._guard:
      lock = self._locks.setdefault(file["name"], threading.Lock())
    with lock:  # other processes may fetch it too: the last one's rename wins, and the bytes are the same
      if not self.has(file):
        self._download(file)
    return self.local / file["name"]

  def fetch_all(self, files: Iterable[dict[str, Any]]) -> None:
    """Downloads those of some files that are not here, AT_ONCE side by side, and says so. Raises DataError."""
    missing = [file for file in files if not self.has(file)]
    if not missing:
      return
    size, begin = sum(file["bytes"] for file in missing) / 1e9, time.perf_counter()
    print(f"fetching {len(missing)} files, {size:.2f} GB, of {self.path} to {self.local}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
      for done in concurrent.futures.as_completed([pool.submit(self.fetch, file) for file in missing]):
        done.result()
    print(f"fetched {size:.2f} GB in {time.perf_counter() - begin:.1f} s", flush=True)

  def _download(self, file: dict[str, Any]) -> None:
    name = f"{self.path}/{file['name']}"
    with _disk(self.local), replacing(self.local / file["name"]) as temporary:
      self._try(name, lambda: self._files.get_file(f"{self._root}/{file['name']}", str(temporary)))
      size = temporary.stat().st_size
      if size != file["bytes"]:
        raise DataError(f"{name}: {size} bytes, but the manifest says {file['bytes']}; copy the whole folder again")
      with temporary.open("rb") as copy:
        if hashlib.file_digest(copy, "sha256").hexdigest() != file["sha256"]:
          raise DataError(f"{name}: its contents do not match the manifest's hash; copy the whole folder again")

  def _try(self, name: str, read: Callable[[], Result]) -> Result:
    """What `read` returns, after up to TRIES tries. Raises DataError, at once for what is not there."""
    for attempt in range(TRIES):
      try:
        return read()
      except FileNotFoundError as error:
        raise DataError(f"{name}: not there; copy the whole folder that `data make` or `encode` wrote") from error
      except Exception as error:  # each store's library raises its own
        if getattr(error, "errno", None) == errno.ENOSPC:
          raise
        if attempt + 1 == TRIES:
          raise DataError(
            f"cannot read {name}: {one_line_with_type(error)}; check the bucket's name, the network and the credentials"
          ) from error
        time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _disk(folder: pathlib.Path) -> Iterator[None]:
  """Turns errors of this machine's disk into a DataError that says where the cache is."""
  try:
    yield
  except OSError as error:
    raise DataError(
      f"cannot keep a copy in {folder}: {error.strerror or error}; set WANSTREAMER_CACHE to a disk with room, or "
      "data.shares so that every host keeps its share only"
    ) from error


def _file_system(path: str) -> tuple[Any, str]:
  """The fsspec file system of a path, and the path in it. Raises DataError."""
  import fsspec

  try:
    return fsspec.core.url_to_fs(path)
  except ImportError as error:
    raise DataError(f"{path} needs a package: {error}; pip install gcsfs (s3fs for s3://)") from error
  except ValueError as error:
    raise DataError(f"{path}: {one_line(error)}; give a folder, or a path like gs://bucket/latents") from error
