"""Locks a run's folder: two jobs that train into one would destroy each other's files.

On this machine it is a lock of the operating system, which vanishes with its process however that ends. Object stores
have no locks. There it is a lease: a file `RUN/lock` that its holder rewrites every BEAT seconds and removes when it
ends. A job that finds such a file watches it for PATIENCE seconds. If the file changes, its holder is alive and the new
job is refused; if not, its holder was killed and the new job takes the lease. No two clocks are compared.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from wanstreamer_jax.errors import TrainingError

NAME = "lock"
BEAT = 10.0
PATIENCE = 45.0  # seconds for which the holder may be unable to reach the store before another job can take the run
SETTLE = 2.0  # seconds after a write: of two jobs that start at once, the last to write wins


@contextlib.contextmanager
def only_trainer(run: pathlib.Path) -> Iterator[None]:
  """Holds a run's folder on this machine. Raises TrainingError if another process holds it."""
  with (run / NAME).open("w") as file:
    try:
      # A POSIX record lock, which worker processes do not inherit.
      fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
      raise TrainingError(f"{run} is being trained by another process; wait for it, or set train.run") from None
    yield


class Lease:
  """Holds a run in an object store. A context manager; entering raises TrainingError if another job holds the run."""

  def __init__(self, run: str):
    self._run, self._file = run, epath.Path(run) / NAME
    self._own = {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
    self._beats = 0
    self._taken: dict[str, Any] | None = None  # the lease of another job that has replaced ours
    self._done = threading.Event()
    self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

  def __enter__(self) -> "Lease":
    found = self._read()
    if found is not None:
      print(
        f"{self._file} is held by {_name(found)}: waiting {PATIENCE:.0f} s to see whether that job is alive", flush=True
      )
      self._watch(found)
    self._write()
    time.sleep(SETTLE)
    found = self._read()
    if self._is_others(found):
      raise self._refusal(found)
    self._beating.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._done.set()
    self._beating.join()
    with contextlib.suppress(Exception):  # the store is out of reach: the next job has to wait PATIENCE seconds
      if not self._is_others(self._read()):
        self._file.unlink(missing_ok=True)

  def check(self) -> None:
    """Raises TrainingError when another job has taken the run because this one could not reach the store for long."""
    if self._taken is not None:
      raise TrainingError(
        f"{self._run} was taken over by {_name(self._taken)} while this job could not reach it; this job ends"
      )

  def _watch(self, found: dict[str, Any]) -> None:
    """Returns when the lease is gone or has not changed for PATIENCE seconds. Raises TrainingError if it changes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
      time.sleep(BEAT / 5)
      now = self._read()
      if now is None:
        return
      if now != found:
        raise self._refusal(now)

  def _beat(self) -> None:
    while not self._done.wait(BEAT):
      with contextlib.suppress(Exception):  # object stores fail now and then
        found = self._read()
        if self._is_others(found):
          self._taken = found
          return
        self._write()

  def _read(self) -> dict[str, Any] | None:
    try:
      text = self._file.read_text()
    except FileNotFoundError:
      return None
    try:
      return dict(json.loads(text))
    except (ValueError, TypeError):
      return {"text": text}  # not a lease: nobody renews it

  def _write(self) -> None:
    self._beats += 1
    self._file.write_text(json.dumps({**self._own, "beats": self._beats}))

  def _is_others(self, found: dict[str, Any] | None) -> bool:
    return found is not None and found.get("id") != self._own["id"]

  def _refusal(self, found: dict[str, Any] | None) -> TrainingError:
    return TrainingError(f"{self._run} is being trained by {_name(found)}; wait for it, or set train.run")


def _name(found: dict[str, Any] | None) -> str:
  found = found or {}
  return f"process {found.get('process', '?')} on {found.get('host', '?')}"
