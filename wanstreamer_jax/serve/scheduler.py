"""The scheduler: one clock and one engine step for all slots. Sessions join and leave between units.

Once per unit of the host's clock it takes one unit of user input from every session, steps the engine, and hands the
results to the sessions' listeners.

Threads: everything here runs in the event loop, except the engine's calls and `UnitSource.prepare`. Those run in two
threads of their own, `thinker` and `performer`, one call at a time each. Only the event loop adds and removes slots.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from wanstreamer_jax.data.media import MediaUnit
from wanstreamer_jax.engine.interface import SlotEngine, UnitOutput
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.serve.unit_source import UnitSource, UserInput

RECONNECT_SECONDS = 30.0  # for which a session waits for a client whose connection broke
FAILURE_MEMORY_SECONDS = 60.0  # without a failure, after which earlier ones no longer count
MAX_FAILURES = 3  # of the engine in a row, after which the server counts as broken
MAX_UNITS_BEHIND = 5  # after which the clock is restarted instead of catching up
SESSION_FAILED = "this session failed and was ended; please start again"
log = logging.getLogger("wanstreamer")


@dataclasses.dataclass
class UnitResult:
  """One unit of one session, as its listener gets it."""

  unit: int
  output: UnitOutput
  user: MediaUnit
  typed: list[str]
  captured: float | None  # capture time of the end of the user's unit, on the client's clock
  waited: float  # seconds from taking the user's unit to its answer
  late: bool  # whether the answer came after the next unit was due


class Listener(Protocol):
  """Who receives a session's results. Called in the event loop; must not wait."""

  def deliver(self, result: UnitResult) -> None: ...

  def end(self, reason: str) -> None:
    """The session is over, for a reason that people can read."""
    ...


@dataclasses.dataclass
class Slot:
  """One session in one slot of the engine: where its units come from and where results go."""

  index: int
  token: str
  source: UnitSource
  listener: Listener | None  # None while nobody is connected: results are dropped
  started: float  # time.monotonic()
  unit: int = 0
  ready: bool = False  # the engine has begun the session
  disconnected: float | None = None  # time.monotonic() since when nobody is connected

  def disconnect(self) -> None:
    """The connection broke: the session goes on without a listener until somebody reconnects."""
    self.listener, self.disconnected = None, time.monotonic()


class NoFreeSlot(UserError):
  """All slots are taken; `retry_after` is an estimate in seconds."""

  def __init__(self, retry_after: float):
    super().__init__(f"all slots are taken; try again in {retry_after:.0f} s")
    self.retry_after = retry_after


@dataclasses.dataclass
class Counts:
  """What happened since the start."""

  joined: int = 0
  refused: int = 0
  evicted: int = 0
  clock_restarts: int = 0


