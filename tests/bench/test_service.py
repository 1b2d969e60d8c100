"""`bench serve`: clients on real sockets, and the trace of what ran when. The engine is one that echoes."""

import asyncio
import json

import pytest

from tests.helpers.live import Echo
from wanstreamer_jax.bench import service
from wanstreamer_jax.bench.trace import write_trace
from wanstreamer_jax.engine.interface import PHASES


def test_clients_are_served_or_refused_and_their_latencies_measured(monkeypatch):
  monkeypatch.setattr(service, "WARM_UP_SECONDS", 0.3)
  results = asyncio.run(service._load(Echo(slots=2), 3, 2.5))
  served, refused = [r for r in results if r.units], [r for r in results if r.refused]
  assert (len(served), len(refused)) == (2, 1)
  assert "all slots are taken" in refused[0].refused
  for result in served:
    assert result.ended == ""
    assert 10 <= len(result.units) <= 15  # of 160 ms, in 2.2 s
    assert all(list(unit.times) == list(PHASES) for unit in result.units)
    assert all(0 < arrived - captured < 1 for captured, arrived in result.answers())
    assert len(result.answers()) == len(result.units)


class Failing(Echo):
  """Raises in its tenth unit."""

  count = 0

  def think(self, users, typed):
    self.count += 1
    if self.count == 10:
      raise RuntimeError("the device is lost")
    return super().think(users, typed)


def test_a_session_that_ends_early_is_reported(monkeypatch):
  monkeypatch.setattr(service, "WARM_UP_SECONDS", 0.0)
  (result,) = asyncio.run(service._load(Failing(slots=1), 1, 4))
  assert result.units
  assert "the server failed during this session" in result.ended


def test_a_trace_names_who_ran_what_when(tmp_path):
  spans = [(phase, 0.01 * index, 0.01 * index + 0.008) for index, phase in enumerate(PHASES)]
  write_trace(tmp_path / "trace", spans, [(0.16, 0.2), (0.32, 0.37)], 0.16)
  events = json.loads((tmp_path / "trace" / "trace.json").read_text())["traceEvents"]
  assert {event["tid"] for event in events} == {"thinker", "performer", "user", "client"}
  assert [event["tid"] for event in events if event["name"] == "perform"] == ["performer"]
  (answer,) = [event for event in events if event["name"] == "answer 1"]
  assert (round(answer["ts"]), round(answer["dur"])) == (320_000, pytest.approx(50_000, abs=1))
  assert (tmp_path / "trace" / "trace.png").stat().st_size > 1000
