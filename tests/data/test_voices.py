"""Voices of users and agents by engine, and coughs."""

import numpy as np
import pytest

from wanstreamer_jax.data.duplex_world.speech import synthesise
from wanstreamer_jax.data.duplex_world.voices import agent_voice, cough, engines_of, user_voice
from wanstreamer_jax.errors import ConfigError

RATE = 24_000


def test_a_list_of_engines_is_read():
  assert engines_of("formant") == ("formant",)
  with pytest.raises(ConfigError, match="voices is 'festival'"):
    engines_of("festival")


def test_voices_are_drawn_by_the_generator_alone():
  for draw in (user_voice, agent_voice):
    one, other = (draw(np.random.default_rng(3), False, ("formant",)) for _ in range(2))
    assert one == other != draw(np.random.default_rng(4), False, ("formant",))
    assert np.abs(synthesise(["hello"], one, RATE).audio).max() > 0.1


def test_a_cough_repeats_and_is_short_and_loud():
  one, other = (cough(RATE, np.random.default_rng(5)) for _ in range(2))
  assert one.dtype == np.float32
  assert np.array_equal(one, other)
  for seed in range(20):
    audio = cough(RATE, np.random.default_rng(seed))
    assert 0.1 * RATE < len(audio) < 1.3 * RATE
    assert 0.2 < np.abs(audio).max() <= 0.6
