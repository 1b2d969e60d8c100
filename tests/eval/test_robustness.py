"""Users behind effects: how strong each is, that it goes on over units, and the table."""

import numpy as np
import pytest

from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.config import EvalConfig
from wanstreamer_jax.data.loudness import level
from wanstreamer_jax.data.session import World
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.eval import robustness, sections
from wanstreamer_jax.eval.scores import Script

SOUND = (0.1 * np.sin(np.arange(3840))).astype(np.float32)
VIDEO = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


class Plain:
  world = World({"name": "ada"})

  def step(self, audio):
    return SOUND, VIDEO, ["hello"]

  def script(self, units):
    return Script(interruptions=(float(units),))


def test_the_rest_of_the_user_is_unchanged():
  user = robustness.Changed(Plain(), robustness.gain(0))
  sound, video, typed = user.step(SOUND)
  assert level(sound) == pytest.approx(level(SOUND) - 20, abs=1e-3)
  assert (typed, user.world, user.script(5).interruptions) == (["hello"], Plain.world, (5.0,))
  assert np.array_equal(video, VIDEO)


def test_noise_has_its_level_whatever_the_speech_and_never_repeats_at_once():
  effect = robustness.noise(3)
  silence = np.zeros(3840 * 20, np.float32)
  first, second = (effect(silence, VIDEO)[0] for _ in range(2))
  assert level(first) == pytest.approx(-34, abs=1.5)
  assert not np.array_equal(first, second)
  assert np.array_equal(first, robustness.noise(3)(silence, VIDEO)[0])  # seeded


def test_blurred_pictures_have_less_detail():
  blurred = robustness.blur(0)(SOUND, VIDEO)[1]
  assert blurred.shape == VIDEO.shape
  assert np.abs(np.diff(blurred.astype(int), axis=2)).mean() < 0.4 * np.abs(np.diff(VIDEO.astype(int), axis=2)).mean()


def test_a_frame_that_does_not_arrive_is_the_one_before_even_from_another_unit():
  effect = robustness.frame_drops(1)
  shown = [
    np.full((4, 2, 2, 3), 4 * unit, np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None] for unit in range(50)
  ]
  numbers = np.concatenate([effect(SOUND, video)[1][:, 0, 0, 0] for video in shown]).astype(int)
  held = np.diff(numbers) == 0
  assert numbers[0] == 0
  assert (numbers <= np.arange(200)).all()
  assert (np.diff(numbers) >= 0).all()
  assert 0.35 < held.mean() < 0.65
  assert held[3::4].any()  # over the edge of a unit


def test_the_table_has_a_difference_for_every_change_and_says_what_is_missing(monkeypatch):
  """The command's work, with users and sessions that cost nothing."""
  asked = []

  def rollouts(engine_of, config, options, make_user, variant, progress):
    user, right = make_user(0), 1.0
    if isinstance(user, robustness.Changed):
      right = 0.0 if level(user.step(SOUND)[0]) < -30 else 0.5
    asked.append(variant)
    parts = [{"answer": [right], "answer/colour": [right]} for _ in range(options.sessions)]
    return type("Kept", (), {"scores": parts})

  def users(config, options):
    if config.data.voices == "espeak":
      raise ConfigError("espeak-ng is not installed")
    return None, lambda seed: Plain()

  monkeypatch.setattr(robustness, "rollouts", rollouts)
  monkeypatch.setattr(robustness, "duplex_world", users)
  agent = nano_agent("layout.window=3")
  found = robustness.evaluate_robustness(agent, EvalConfig(sessions=9, baseline_sessions=6, batch=2), progress=False)
  assert found["rows"]["gain -20 dB"]["difference"]["answer"] == {"mean": -1.0, "low": -1.0, "high": -1.0}
  assert asked[-3:] == ["metronome", "slow_metronome", "silent"]
  assert found["left_out"]["voices of espeak"] == "espeak-ng is not installed"
  lines = sections.lines([robustness.table(found)])
  assert "0% (-100 [-100, -100])" in next(line for line in lines if line.startswith("gain"))
  assert next(line for line in lines if line.startswith("clean")).split()[2] == "100%"
  assert "left out: voices of espeak: espeak-ng is not installed" in robustness.page(found)
