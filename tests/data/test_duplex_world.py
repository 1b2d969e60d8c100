"""duplex_world: a pure function of the seed, with ground truth that agrees with its media."""

import dataclasses
import functools

import numpy as np
import pytest

from wanstreamer_jax.data.duplex_world.faces import draw, random_look, still_tracks
from wanstreamer_jax.data.duplex_world.speech import synthesise
from wanstreamer_jax.data.duplex_world.things import SHAPES, Held, Raised
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.duplex_world.voices import user_voice
from wanstreamer_jax.data.duplex_world.world import WorldConfig, cast, make_session, microphone, vocabulary
from wanstreamer_jax.errors import ConfigError

CONFIG = WorldConfig(units=100)


@functools.cache
def session(seed: int, split: str = "train", **changes):
  return make_session(seed, WorldConfig(**({"units": 100} | changes)), split)


def play(seed: int, split: str = "train"):
  """A session whose pictures are too small to cost anything: for its events and sounds."""
  return session(seed, split, height=8, width=8)


def events(s, *kinds):
  return [event for event in s.events if event.kind in kinds]


def test_a_session_is_a_pure_function_of_its_seed():
  again = make_session(3, CONFIG)
  first = session(3)
  assert np.array_equal(first.user.video, again.user.video)
  assert np.array_equal(first.user.audio, again.user.audio)
  assert np.array_equal(first.agent.audio, again.agent.audio)
  assert first.events == again.events
  assert not np.array_equal(first.user.audio, session(4).user.audio)


def test_every_stream_is_exactly_as_long_as_the_session():
  s = session(3)
  for side in (s.user, s.agent):
    assert side.video.shape == (400, 64, 64, 3)
    assert side.video.dtype == np.uint8
    assert side.audio.shape == (384_000,)
    assert np.abs(side.audio).max() <= 1
    assert all(track.shape == (400,) for track in side.tracks.values())


def test_all_acts_occur_and_every_question_has_its_answer():
  sessions = [play(seed) for seed in range(24)]
  acts = {event.detail["act"] for s in sessions for event in events(s, "question")}
  wanted = {"colour", "shape", "count", "name", "home", "likes", "sum", "repeat", "greet", "remark", "counting"}
  assert wanted <= acts
  kinds = {event.kind for s in sessions for event in s.events}
  assert {"pause", "interrupt", "stopped", "backchannel", "statement", "raise"} <= kinds
  for s in sessions:
    for event in events(s, "answer"):
      asked = [q for q in events(s, "question") if q.detail["act"] == event.detail["act"] and q.end <= event.start]
      assert asked
      assert f" {asked[-1].detail['answer']} " in f" {event.detail['text']} "
      assert event.start - asked[-1].end < 0.7


def test_the_agent_never_starts_inside_a_pause():
  for seed in range(12):
    s = play(seed)
    for pause in events(s, "pause"):
      assert not any(pause.start <= event.start < pause.end for event in events(s, "answer"))


def test_words_are_written_before_they_sound_and_an_interruption_leaves_a_cut():
  stopped = 0
  for seed in range(12):
    s = play(seed)
    for word in s.agent.words:
      if word.voiced:
        assert word.start - word.written >= 0.16 - 1e-6  # text_lead is one unit
    for event in events(s, "stopped"):
      stopped += 1
      cut = [word for word in s.agent.words if word.text == "<cut>" and word.written == event.start]
      assert len(cut) == 1
      unvoiced = [w for w in s.agent.words if not w.voiced and w.written < event.start <= w.start]
      assert all(word.start >= event.start for word in unvoiced)
      after = s.agent.audio[round((event.start + 0.05) * 24_000) : round((event.start + 0.3) * 24_000)]
      assert not len(after) or np.abs(after).max() < 1e-3
  assert stopped


def test_the_mouth_follows_the_voice():
  s = session(3)
  loud = np.sqrt(np.mean(s.agent.audio.reshape(400, 960) ** 2, axis=1))
  mouth = s.agent.tracks["mouth"]
  assert np.corrcoef(loud, mouth)[0, 1] > 0.6
  assert mouth[loud < 1e-4].max() < 0.9
  assert mouth[s.agent.tracks["speaking"] == 0].mean() < 0.05


def test_held_out_users_have_voices_that_training_never_has():
  rng = np.random.default_rng(0)
  assert all(138 <= user_voice(rng, True).pitch <= 152 for _ in range(50))
  assert not any(138 <= user_voice(rng, False).pitch <= 152 for _ in range(200))


