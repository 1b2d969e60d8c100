"""The hall where visitors are served in lockstep: one clock, one engine step for all slots, joins and leaves between.

Every unit of the host's clock the inboxes of all seats are emptied into the engine, and what it answers goes to the
seats' outboxes. The engine works in a thread of its own; everything else happens in the event loop.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from wanstreamer_jax.data.media import MediaUnit
from wanstreamer_jax.engine.interface import SlotEngine, UnitOutput
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import UserError

BACK_WITHIN = 30.0  # seconds for which the place of somebody whose connection broke is kept
log = logging.getLogger("wanstreamer")
QUIET = 60.0  # seconds without a failure after which earlier ones are forgotten
MOST_FAILURES = 3  # of the engine in a row, after which the server counts as broken
LOST = 5  # units behind its clock after which the hall starts the clock anew instead of catching up


Input = tuple[MediaUnit, list[str], float | None]  # a unit, what was typed, when the unit's end was captured


class Source(Protocol):
  """Where the units of a visitor come from. All but `prepare` is called in the event loop."""

  def prepare(self) -> None:
    """What can be done before the next unit is due; in the thinker's thread."""
    ...

  def take(self, behind: int) -> Input:
    """The next unit, what was typed, and the capture time of the unit's end, if known.

    behind: units that will be taken at once after this one, since the hall is late.
    """
    ...

  def hear(self, audio: np.ndarray) -> None:
    """The agent's answer to the last unit: float32 [samples]."""
    ...


class Full(UserError):
  """All seats are taken; `retry_after` is a guess in seconds."""

  def __init__(self, retry_after: float):
    super().__init__(f"all places are taken; try again in {retry_after:.0f} s")
    self.retry_after = retry_after


@dataclasses.dataclass
class Served:
  """One unit of one visitor, as the outbox gets it."""

  unit: int
  answer: UnitOutput
  user: MediaUnit
  typed: list[str]
  heard: float | None  # capture time (the visitor's clock) of the end of the user's unit
  waited: float  # seconds from taking the unit to the answer
  late: bool


@dataclasses.dataclass
class Seat:
  """A visitor's place: a slot of the engine, where units come from, and where answers go."""

  slot: int
  token: str
  source: Source
  deliver: Callable[[Served], Any]
  failed: Callable[[str], Any]
  began: float
  unit: int = 0
  ready: bool = False  # the engine has begun its session
  away: float | None = None  # since when nobody is connected

  def leave_for_now(self) -> None:
    """The connection broke: what the agent says is lost until somebody is back."""
    self.deliver, self.failed, self.away = _nobody, _nobody, time.monotonic()


def _nobody(_: Any) -> None:
  pass


@dataclasses.dataclass
class Figures:
  """What happened since the start."""

  joined: int = 0
  refused: int = 0
  evicted: int = 0
  clock_restarts: int = 0


