"""Engines that fail, cannot be reset, or are still at work: the hall says so, and goes on where that is possible."""

import asyncio
import time

import aiohttp
import pytest

from tests.helpers.live import Echo, hello, running, units, until
from wanstreamer_jax.serve import scheduler


class Defective(Echo):
  """Raises in the first `failures` units."""

  def __init__(self, failures):
    super().__init__()
    self.failures = failures

  def think(self, users, typed):
    self.failures -= 1
    if self.failures >= 0:
      raise RuntimeError("the device is lost")
    return super().think(users, typed)


def test_an_engine_that_fails_once_goes_on(caplog):
  async def talk():
    engine = Defective(1)
    async with running(engine) as (_, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      assert "start again" in (await until(first, "ended"))["message"]
      second, welcome = await hello(session, address)
      assert welcome["type"] == "welcome"
      assert len(await units(second, 2)) == 2
      assert engine.resets == 1

  asyncio.run(talk())
  assert "the device is lost" in caplog.text


def test_an_engine_that_fails_while_a_session_begins_goes_on():
  """All sessions may be gone with it: everybody is told, and the next visitor is served."""

  async def talk():
    engine = Echo()
    async with running(engine) as (_, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      await units(first, 1)
      second, _ = await hello(session, address, world={"fields": {"name": "unexpected"}})
      for socket in (first, second):
        assert "the server failed" in (await until(socket, "ended"))["message"]
      third, _ = await hello(session, address)
      assert len(await units(third, 2)) == 2
      assert engine.resets == 1

  asyncio.run(talk())


class Irreparable(Defective):
  """And cannot be reset, so many times."""

  def __init__(self, failures, unrepaired):
    super().__init__(failures)
    self.unrepaired = unrepaired

  def reset(self):
    super().reset()
    if self.resets <= self.unrepaired:
      raise RuntimeError("the device is still lost")


@pytest.mark.parametrize(("unrepaired", "status"), [(1, "ok"), (99, "broken")])
def test_an_engine_that_cannot_be_reset(unrepaired, status, tmp_path):
  """Is reset again, and when that does not help the server says so, and still goes down in good order."""

  async def talk():
    engine = Irreparable(1, unrepaired)
    async with running(engine, state=tmp_path / "state") as (server, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      await until(first, "ended")
      await asyncio.sleep(0.1)
      health = await session.get(f"{address}/healthz")
      assert (await health.json())["status"] == status
      second, said = await hello(session, address)
      if status == "ok":
        assert len(await units(second, 2)) == 2
        assert engine.resets == 2
      else:
        assert "broke" in said["message"]
        assert health.status == 503
        assert engine.resets == scheduler.MOST_FAILURES - 1
    with pytest.raises(RuntimeError, match="shutdown"):
      server.hall._thinker.submit(print)

  asyncio.run(talk())


class Overlapping(Echo):
  """Thinks a unit while the one before is still being answered, for long; notes what is under way."""

  overlaps = True

  def __init__(self, failing=0):
    super().__init__(slots=1)
    self.failing, self.thought, self.answered, self.answering, self.at_rest = failing, 0, 0, False, []

  def think(self, users, typed):
    self.thought += users[0] is not None
    if self.thought == self.failing:
      self.failing = 0
      raise RuntimeError("the device is lost")
    return super().think(users, typed)

  def perform(self, thought):
    self.answering = True
    time.sleep(0.2)  # longer than a unit
    self.answering = False
    self.answered += 1
    return super().perform(thought)

  def reset(self):
    self.at_rest.append(not self.answering)
    super().reset()

  def save(self, folder):
    self.at_rest.append(not self.answering)
    super().save(folder)


def test_what_is_saved_is_what_was_answered(tmp_path):
  async def talk():
    engine = Overlapping()
    async with running(engine, state=tmp_path / "state") as (server, address), aiohttp.ClientSession() as session:
      socket, _ = await hello(session, address)
      await units(socket, 2)
      (seat,) = server.hall.seats
    assert engine.thought == engine.answered == seat.unit >= 3
    assert engine.at_rest == [True]

  asyncio.run(talk())


def test_an_engine_is_reset_when_it_is_at_rest():
  async def talk():
    engine = Overlapping(failing=3)
    async with running(engine) as (_, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      await until(first, "ended")
      second, _ = await hello(session, address)
      assert len(await units(second, 1)) == 1
    assert engine.at_rest == [True]
    assert engine.answered == engine.thought - 1  # all but the one that failed

  asyncio.run(talk())


def test_an_engine_that_keeps_failing_is_said_to_be_broken():
  async def talk():
    async with running(Defective(99)) as (_, address), aiohttp.ClientSession() as session:
      for _ in range(scheduler.MOST_FAILURES):
        socket, _ = await hello(session, address)
        await until(socket, "ended")
      health = await session.get(f"{address}/healthz")
      assert (health.status, (await health.json())["status"]) == (503, "broken")
      _, refused = await hello(session, address)
      assert refused["type"] == "error"

  asyncio.run(talk())