def test_echo_comes_later_than_a_unit():
  config = WorldConfig()
  for seed in range(12):
    players = dataclasses.replace(cast(seed, config, "train"), echo_gain=1.0, noise=0.0)
    click = np.zeros(4 * config.samples, np.float32)
    click[5] = 1.0
    silence = np.zeros(config.samples, np.float32)
    pick_up = lambda unit: microphone(silence, click[: unit * config.samples], unit * config.samples, players)  # noqa: B023
    heard = np.concatenate([pick_up(unit) for unit in range(4)])
    assert np.flatnonzero(heard).tolist() == [5 + players.echo_delay]
    assert players.echo_delay > config.samples


@pytest.mark.parametrize("shape", SHAPES)
def test_objects_cover_their_colour(shape):
  look = random_look(np.random.default_rng(0))
  tracks = still_tracks(1)
  with_it = draw(look, tracks, [[Raised(Held(shape, "red"), "right", 1.0)]])[0].astype(int)
  without = draw(look, still_tracks(1), [[]])[0].astype(int)
  red = (with_it[..., 0] > 180) & (with_it[..., 1] < 90) & (with_it[..., 2] < 90)
  assert 60 < red.sum() < 600
  assert np.abs(with_it - without).max() > 100


def test_pictures_have_any_size():
  assert draw(random_look(np.random.default_rng(1)), still_tracks(3), [[]] * 3, 192, 336).shape == (3, 192, 336, 3)


def test_a_voiced_vowel_has_the_pitch_and_the_formants_of_its_voice():
  audio = synthesise(["ah", "ah", "ah"], Voice("v", pitch=120.0, liveliness=0.0), 24_000).audio
  middle = audio[len(audio) // 3 : len(audio) // 3 + 4096]
  correlation = np.correlate(middle, middle, "full")[4095:]
  period = 120 + np.argmax(correlation[120:400])
  assert 24_000 / period == pytest.approx(120, rel=0.12)
  spectrum = np.abs(np.fft.rfft(middle * np.hanning(4096)))
  low, high = spectrum[: round(1500 / 5.86)].sum(), spectrum[round(4000 / 5.86) :].sum()
  assert low > 3 * high  # a vowel's energy lies below 1.5 kHz


def test_the_vocabulary_holds_every_word_that_is_said():
  words = set(vocabulary())
  for seed in range(6):
    s = session(seed, "heldout" if seed % 2 else "train", size="full")
    said = {word.text for side in (s.user, s.agent) for word in (*side.words, *side.speech)}
    assert said - {"<cut>", ","} <= words


@pytest.mark.parametrize(("field", "value"), [("size", "huge"), ("text_lead", 9)])
def test_bad_configs_are_refused(field, value):
  with pytest.raises(ConfigError, match="expected"):
    WorldConfig(**{field: value})


def test_with_the_cameras_off_nothing_is_asked_that_must_be_seen():
  changes = {"size": "full", "units": 250, "height": 8, "width": 8}
  off, on = (session(5, camera_off=share, **changes) for share in (1.0, 0.0))
  assert off.user.video is off.agent.video is None
  assert off.user.audio.shape == on.user.audio.shape
  assert off.world.fields == on.world.fields
  kinds = {event.kind for seed in range(5, 9) for event in session(seed, camera_off=1.0, **changes).events}
  assert "question" in kinds
  assert not kinds & {"raise", "gesture"}
  assert {"raise", "gesture"} & {event.kind for event in on.events}
  half = [session(seed, camera_off=0.5, **(changes | {"units": 20})).user.video is None for seed in range(40)]
  assert 10 < sum(half) < 30
  assert session(5, "heldout", camera_off=1.0, **changes).user.video is not None


def test_where_the_agent_is_not_seen_the_user_is_the_same_at_half_the_rate():
  changes = {"size": "full", "units": 25, "height": 16, "width": 16}
  alone, both = (session(5, agent_unseen=share, **changes) for share in (1.0, 0.0))
  assert alone.agent.video is None
  assert both.agent.video is not None
  np.testing.assert_array_equal(alone.user.video[::2], both.user.video[::2])
  np.testing.assert_array_equal(alone.user.video[1::2], both.user.video[::2])
  assert (alone.events, alone.agent.words) == (both.events, both.agent.words)
  np.testing.assert_array_equal(alone.agent.audio, both.agent.audio)
  assert session(5, "heldout", agent_unseen=1.0, **changes).agent.video is not None
