"""Voices of users and agents by engine, and coughs."""

import dataclasses

import numpy as np
import pytest

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world import espeak, flite, speech
from wanstreamer_jax.data.duplex_world.phones import PHONES
from wanstreamer_jax.data.duplex_world.speech import synthesise, timing
from wanstreamer_jax.data.duplex_world.voices import agent_voice, cough, engines_of, far_voice, user_voice
from wanstreamer_jax.data.duplex_world.world import WorldConfig, cast
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


def test_an_accent_is_the_same_everywhere_and_moves_vowels_only_so_far():
  voice = far_voice(np.random.default_rng(1))
  plain = dataclasses.replace(voice, accent=0)
  words = ["what", "colour", "is", "it", "please"]
  one, other, without = (synthesise(words, one, RATE, 4) for one in (voice, voice, plain))
  assert np.array_equal(one.audio, other.audio)
  assert [phone.name for phone in one.phones] == [phone.name for phone in without.phones]
  assert (one.phones, one.words) == (timing(words, voice, RATE, 4).phones, timing(words, voice, RATE, 4).words)
  assert one.phones != without.phones
  for name, spec in PHONES.items():
    for segment in spec.segments:
      moved = np.log(np.array(speech._accented(segment, name, voice.accent).formants) / segment.formants)
      assert np.abs(moved).max() < 0.4, name
      assert speech._accented(segment, name, voice.accent + 1) != speech._accented(segment, name, voice.accent)


@pytest.mark.parametrize("engines", [("formant",), ("flite",), ("formant", "flite"), ("formant", "espeak")])
def test_voices_far_from_the_usual_are_of_the_engines_and_keep_away_from_what_is_held_out(engines):
  """Pitches, flite's speaker "awb" and variants of espeak are for evaluation."""
  found = set()
  for seed in range(200):
    voice = far_voice(np.random.default_rng(seed), engines)
    found.add(voice.engine)
    if voice.engine == "formant":
      assert not 138 < voice.pitch < 152
    elif voice.engine == "flite":
      semitones = 12 * np.log2(voice.pitch / flite.SPEAKERS[voice.variant][0])
      assert voice.variant != "awb"
      assert not 2.0 < semitones < 3.5
    else:
      assert any(voice.variant in variants for variants in espeak.TRAINING)
  assert found == set(engines)


def test_only_training_has_users_far_from_the_usual():
  """All else of a session is the same with any share of them."""
  for split, expected in (("train", True), ("heldout", False)):
    far, usual = (cast(3, WorldConfig(size="full", accents=share), split) for share in (1.0, 0.0))
    assert (far.user.voice != usual.user.voice) == expected
    assert (far.scene.persona, far.agent.voice, far.user.seed) == (
      usual.scene.persona,
      usual.agent.voice,
      usual.user.seed,
    )
