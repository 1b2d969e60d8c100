"""Long sessions minute by minute: what each minute is given, drift, the table and the picture."""

import numpy as np
import pytest

from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.config import EvalConfig, MediaConfig
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.eval import by_minute, sections
from wanstreamer_jax.eval.answers import Question
from wanstreamer_jax.eval.scores import Script
from wanstreamer_jax.eval.turns import Opportunity

MEDIA = MediaConfig(height=32, width=32)
UNITS = 375  # a minute


def watched(minutes: float = 2.5):
  """A second of sound every ten, twice as loud in the second minute, in which the face changes too."""
  portrait = np.full((32, 32, 3), 100, np.uint8)
  session = by_minute.Watched(MEDIA, portrait)
  for unit in range(round(minutes * UNITS)):
    second = unit >= UNITS
    loud = unit % 62 < 6
    audio = (0.2 * (1 + second) * loud * np.sin(np.arange(MEDIA.samples))).astype(np.float32)
    video = np.full((MEDIA.frames, 32, 32, 3), 100 + 50 * second, np.uint8)
    session.add(audio, video, np.zeros(2, np.int32))
  session.close()
  return session


def test_every_minute_has_its_own_figures():
  session = watched()
  assert len(session.minutes) == 3
  levels = [minute["level"][0] for minute in session.minutes]
  assert levels[1] - levels[0] == pytest.approx(6.02, abs=0.1)
  faces = [minute["face"][0] for minute in session.minutes]
  assert faces[0] == 0
  assert faces[1] == faces[2] == pytest.approx(50 / 255)
  assert session.minutes[0]["detail"] == [0.0]


def test_speech_goes_on_over_the_edge_of_a_minute():
  session = by_minute.Watched(MEDIA, None)
  for unit in range(2 * UNITS):
    loud = UNITS - 5 <= unit < UNITS + 5
    audio = (0.2 * loud * np.sin(np.arange(MEDIA.samples))).astype(np.float32)
    session.add(audio, np.zeros((MEDIA.frames, 32, 32, 3), np.uint8), np.zeros(2, np.int32))
  assert session.speech() == pytest.approx(np.array([[59.2, 60.8]]))


def test_a_script_is_cut_by_when_things_begin():
  script = Script(
    (Question("a", 59.0, 70.0), Question("b", 61.0, 70.0)),
    ((58.0, 61.0),), (59.5, 60.0), (Opportunity("hand_off", 60.0, 64.0),), ((1.0, 2.0), (62.0, 63.0)),
  )  # fmt: skip
  first, second = by_minute.part_of(script, 0.0, 60.0), by_minute.part_of(script, 60.0, 120.0)
  assert [q.kind for q in first.questions] == ["a"]
  assert [q.kind for q in second.questions] == ["b"]
  assert (first.pauses, second.pauses) == (((58.0, 61.0),), ())
  assert (first.interruptions, second.interruptions) == ((59.5,), (60.0,))
  assert (len(first.opportunities), len(second.opportunities)) == (0, 1)


def test_drift_is_the_last_quarter_minus_the_first():
  sessions = [[{"level": [-20.0 - minute + user]} for minute in range(8)] for user in range(6)]
  assert by_minute.drift(sessions)["level"] == pytest.approx({"mean": -6.0, "low": -6.0, "high": -6.0})
  assert by_minute.drift([[{"level": [1.0]}]]) == {}


def test_two_minutes_of_a_nano_agent(tmp_path, monkeypatch):
  """The whole way with random weights; minutes of 2 s."""
  monkeypatch.setattr(by_minute, "MINUTE", 1.92)
  agent = nano_agent("layout.window=3", "layout.world_text=16", "data.units=4")
  found = by_minute.evaluate_by_minute(agent, EvalConfig(batch=2), 2, 2, progress=False)
  assert list(found["variants"]) == ["model", "metronome"]
  assert [len(variant["minutes"]) for variant in found["variants"].values()] == [2, 2]
  assert all(minute["face"]["n"] == 2 for minute in found["variants"]["model"]["minutes"])
  assert found["variants"]["metronome"]["drift"]["face"]["mean"] == 0.0
  lines = sections.lines([by_minute.table(found)])
  assert [line.split()[0] for line in lines] == ["By", "1", "2", "drift"]
  assert "## By minute, metronome" in by_minute.page(found)
  by_minute.draw(tmp_path / "minutes.png", found)
  assert (tmp_path / "minutes.png").stat().st_size > 20_000
  with pytest.raises(ConfigError, match="expected at least 2"):
    by_minute.evaluate_by_minute(agent, EvalConfig(), 1, 2)


def test_many_minutes_are_joined_into_a_dozen_rows():
  minute = {"answer": {"mean": 0.5, "n": 2}, "level": {"mean": -20.0, "n": 1}}
  figures = {"variants": {"model": {"minutes": [minute] * 60, "drift": {}}}}
  rows = by_minute.table(figures).rows
  assert [row[0] for row in rows] == [*(f"{i} to {i + 4}" for i in range(1, 61, 5)), "drift"]
  assert rows[0][1] == "50%"
