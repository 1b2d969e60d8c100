"""Makes all processes of a job end with the reason and status of the one that failed.

On a pod each host has its own launcher (parallel/launcher.py), which sees only the exit status of its own process. So a
process that fails writes its reason, before it ends, to the key-value store that jax runs in process 0. The others fail
in a collective, or poll the store and find the reason. They all end with the same message and status, so that all
launchers agree on whether to start the job again.

A process that cannot write a reason (SIGKILL, a power failure) is detected in other ways: see parallel/hosts.py.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from wanstreamer_jax.errors import LostHostError

EXIT_REASON = "wanstreamer/exit_reason"  # key of the store: the reason, as JSON
GONE = "wanstreamer/gone"  # key of the store: how many processes have ended
LISTEN = 0.5  # seconds between two looks at the store
UNWIND = 8.0  # seconds in which a process that learns the reason may still fail by itself and close its files
FAREWELL = 10.0  # at most so many seconds process 0 keeps its store alive, so that the others can read the reason
PATIENCE = 2.0  # seconds to wait for a store that does not answer, because process 0 itself is gone

_ending = threading.Lock()  # taken once, by the first thread that ends this process


class ExitReason(NamedTuple):
  """status: the exit status; words: the line that says why; process, host: where the failure was."""

  status: int
  words: str
  process: int
  host: str


def _store() -> Any:
  """The job's key-value store, for which jax 0.10 has no public name."""
  from jax._src import distributed

  return distributed.global_state.client


def _stored() -> ExitReason | None:
  """The reason in the store, if a process has written one."""
  try:
    return ExitReason(**json.loads(_store().key_value_try_get(EXIT_REASON)))
  except Exception:  # the key is not there, or the store is gone
    return None


def _agreed(own: ExitReason) -> ExitReason:
  """The reason that all processes take: the one that is in the store already, else `own`, which is written now.

  A process that only lost another one has no reason of its own to write; it reads that process's reason, if there is
  one.
  """
  answers: list[ExitReason] = []

  def ask() -> None:
    if own.status != LostHostError.status:
      with contextlib.suppress(Exception):  # the store holds a reason already, or is gone
        _store().key_value_set(EXIT_REASON, json.dumps(own._asdict()))
    answers.append(_stored() or own)

  asking = threading.Thread(target=ask, daemon=True)
  asking.start()
  asking.join(PATIENCE)
  return answers[0] if answers else own


def end(status: int, words: str) -> None:
  """Ends this process if it is one of several, else returns. (A normal exit would make jax wait for the others.)

  words: one line, which every process prints to standard error.
  """
  if jax.distributed.is_initialized():
    _end(_agreed(ExitReason(status, words, jax.process_index(), socket.gethostname())))


def _end(reason: ExitReason) -> None:
  _ending.acquire()  # never released: a second thread waits here until the process has ended
  own = reason.process == jax.process_index()
  whose = "" if own else f" (process {reason.process}, {reason.host})"
  print(reason.words + whose, file=sys.stderr, flush=True)
  sys.stdout.flush()
  if reason.status != LostHostError.status:
    _take_leave()
  os._exit(reason.status)


def _take_leave() -> None:
  """Process 0 waits until the others have ended, since they read the reason from its store."""
  with contextlib.suppress(Exception):  # the store is gone, so nobody can read it
    if jax.process_index():
      _store().key_value_increment(GONE, 1)
      return
    deadline = time.monotonic() + FAREWELL
    while _store().key_value_increment(GONE, 0) < jax.process_count() - 1 and time.monotonic() < deadline:
      time.sleep(LISTEN / 5)


@contextlib.contextmanager
def listening() -> Iterator[None]:
  """Ends this process when another process of the job has written the reason of its failure."""
  if not jax.distributed.is_initialized():
    yield
    return
  done = threading.Event()

  def listen() -> None:
    while not done.wait(LISTEN):
      reason = _stored()
      if reason is not None:
        if not done.wait(UNWIND):  # this process hangs in a collective that never failed
          _end(reason)
        return

  listener = threading.Thread(target=listen, name="exit_reason", daemon=True)
  listener.start()
  try:
    yield
  finally:
    done.set()
    listener.join()
