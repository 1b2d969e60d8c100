"""The folder of a run, on this machine or in an object store (`gs://bucket/run`).

Object stores cannot append, and most code that draws or logs needs a real file. So the small files of a remote run are
written to a temporary folder and copied out whole in the background, at most every half minute and when the run ends.
Checkpoints go to the store directly.
"""

import concurrent.futures
import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator

from etils import epath

from wanstreamer_jax.errors import TrainingError, one_line_with_type
from wanstreamer_jax.files import TEMPORARY, is_remote
from wanstreamer_jax.parallel import hosts
from wanstreamer_jax.train.lock import Lease, only_trainer

CONTINUED = ("metrics.jsonl",)  # files that a continued run appends to
EVERY = 30.0  # seconds between two copies


class RunFolder:
  """The folder of one run. A context manager: entering makes it and keeps other jobs out; leaving copies what is left.

  path: as the user gave it. checkpoints: where Orbax writes. local: where everything else is written; in all processes
  but the first it is a temporary folder that is thrown away, so that exactly one process writes.
  """

  def __init__(self, path: str):
    self.path = path
    self.checkpoints = epath.Path(path) / "checkpoints"
    self.local = pathlib.Path(path)
    self._lease: Lease | None = None  # of the process that writes a remote run
    self._copied: dict[pathlib.Path, tuple[int, float]] = {}
    self._copying: concurrent.futures.Future[None] | None = None
    self._next = 0.0

  def __enter__(self) -> "RunFolder":
    with contextlib.ExitStack() as opening:  # if a step fails, undoes those before it
      self._open_in(opening)
      self._open = opening.pop_all()
    return self

  def _open_in(self, opening: contextlib.ExitStack) -> None:
    remote, first = is_remote(self.path), hosts.is_first()
    if remote or not first:
      self.local = pathlib.Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="wanstreamer-run-")))
    if not first:
      return
    if not remote:
      try:
        self.local.mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise TrainingError(f"cannot make the run folder {self.path}: {error.strerror}; set train.run") from error
      opening.enter_context(only_trainer(self.local))
      return
    with self._reaching():
      epath.Path(self.path).mkdir(parents=True, exist_ok=True)
      self._lease = opening.enter_context(Lease(self.path))
      for name in CONTINUED:
        if (epath.Path(self.path) / name).exists():
          (self.local / name).write_bytes((epath.Path(self.path) / name).read_bytes())
    self._worker = opening.enter_context(concurrent.futures.ThreadPoolExecutor(1))

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
    with self._open:
      try:
        self.copy(now=True)
      except TrainingError:
        if error is None:
          raise

  def copy(self, now: bool = False) -> None:
    """Copies changed files to the store in the background; does nothing for a local run.

    A failed copy is a warning, and the next one copies the same files again, since object stores fail now and then.
    With `now` the copy is awaited, and a failure is a TrainingError, as it is when another job has taken the run.
    """
    if self._lease is None:
      return
    self._lease.check()
    if not now and (time.monotonic() < self._next or (self._copying and not self._copying.done())):
      return
    self._next = time.monotonic() + EVERY
    if self._copying:
      try:
        with self._reaching():
          self._copying.result()
      except TrainingError as error:
        print(f"warning: {error}; trying again", flush=True)
    self._copying = self._worker.submit(self._copy)
    if now:
      with self._reaching():
        self._copying.result()

  def _copy(self) -> None:
    for file in sorted(self.local.rglob("*")):
      if file.suffix == TEMPORARY or not file.is_file():  # a file that is being written may be renamed at any time
        continue
      status = file.stat()
      state = (status.st_size, status.st_mtime)
      if self._copied.get(file) == state:
        continue
      target = epath.Path(self.path) / file.relative_to(self.local).as_posix()
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_bytes(file.read_bytes())
      self._copied[file] = state

  @contextlib.contextmanager
  def _reaching(self) -> Iterator[None]:
    """Turns the many kinds of errors of a store's client into a TrainingError of one line."""
    try:
      yield
    except TrainingError:
      raise
    except ImportError as error:
      raise TrainingError(f"{self.path} needs a package: {error}; pip install gcsfs (s3fs for s3://)") from error
    except Exception as error:
      raise TrainingError(
        f"cannot reach {self.path}: {one_line_with_type(error)}; check the bucket's name, the network and the "
        "credentials (gcloud auth application-default login), or set train.run"
      ) from error
