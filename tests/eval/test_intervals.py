"""Means over kinds, and bootstrap intervals: exact values, and that sessions are what is drawn."""

import numpy as np
import pytest

from wanstreamer_jax.eval import intervals


def sessions(right: float, count: int = 40):
  rng = np.random.default_rng(0)
  return [{"answer": list((rng.random(10) < right).astype(float))} for _ in range(count)]


def test_each_kind_counts_the_same():
  parts = [{"answer/colour": [1.0] * 9, "answer/sum": [0.0], "answer/unseen": [0.0], "phrasing/new/sum": [0.0]}] * 6
  found = intervals.figures(parts)
  assert found["right_answers"] == {"mean": 0.5, "n": 60, "low": 0.5, "high": 0.5}
  assert found["phrasing/new"]["mean"] == 0.0


def test_the_interval_is_that_of_a_mean_over_sessions():
  found = intervals.figures(sessions(0.8))["answer"]
  error = 1.96 * np.std([np.mean(part["answer"]) for part in sessions(0.8)]) / np.sqrt(40)
  assert found["n"] == 400
  assert found["high"] - found["low"] == pytest.approx(2 * error, rel=0.1)
  assert found["low"] < found["mean"] < found["high"]
  assert found == intervals.figures(sessions(0.8))["answer"]  # seeded


def test_answers_of_one_user_are_not_independent():
  """Ten equal answers of each of eight users say as much as one answer of each."""
  once = [{"x": [float(i % 2)]} for i in range(8)]
  often = [{"x": part["x"] * 10} for part in once]
  first, second = intervals.figures(once)["x"], intervals.figures(often)["x"]
  assert (first["low"], first["high"]) == (second["low"], second["high"])


def test_few_sessions_and_no_values_have_no_interval():
  found = intervals.figures([{"x": [1.0], "y": [float("nan")]}] * 4)
  assert found["x"] == {"mean": 1.0, "n": 4}
  assert found["y"]["n"] == 0
  assert np.isnan(found["y"]["mean"])


def test_quantiles_of_latencies():
  parts = [{"stop_latency": [i / 10]} for i in range(1, 11)]
  found = intervals.figures(parts)["stop_latency"]
  assert (found["median"], found["p90"]) == (pytest.approx(0.55), 0.9)
  assert found["p90_low"] <= 0.9 <= found["p90_high"]
  assert intervals.quantiles(parts, "stop_latency", 0.5).value == 0.5


def test_differences_are_paired():
  """The same change of every user is certain, however different the users are."""
  clean = [{"x": [i / 10]} for i in range(10)]
  changed = [{"x": [i / 10 - 0.05]} for i in range(10)]
  found = intervals.differences(changed, clean)["x"]
  assert found == pytest.approx({"mean": -0.05, "low": -0.05, "high": -0.05})
  with pytest.raises(ValueError, match="expected the same users"):
    intervals.differences(changed[:3], clean)


def test_sessions_with_more_answers_weigh_more():
  """A draw divides by the answers that it has: what is always right has no spread, however often it was asked."""
  found = intervals.figures([{"x": [1.0] * count} for count in range(1, 9)])["x"]
  assert found == {"mean": 1.0, "n": 36, "low": 1.0, "high": 1.0}