class Scheduler:
  """See the module. `async with Scheduler(engine) as scheduler` runs the clock.

  max_seconds: how long a session may last.
  """

  def __init__(self, engine: SlotEngine, max_seconds: float = 3600.0):
    self.engine, self.media, self.max_seconds = engine, engine.media, max_seconds
    self.slots: list[Slot | None] = [None] * engine.slots
    self.counts = Counts()
    self._joins: list[tuple[Slot, Request]] = []  # sessions that the engine has not begun yet
    self._thinker, self._performer = (ThreadPoolExecutor(1, name) for name in ("thinker", "performer"))
    self._stopping = False
    self._task: asyncio.Task[None] | None = None

  async def __aenter__(self) -> "Scheduler":
    self._task = asyncio.create_task(self._run())
    return self

  async def __aexit__(self, *_: object) -> None:
    assert self._task is not None
    self._stopping = True  # takes effect after a whole unit, so that what is saved afterwards is what was sent
    try:
      await self._task
    finally:
      self._thinker.shutdown()
      self._performer.shutdown()

  @property
  def broken(self) -> bool:
    """Whether the clock has stopped for any reason: no session will be served any more."""
    return self._task is not None and self._task.done()

  @property
  def free(self) -> int:
    """How many slots are free."""
    return sum(slot is None for slot in self.slots)

  def taken(self) -> list[Slot]:
    """All sessions, in the order of their slots."""
    return [slot for slot in self.slots if slot is not None]

  # Sessions come and go. All of this is called in the event loop.

  def join(self, request: Request, source: UnitSource, listener: Listener) -> Slot:
    """Begins a session at the next unit. Raises NoFreeSlot."""
    slot = Slot(self.find_free(), secrets.token_urlsafe(12), source, listener, time.monotonic())
    self.slots[slot.index] = slot
    self._joins.append((slot, request))
    self.counts.joined += 1
    return slot

  def find_free(self) -> int:
    """The index of a free slot. Raises NoFreeSlot, or UserError when the engine is broken."""
    if self.broken:
      raise UserError("the server failed and must be restarted")
    index = next((index for index, slot in enumerate(self.slots) if slot is None), None)
    if index is None:
      self.counts.refused += 1
      free_at = min(map(self._expires, self.taken()))
      raise NoFreeSlot(max(5.0, min(60.0, free_at - time.monotonic())))
    return index

  def find(self, token: str) -> Slot | None:
    """The session with this token."""
    return next((slot for slot in self.taken() if secrets.compare_digest(slot.token.encode(), token.encode())), None)

  def reconnect(self, token: str, listener: Listener) -> Slot:
    """Continues the session of this token with another listener. Raises UserError."""
    slot = self.find(token)
    if slot is None:
      raise UserError("that session is over; please start again")
    if slot.listener is not None:
      slot.listener.end("this conversation is continued in another window")
    slot.listener, slot.disconnected = listener, None
    self.slots[slot.index] = slot  # the old listener's `end` may have freed it
    return slot

  def resume(self, index: int, token: str, unit: int, age: float, source: UnitSource) -> None:
    """Takes up a session from before a restart, which the engine already holds; its client may reconnect.

    age: seconds that the session had lasted.
    """
    slot = Slot(index, token, source, None, time.monotonic() - age, unit, ready=True)
    slot.disconnect()
    self.slots[index] = slot

  def leave(self, slot: Slot) -> None:
    """Frees the slot. Does nothing when it is free or has another session already."""
    if self.slots[slot.index] is slot:
      self.slots[slot.index] = None

  def _expires(self, slot: Slot) -> float:
    """When the session ends at the latest (time.monotonic())."""
    latest = slot.started + self.max_seconds
    return latest if slot.disconnected is None else min(latest, slot.disconnected + RECONNECT_SECONDS)

  # The clock

  async def _run(self) -> None:
    """Serves until it is told to stop or the engine has failed too often in a row."""
    loop, failures = asyncio.get_running_loop(), 0
    while not self._stopping and failures < MAX_FAILURES:
      begin = time.monotonic()
      try:
        if failures:
          await loop.run_in_executor(self._thinker, self.engine.reset)
        await self._serve()
      except Exception:  # a bug, or the device is lost: end every session rather than leave clients waiting
        log.exception("the engine failed")
        failures = failures + 1 if time.monotonic() - begin < FAILURE_MEMORY_SECONDS else 1
        for slot in self.taken():
          self._evict(slot, "the server failed during this session; please start again")

  async def _serve(self) -> None:
    """Unit after unit. However it ends, no engine call is under way afterwards.

    With an engine that overlaps, unit n is performed (task `performing`) while unit n + 1 is thought; never more than
    these two are under way.
    """
    loop, unit_s = asyncio.get_running_loop(), self.media.unit_ms / 1000
    due = loop.time() + unit_s
    performing: asyncio.Task[None] | None = None
    try:
      while not self._stopping:
        joins = self._pending_joins()
        if performing is not None and joins:
          await performing  # a slot changes hands between units only
        await self._prepare(joins)
        await asyncio.sleep(max(0.0, due - loop.time()))
        began = time.perf_counter()
        inputs = self._take_inputs(behind=max(0, int((loop.time() - due) / unit_s)))
        if inputs:
          thought = await loop.run_in_executor(self._thinker, self._think, inputs)
          if performing is not None:
            await performing
          performing = asyncio.create_task(self._perform(thought, inputs, began, due + unit_s))
          if not self.engine.overlaps:
            await performing
        due = self._next_due(due + unit_s, loop.time())
    finally:
      if performing is not None:
        await performing  # every unit that was thought is also sent, and the engine is idle

  def _next_due(self, due: float, now: float) -> float:
    """When the next unit is due. After a long stall the clock starts anew instead of rushing through the backlog."""
    unit_s = self.media.unit_ms / 1000
    if now <= due + MAX_UNITS_BEHIND * unit_s:
      return due
    self.counts.clock_restarts += 1
    return now + unit_s

  def _pending_joins(self) -> list[tuple[Slot, Request]]:
    """Sessions for the engine to begin, without those that have left already."""
    joins, self._joins = self._joins, []
    return [(slot, request) for slot, request in joins if self.slots[slot.index] is slot]

  async def _prepare(self, joins: list[tuple[Slot, Request]]) -> None:
    """Everything that can be done before the next unit is due."""
    loop = asyncio.get_running_loop()
    for slot, reason in await loop.run_in_executor(self._thinker, self._prepare_engine, joins, self.taken()):
      self._evict(slot, reason)

  def _prepare_engine(self, joins: list[tuple[Slot, Request]], slots: list[Slot]) -> list[tuple[Slot, str]]:
    """Begins sessions, commits, prepares the users' next units. Returns (who failed, why).

    In the thinker thread. Meanwhile the event loop takes no input; it may only add and free slots.
    """
    failed = []
    for slot, request in joins:
      try:
        self.engine.join(slot.index, request)
        slot.ready = True
      except UserError as error:
        failed.append((slot, str(error)))
    self.engine.commit()
    for slot in slots:
      try:
        slot.source.prepare()
      except Exception:
        log.exception("a session failed")
        failed.append((slot, SESSION_FAILED))
    return failed

  def _take_inputs(self, behind: int) -> dict[int, tuple[Slot, UserInput]]:
    """One unit of every session that has begun, by slot index."""
    inputs = {}
    for slot in self.taken():
      if slot.ready:
        with self._evicting(slot):
          inputs[slot.index] = slot, slot.source.take(behind)
    return inputs

  def _think(self, inputs: dict[int, tuple[Slot, UserInput]]) -> Any:
    """In the thinker thread."""
    users: list[MediaUnit | None] = [None] * self.engine.slots
    typed: list[list[str]] = [[] for _ in users]
    for index, (_, given) in inputs.items():
      users[index], typed[index] = given.unit, given.typed
    return self.engine.think(users, typed)

  async def _perform(
    self, thought: Any, inputs: dict[int, tuple[Slot, UserInput]], began: float, deadline: float
  ) -> None:
    """Performs and delivers a unit taken at `began` (perf_counter); it is late after `deadline` (the loop's clock)."""
    loop = asyncio.get_running_loop()
    outputs = await loop.run_in_executor(self._performer, self.engine.perform, thought)
    waited, late = time.perf_counter() - began, loop.time() > deadline
    for index, (slot, given) in inputs.items():
      if self.slots[index] is slot:  # else the session has left meanwhile
        with self._evicting(slot):
          self._deliver(slot, given, outputs[index], waited, late)

  def _deliver(self, slot: Slot, given: UserInput, output: UnitOutput | None, waited: float, late: bool) -> None:
    """Hands one session its unit, and ends the session when its time is over."""
    if output is None or not np.isfinite(output.audio).all():
      self._evict(slot, SESSION_FAILED)
      return
    slot.source.observe_agent(output.audio)
    if slot.listener is not None:
      result = UnitResult(slot.unit, output, given.unit, given.typed, given.captured, waited, late)
      slot.listener.deliver(result)
    slot.unit += 1
    if time.monotonic() > self._expires(slot):
      self.leave(slot)
      if slot.listener is not None:
        slot.listener.end("this session has reached the server's time limit; please start again")

  # Failures

  @contextlib.contextmanager
  def _evicting(self, slot: Slot) -> Iterator[None]:
    """An error within ends this one session; the others go on."""
    try:
      yield
    except Exception:
      log.exception("a session failed")
      self._evict(slot, SESSION_FAILED)

  def _evict(self, slot: Slot, reason: str) -> None:
    """Ends one session, even if its listener raises."""
    self.counts.evicted += 1
    self.leave(slot)
    log.warning("evicted", extra={"slot": slot.index})
    with contextlib.suppress(Exception):
      if slot.listener is not None:
        slot.listener.end(reason)
