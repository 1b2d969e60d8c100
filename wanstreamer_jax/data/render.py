"""Processes that render sessions of duplex_world and hand them over in memory.

Each process makes every n-th seed. A session comes as the records that `data make` would write of it, and with
`augment` its user is changed once (`augment.py`): in one room, before one microphone and one camera. Hundreds of
megabytes a second go through Unix sockets, straight into the arrays of the other side.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data import records
from wanstreamer_jax.data.augment import augment_audio, augment_video, draws
from wanstreamer_jax.data.make import SessionSource
from wanstreamer_jax.data.record_folder import stored_dtype
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import DataError, UserError, one_line_with_type

HEADER = struct.Struct("<qqq")  # number of the session (-1: an error), bytes of its units or of a message, of its head
NICE = 5  # so that the process that trains comes first
WAITING = 2  # sessions of each process that wait to be taken; then it waits too
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # one each: there is a process for every core


class Rendered(NamedTuple):
  """Media records of one session."""

  number: int  # from 0; its seed is the first seed + number
  units: np.ndarray  # [K] of records.unit_dtype
  fixed: np.ndarray  # a scalar of records.session_dtype


@dataclasses.dataclass(frozen=True)
class Recorder:
  """Makes the media records of any session of a source."""

  config: Config
  source: SessionSource
  augment: bool = False
  fields: tuple[str, ...] = ()  # of the units that are wanted; all by default

  @property
  def unit_dtype(self) -> np.dtype:
    whole = records.unit_dtype(self.config, self.source.tracks)
    return stored_dtype(whole, set(whole.names or ()) - set(self.fields)) if self.fields else whole

  @property
  def session_dtype(self) -> np.dtype:
    return records.session_dtype(self.config)

  def record(self, number: int, tokenizer: TextTokenizer) -> Rendered:
    """The session of a number, from 0."""
    (session,) = self.source.sessions(number)
    whole = records.unit_dtype(self.config, self.source.tracks)
    units, _ = records.session_to_units(session, self.config, tokenizer, whole)
    record, _ = records.session_record(session, self.config, tokenizer, self.session_dtype)
    if self.augment:
      own, media = self.config.augment, self.config.media
      rngs = draws(self.config.data.seed, number, 0)
      heard, seen = units["user_audio_valid"], units["user_video_valid"]
      units["user_audio"] = augment_audio(units["user_audio"], heard, media.sample_rate, own, rngs)
      units["user_video"] = augment_video(units["user_video"], seen, own, rngs)
    return Rendered(number, _only(units, self.unit_dtype), record.fixed)


def _only(units: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Unit records with the fields of a narrower layout."""
  if units.dtype == dtype:
    return units
  kept = np.zeros(len(units), dtype)
  for name in dtype.names or ():
    kept[name] = units[name]
  return kept


class Renderer:
  """The processes. `take` gives the next session that is ready, in no certain order. Close it, or use it in a `with`.

  workers: how many processes; number n of them makes the sessions n, n + workers, ... One whose first session fails
  ends; later it leaves out a session that fails.
  """

  def __init__(self, recorder: Recorder, workers: int):
    self.recorder = recorder
    self._ready: queue.Queue[Rendered | BaseException] = queue.Queue(workers * WAITING)
    self._closed = threading.Event()
    context = multiprocessing.get_context("spawn")  # never fork a process that may have started JAX
    self._processes, self._sockets = [], []
    with _one_thread_each():
      for turn in range(workers):
        here, there = context.Pipe()
        process = context.Process(target=_render, args=(there, recorder, turn, workers), daemon=True)
        process.start()
        there.close()
        self._processes.append(process)
        self._sockets.append(socket.socket(fileno=os.dup(here.fileno())))
        here.close()
    self._threads = [threading.Thread(target=self._receive, args=(own,), daemon=True) for own in self._sockets]
    for thread in self._threads:
      thread.start()

  def take(self) -> Rendered:
    """Waits for a session. Raises DataError for a session that failed and for a process that ended, after which others
    may be there; EOFError once this is closed or no process is left."""
    while not self._closed.is_set():
      with contextlib.suppress(queue.Empty):
        found = self._ready.get(timeout=0.2)
        if isinstance(found, BaseException):
          raise found
        return found
      if not any(thread.is_alive() for thread in self._threads):
        break
    raise EOFError("closed" if self._closed.is_set() else "no process that renders is left")

  def close(self) -> None:
    """Ends the processes."""
    self._closed.set()
    for process in self._processes:
      process.terminate()
    for process in self._processes:
      process.join()
    for own in self._sockets:
      own.close()

  def _receive(self, own: socket.socket) -> None:
    """Takes what one process sends, until it ends."""
    try:
      while not self._closed.is_set():
        number, size, rest = HEADER.unpack(_exactly(own, HEADER.size).tobytes())
        body, head = _exactly(own, size), _exactly(own, rest)
        if number < 0:
          self._put(DataError(body.tobytes().decode()))
          continue
        self._put(
          Rendered(number, body.view(self.recorder.unit_dtype), head.view(self.recorder.session_dtype).reshape(()))
        )
    except (EOFError, OSError):
      self._put(DataError("a process that renders has ended, if no message says why, out of memory"))

  def _put(self, found: Rendered | BaseException) -> None:
    while not self._closed.is_set():
      with contextlib.suppress(queue.Full):
        self._ready.put(found, timeout=0.2)
        return

  def __enter__(self) -> "Renderer":
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
  """Processes that start meanwhile compute with one thread each, unless the environment says otherwise."""
  added = [name for name in THREADS if name not in os.environ]
  os.environ.update(dict.fromkeys(added, "1"))
  try:
    yield
  finally:
    for name in added:
      del os.environ[name]


def _exactly(own: socket.socket, size: int) -> np.ndarray:
  """The next `size` bytes, uint8. Raises EOFError where the other side has ended."""
  found = np.empty(size, np.uint8)
  view, done = found.data, 0
  while done < size:
    count = own.recv_into(view[done:])
    if not count:
      raise EOFError("the other side has ended")
    done += count
  return found


def _render(
  connection: multiprocessing.connection.Connection, recorder: Recorder, turn: int, workers: int
) -> None:  # fmt: skip
  """What a process does, until it is ended or nobody listens any more."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupts are left to the parent
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  os.nice(NICE)
  with socket.socket(fileno=os.dup(connection.fileno())) as out, contextlib.suppress(BrokenPipeError, ConnectionError):
    made = 0
    for number in itertools.count(turn, workers):
      try:
        _, units, fixed = recorder.record(number, tokenizer_of(recorder.config))
      except Exception as error:
        said = str(error) if isinstance(error, UserError) else one_line_with_type(error)
        message = f"session {number} cannot be rendered: {said}".encode()
        out.sendall(HEADER.pack(-1, len(message), 0) + message)
        if not made:
          return
        continue
      out.sendall(HEADER.pack(number, units.nbytes, fixed.nbytes))
      out.sendall(units.view(np.uint8).data)
      out.sendall(fixed.tobytes())
      made += 1
