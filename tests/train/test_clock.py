"""Runs that end by the clock, and what a machine lacks: the schedule ends with the time, threads without Grain."""

import builtins
import itertools

import numpy as np
import pytest

from tests.helpers.toy_stage import ToyLoader, toy_config, toy_stage
from wanstreamer_jax.config import TrainConfig
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.train import loop
from wanstreamer_jax.train.clock import SAVE, Clock
from wanstreamer_jax.train.metric_log import read_metrics
from wanstreamer_jax.train.optim import learning_rate
from wanstreamer_jax.train.prefetch import Prefetcher, in_order
from wanstreamer_jax.weights.store import checkpoint_steps


class Hands:
  """A clock's time, moved by hand."""

  def __init__(self):
    self.seconds = 100.0

  def __call__(self):
    return self.seconds


def test_the_share_runs_from_the_first_update_to_the_end():
  now = Hands()
  clock = Clock(10, now)
  now.seconds += 120  # to compile
  assert (clock.share(), clock.left(), clock.over()) == (0.0, 480.0, False)
  now.seconds += 240
  assert clock.share() == 0.5
  now.seconds += 240
  assert (clock.share(), clock.left(), clock.over()) == (1.0, 0.0, True)


def test_it_saves_every_two_minutes():
  now = Hands()
  clock, due = Clock(8, now), []
  for _ in range(480):
    now.seconds += 1
    due.append(clock.save_due())
  assert np.flatnonzero(due).tolist() == [119, 239, 359, 479]
  assert SAVE == 120


def test_without_minutes_it_decides_nothing():
  now = Hands()
  clock = Clock(0, now)
  now.seconds += 1e6
  assert not clock.over()
  assert not clock.save_due()
  assert clock.arguments(make_mesh("data=1")) == ()


@pytest.mark.parametrize(("schedule", "expected"), [("cosine", [1, 0.55, 0.1]), ("wsd", [1, 1, 0.1])])
def test_a_schedule_by_the_clock(schedule, expected):
  train = TrainConfig(schedule=schedule, learning_rate=1.0, warmup=4, steps=2**30, decay=0.5, final_lr_scale=0.1)
  found = [float(learning_rate(train, 50, np.float32(share))) for share in (0, 0.5, 1)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert float(learning_rate(train, 0, np.float32(0))) == 0.25  # the warm-up goes by updates


def test_a_run_ends_with_the_clock_and_its_schedule(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(loop, "Clock", lambda minutes: Clock(minutes, itertools.count(0.0, 0.1).__next__))  # no real time
  config = toy_config(tmp_path / "run", steps=2**30, minutes=0.25, eval_every=0, learning_rate=1.0)
  state = loop.train(toy_stage(), config.freeze())
  lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
  rates = [line["learning_rate"] for line in lines]
  assert 10 < len(lines) < 150  # of 15 s, in which the clock is read several times an update
  assert checkpoint_steps(tmp_path / "run/checkpoints")[-1] == int(state.step) == len(lines)
  np.testing.assert_allclose(rates[-1], 0.05, rtol=0.2)  # final_lr_scale
  assert (np.diff(rates[2:]) <= 0).all()
  assert " s left" in capsys.readouterr().out
  loop.train(toy_stage(), config.freeze())  # goes on, with its whole time again
  assert checkpoint_steps(tmp_path / "run/checkpoints")[-1] > int(state.step)


def test_threads_of_our_own_keep_the_order(monkeypatch):
  real = builtins.__import__

  def without(name, *rest):
    if name == "grain":
      raise ModuleNotFoundError(name)
    return real(name, *rest)

  monkeypatch.setattr(builtins, "__import__", without)
  loader, mesh = ToyLoader(toy_config("unused").freeze()), make_mesh("data=1")
  with Prefetcher(loader, mesh, 3, 7) as batches:
    found = [int(batches.next()["step"][0]) for _ in range(4)]
    assert found == [3, 4, 5, 6]
    with pytest.raises(StopIteration):
      batches.next()


def test_an_error_comes_at_its_step():
  def place(step):
    if step == 2:
      raise ValueError("broken")
    return step

  batches = in_order(place, range(10), 2)
  assert [next(batches), next(batches)] == [0, 1]
  with pytest.raises(ValueError, match="broken"):
    next(batches)
