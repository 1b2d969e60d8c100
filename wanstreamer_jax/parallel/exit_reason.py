"""Why a job of several processes ended, known to all of them: one process's reason is every process's exit status.

On a pod each host has its own launcher (parallel/launcher.py), which sees the exit status of its own process alone. So
a process that fails tells why before it ends, through the store that jax keeps beside process 0. The others miss it in
a collective, or hear of it, and end with the same words and status: what one launcher does not start again, none does.

A process that cannot tell (SIGKILL, a host without power) is missed in other ways: parallel/hosts.py.
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
  """status: the exit status; words: the line that says why; process: whose, and on which host."""

  status: int
  words: str
  process: int
  host: str


def _store() -> Any:
  """The job's key-value store. jax 0.10 has no public name for it."""
  from jax._src import distributed

  return distributed.global_state.client


def _heard() -> ExitReason | None:
  """What was told, if anything was."""
  try:
    return ExitReason(**json.loads(_store().key_value_try_get(EXIT_REASON)))
  except Exception:  # nothing there, or no store
    return None


def _agreed(own: ExitReason) -> ExitReason:
  """The reason that holds: what another process told before, else one's own, told now.

  Who merely lost another process has no reason to tell: it asks whether that one told its own.
  """
  answers: list[ExitReason] = []

  def ask() -> None:
    if own.status != LostHostError.status:
      with contextlib.suppress(Exception):  # one is there already, or the store is gone
        _store().key_value_set(EXIT_REASON, json.dumps(own._asdict()))
    answers.append(_heard() or own)

  asking = threading.Thread(target=ask, daemon=True)
  asking.start()
  asking.join(PATIENCE)
  return answers[0] if answers else own


def end(status: int, words: str) -> None:
  """Ends this process if it is one of several (at a usual exit jax would wait for the others), else returns.

  words: one line, printed to standard error here and by all others.
  """
  if jax.distributed.is_initialized():
    _end(_agreed(ExitReason(status, words, jax.process_index(), socket.gethostname())))


def _end(reason: ExitReason) -> None:
  _ending.acquire()  # for good: a second thread waits here for the end
  own = reason.process == jax.process_index()
  whose = "" if own else f" (process {reason.process}, {reason.host})"
  print(reason.words + whose, file=sys.stderr, flush=True)
  sys.stdout.flush()
  if reason.status != LostHostError.status:
    _take_leave()
  os._exit(reason.status)


def _take_leave() -> None:
  """Process 0 stays until the others have ended: without its store they could not know why."""
  with contextlib.suppress(Exception):  # from the store: then nobody can ask it
    if jax.process_index():
      _store().key_value_increment(GONE, 1)
      return
    deadline = time.monotonic() + FAREWELL
    while _store().key_value_increment(GONE, 0) < jax.process_count() - 1 and time.monotonic() < deadline:
      time.sleep(LISTEN / 5)


@contextlib.contextmanager
def listening() -> Iterator[None]:
  """Ends this process when another one of its job tells that it failed."""
  if not jax.distributed.is_initialized():
    yield
    return
  done = threading.Event()

  def listen() -> None:
    while not done.wait(LISTEN):
      reason = _heard()
      if reason is not None:
        if not done.wait(UNWIND):  # it hangs in a collective, where nothing broke
          _end(reason)
        return

  listener = threading.Thread(target=listen, name="exit_reason", daemon=True)
  listener.start()
  try:
    yield
  finally:
    done.set()
    listener.join()
