"""The judges of voices: what counts as the same word, intervals, the matcher of templates; the recogniser is a
stand-in, since it is an extra."""

import numpy as np
import pytest

from wanstreamer_jax.data.duplex_world.speech import synthesise
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.eval import judges
from wanstreamer_jax.eval.template_judge import cepstra, template_errors, warped

RATE = 24_000
TEXTS = ("it is red", "i see two green stars", "my home is in paris", "one two three four", "yes both are blue")


@pytest.mark.parametrize(
  ("heard", "same"),
  [
    ("I'm Tom.", "i am tom"), ("It's blue!", "it is blue"), ("I can't do that", "i can not do that"),
    ("I cannot", "i can not"), ("2 stars", "two stars"), ("to stars", "two stars"), ("12", "twelve"),
    ("1, 2, 3", "one two three"), ("12345", "one two three four five"), ("8910", "eight nine ten"),
    ("307", "three zero seven"), ("What color?", "what colour"), ("Mm-hmm.", "mhm"), ("(nods) yes", "yes"),
    ("you don\u2019t", "you do not"), ("for red", "four read"),
  ],
)  # fmt: skip
def test_what_only_looks_different_is_the_same(heard, same):
  assert judges.normal(heard) == judges.normal(same)


def test_other_words_stay_other_words():
  assert judges.normal("it is red") != judges.normal("it is bread")
  assert judges.normal("stars") != judges.normal("star")


class Parrot:
  """Hears what is written in the sound's first sample."""

  def __init__(self, said):
    self.said = said

  def transcribe(self, audio, rate):
    return judges.normal(self.said[int(audio[0])])


def test_figures_of_a_voice(monkeypatch):
  said = ["It's read.", "i see to green stars and a lot more that nobody said at all", "b l u", ""]
  monkeypatch.setattr(judges, "installed", lambda: True)
  monkeypatch.setattr(judges, "_recogniser", lambda: Parrot(said))
  monkeypatch.setattr(judges, "_dnsmos", lambda: lambda audio: 3.0)
  texts = ["it is red", "i see two green stars", "b l u e", "no"]
  found = judges.judge_speech([(np.full(RATE, float(i)), text) for i, text in enumerate(texts)], RATE)
  assert found["utterances"] == 2
  assert (found["words"], found["wer"]) == (8, pytest.approx(5 / 8))  # the second is wholly wrong at most
  assert found["wer_low"] <= found["wer"] <= found["wer_high"]
  assert (found["letters"], found["letters_wer"]) == (4, pytest.approx(0.25))
  assert found["dnsmos"] == 3.0
  assert judges.recognised_words([np.zeros(9)], RATE) == [["it", "is", "red"]]


def test_intervals_are_over_utterances():
  found = judges.error_figures([(0, 4)] * 50 + [(4, 4)] * 50)
  assert found["wer"] == 0.5
  assert found["wer_low"] == pytest.approx(0.4, abs=0.03)
  assert found["wer_high"] == pytest.approx(0.6, abs=0.03)
  assert np.isnan(judges.error_figures([])["wer"])


def test_the_same_sound_is_heard_once(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(judges, "load_recogniser", lambda folder: lambda audio: calls.append(len(audio)) or "Two.")
  recogniser = judges.Recogniser("folder")
  sound = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
  assert [recogniser.transcribe(sound, RATE) for _ in range(2)] == [["two"]] * 2
  assert calls == [judges.RATE + judges.RATE * 3 // 4]


def test_a_missing_model_is_told(tmp_path, monkeypatch):
  monkeypatch.setattr(judges.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'wanstreamer-jax\[judges\]', or set WANSTREAMER_RECOGNISER"):
    judges.Recogniser()
  monkeypatch.setenv("WANSTREAMER_RECOGNISER", str(tmp_path))
  with pytest.raises(UserError, match=r"holds no model\.bin"):
    judges.Recogniser()


def spoken(noise: float) -> list:
  """The texts by a voice that no template has, under noise."""
  rng = np.random.default_rng(0)
  voice = Voice("other", pitch=150.0, size=1.06, rate=0.95)
  sounds = [synthesise(text.split(), voice, RATE, seed=9).audio for text in TEXTS]
  return [(sound + noise * rng.standard_normal(len(sound)), text) for sound, text in zip(sounds, TEXTS)]


def test_templates_tell_clear_from_hidden_speech():
  assert template_errors(spoken(0.0), RATE) == 0.0
  assert template_errors(spoken(3.0), RATE) >= 0.4


def test_templates_in_the_judged_voice_are_heard():
  given = {text: audio for audio, text in spoken(0.0)}
  assert template_errors(spoken(0.0), RATE, lambda text: [given[text]]) == 0.0
  shifted = [(audio, TEXTS[(i + 1) % len(TEXTS)]) for i, (audio, _) in enumerate(spoken(0.0))]
  assert template_errors(shifted, RATE) == 1.0


def test_warping_by_hand():
  a = np.array([[0.0], [1.0], [3.0]])
  assert warped(a, a) == 0.0
  assert warped(a, np.array([[0.0], [0.0], [1.0], [3.0], [3.0]])) == 0.0  # only slower
  assert warped(a, np.array([[0.0], [1.0], [4.0]])) == pytest.approx(2 / 6)  # a diagonal step counts twice
  assert cepstra(np.zeros(10), RATE).shape[1] == 12
