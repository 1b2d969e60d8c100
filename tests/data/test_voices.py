"""Voices of users and agents by engine, and coughs."""

import numpy as np
import pytest

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.speech import synthesise
from wanstreamer_jax.data.duplex_world.voices import agent_voice, cough, engines_of, user_voice
from wanstreamer_jax.data.duplex_world.world import WorldConfig
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


def test_a_world_is_the_same_but_for_its_voices():
  """Agents may have engines of their own; what is drawn after their voice does not depend on them."""
  one, other = (np.random.default_rng(7) for _ in range(2))
  agent_voice(one, False, ("formant",))
  agent_voice(other, False, ("espeak",))
  assert one.random() == other.random()


def test_engines_of_agents_are_checked_too():
  config = Config()
  config.data.agent_voices = "festival"
  with pytest.raises(ConfigError, match=r"data\.agent_voices is 'festival': expected engines once each"):
    config.freeze()
  with pytest.raises(ConfigError, match="voices is 'festival'"):
    WorldConfig(agent_voices="festival")