class Hall:
  """See the module. `async with Hall(engine) as hall` runs the clock."""

  def __init__(self, engine: SlotEngine, longest: float = 3600.0):
    self.engine, self.media, self.longest = engine, engine.media, longest
    self.seats: list[Seat | None] = [None] * engine.slots
    self.figures = Figures()
    self._joins: list[tuple[Seat, Request]] = []
    self._thinker, self._performer = (ThreadPoolExecutor(1, name) for name in ("thinker", "performer"))
    self._stopping = False
    self._task: asyncio.Task[None] | None = None

  async def __aenter__(self) -> "Hall":
    self._task = asyncio.create_task(self._run())
    return self

  async def __aexit__(self, *_: object) -> None:
    assert self._task is not None
    self._stopping = True  # after a whole unit, so that what is saved then is what was sent
    try:
      await self._task
    finally:
      self._thinker.shutdown()
      self._performer.shutdown()

  @property
  def broken(self) -> bool:
    """Whether the clock has stopped, for whatever reason: nobody will be served any more."""
    return self._task is not None and self._task.done()

  @property
  def free(self) -> int:
    return sum(seat is None for seat in self.seats)

  def join(
    self, request: Request, source: Source, deliver: Callable[[Served], Any], failed: Callable[[str], Any]
  ) -> Seat:
    """A seat from the next unit on. Raises Full."""
    slot = self.check_room()
    seat = Seat(slot, secrets.token_urlsafe(12), source, deliver, failed, time.monotonic())
    self.seats[slot] = seat
    self._joins.append((seat, request))
    self.figures.joined += 1
    return seat

  def check_room(self) -> int:
    """A free slot. Raises Full, or UserError when nobody can be served any more."""
    if self.broken:
      raise UserError("the server broke and has to be started again")
    slot = next((index for index, seat in enumerate(self.seats) if seat is None), None)
    if slot is None:
      self.figures.refused += 1
      free_at = min(self._until(seat) for seat in self.seats if seat is not None)
      raise Full(max(5.0, min(60.0, free_at - time.monotonic())))
    return slot

  def seat(self, token: str) -> Seat | None:
    """Whose session has that token."""
    taken = [seat for seat in self.seats if seat is not None]
    return next((seat for seat in taken if secrets.compare_digest(seat.token.encode(), token.encode())), None)

  def _until(self, seat: Seat) -> float:
    """When a seat is free at the latest."""
    latest = seat.began + self.longest
    return latest if seat.away is None else min(latest, seat.away + BACK_WITHIN)

  def come_back(self, token: str, deliver: Callable[[Served], Any], failed: Callable[[str], Any]) -> Seat:
    """The seat of that token, for somebody whose connection broke. Raises UserError."""
    seat = self.seat(token)
    if seat is None:
      raise UserError("that session is over; please start again")
    seat.failed("this conversation is continued in another window")
    seat.deliver, seat.failed, seat.away = deliver, failed, None
    self.seats[seat.slot] = seat
    return seat

  def resume(self, slot: int, token: str, unit: int, age: float, source: Source) -> None:
    """A seat of before a restart, whose session the engine has; its visitor is awaited."""
    seat = Seat(slot, token, source, _nobody, _nobody, time.monotonic() - age, unit, ready=True)
    seat.leave_for_now()
    self.seats[slot] = seat

  def leave(self, seat: Seat) -> None:
    """Gives the seat back; harmless when that has happened already."""
    if self.seats[seat.slot] is seat:
      self.seats[seat.slot] = None

  async def _run(self) -> None:
    """Until it is told to stop, or has failed too often."""
    loop, failures = asyncio.get_running_loop(), 0
    while not self._stopping and failures < MOST_FAILURES:
      begin = time.monotonic()
      try:
        if failures:
          await loop.run_in_executor(self._thinker, self.engine.reset)
        await self._serve()
      except Exception:  # a defect, or the device is lost: nobody may be left hanging
        log.exception("the engine failed")
        failures = failures + 1 if time.monotonic() - begin < QUIET else 1
        for seat in filter(None, list(self.seats)):
          self._evict(seat, "the server failed in the middle of this session; please start again")

  def _evict(self, seat: Seat, reason: str) -> None:
    """Ends one session; whatever that raises, the others go on."""
    self.figures.evicted += 1
    self.leave(seat)
    log.warning("evicted", extra={"slot": seat.slot})
    with contextlib.suppress(Exception):
      seat.failed(reason)

  def _each(self, seats: Sequence[Seat], what: Callable[[Seat], Any]) -> dict[int, Any]:
    """Results by slot; who raises is evicted."""
    found = {}
    for seat in seats:
      try:
        found[seat.slot] = what(seat)
      except Exception:
        log.exception("a session failed")
        self._evict(seat, "this session broke and was ended; please start again")
    return found

  async def _serve(self) -> None:
    """Unit after unit; leaves nothing under way, however it ends."""
    loop, unit_s = asyncio.get_running_loop(), self.media.unit_ms / 1000
    due = loop.time() + unit_s
    answering: asyncio.Task[None] | None = None  # the unit before, while this one is being thought
    try:
      while not self._stopping:
        joins = self._new_seats()
        if answering is not None and joins:
          await answering  # a slot changes hands between units
        for seat, reason in await loop.run_in_executor(self._thinker, self._prepare, joins):
          self._evict(seat, reason)
        await asyncio.sleep(max(0.0, due - loop.time()))
        taken = time.perf_counter()
        present = [seat for seat in self.seats if seat is not None and seat.ready]
        inputs = self._take(present, max(0, int((loop.time() - due) / unit_s)))
        present = [seat for seat in present if seat.slot in inputs]
        if present:
          thought = await loop.run_in_executor(self._thinker, self._think, inputs)
          if answering is not None:
            await answering
          answering = asyncio.create_task(self._answer(thought, present, inputs, taken, due + unit_s))
          if not self.engine.overlaps:
            await answering
        due += unit_s
        if loop.time() > due + LOST * unit_s:  # the machine slept, or is too slow: no endless hurry
          self.figures.clock_restarts += 1
          due = loop.time() + unit_s
    finally:
      if answering is not None:
        await answering  # what was thought is what was sent, and the engine is at rest

  def _take(self, present: list[Seat], behind: int) -> dict[int, Input]:
    return self._each(present, lambda seat: seat.source.take(behind))

  async def _answer(
    self, thought: Any, present: list[Seat], inputs: dict[int, Input], taken: float, late: float
  ) -> None:
    """Performs a unit and delivers it; `late` is when the loop's clock says that it is."""
    loop = asyncio.get_running_loop()
    answers = await loop.run_in_executor(self._performer, self.engine.perform, thought)
    self._deliver(present, inputs, answers, time.perf_counter() - taken, loop.time() > late)

  def _new_seats(self) -> list[tuple[Seat, Request]]:
    joins, self._joins = self._joins, []
    return [join for join in joins if self.seats[join[0].slot] is join[0]]

  def _prepare(self, joins: list[tuple[Seat, Request]]) -> list[tuple[Seat, str]]:
    """In the thinker's thread, while the next unit is awaited. Returns who cannot go on, and why."""
    failed = []
    for seat, request in joins:
      try:
        self.engine.join(seat.slot, request)
        seat.ready = True
      except UserError as error:
        failed.append((seat, str(error)))
    self.engine.commit()
    for place in filter(None, list(self.seats)):
      try:
        place.source.prepare()
      except Exception:
        log.exception("a session failed")
        failed.append((place, "this session broke and was ended; please start again"))
    return failed

  def _think(self, inputs: dict[int, Input]) -> Any:
    """In the thinker's thread."""
    users = [inputs[slot][0] if slot in inputs else None for slot in range(self.engine.slots)]
    typed = [inputs[slot][1] if slot in inputs else [] for slot in range(self.engine.slots)]
    return self.engine.think(users, typed)

  def _deliver(self, present: list[Seat], inputs: dict[int, Input], answers: list[UnitOutput | None], waited: float,
               late: bool) -> None:  # fmt: skip
    def one(seat: Seat) -> None:
      answer = answers[seat.slot]
      if answer is None or not np.isfinite(answer.audio).all():
        self._evict(seat, "this session broke and was ended; please start again")
        return
      user, typed, heard = inputs[seat.slot]
      seat.source.hear(answer.audio)
      seat.deliver(Served(seat.unit, answer, user, typed, heard, waited, late))
      seat.unit += 1
      if time.monotonic() > self._until(seat):
        self.leave(seat)
        seat.failed("the longest session of this server is over; please start again")

    self._each([seat for seat in present if self.seats[seat.slot] is seat], one)  # the others left meanwhile
