"""Voices by ear, with a stand-in for the judges: what they are given, and what is right as it is heard."""

import types

import numpy as np
import pytest

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.records import text_to_units
from wanstreamer_jax.data.session import Word
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.eval import judged, sections
from wanstreamer_jax.eval.answers import Question
from wanstreamer_jax.eval.scores import Conversation, Script

MEDIA, TOKENIZER = Config().media, TextTokenizer()
QUESTIONS = (
  Question("colour", 0.9, 4.0, ("red",), ("red", "blue")),
  Question("count", 4.8, 8.0, ("two",), ("one", "two")),
)


def conversation():
  """Says "it is red" at 1.0 s and "two stars" at 5.0 s; "blue" is written and never voiced."""
  texts = [("it", 0.96), ("is", 1.28), ("red", 1.44), ("blue", 3.0), ("two", 4.96), ("stars", 5.28)]
  words = [Word(text, at, at + 0.16, at + 0.4) for text, at in texts]
  text, _ = text_to_units(words, 50, 3, TOKENIZER, 0.16)
  audio = np.zeros(50 * MEDIA.samples, np.float32)
  for start, end in ((1.0, 1.9), (5.0, 5.7)):
    part = slice(round(start * MEDIA.sample_rate), round(end * MEDIA.sample_rate))
    audio[part] = 0.3 * np.sin(np.arange(part.stop - part.start) * 0.1)
  video = np.zeros((0, 4, 4, 3), np.uint8)
  return Conversation(0, Script(QUESTIONS), audio, video, audio, video, text, None)


def test_text_lies_beside_the_sound_that_it_is_for():
  found = judged.utterances(conversation(), MEDIA, TOKENIZER)
  assert [utterance.words for utterance in found] == [("it", "is", "red"), ("two", "stars")]
  assert [(u.start, u.end) for u in found] == [pytest.approx((1.0, 1.9), abs=0.03), pytest.approx((5.0, 5.7), abs=0.03)]
  assert len(found[0].audio) / MEDIA.sample_rate == pytest.approx(1.1, abs=0.05)


@pytest.fixture
def judges(monkeypatch):
  """Hears "read" for the longer utterance and "won star" for the other."""
  given = []

  def judge_speech(utterances, rate):
    given.extend((text, round(len(audio) / rate, 1)) for audio, text in utterances)
    return {"wer": 0.25, "wer_low": 0.2, "wer_high": 0.3, "words": 3, "dnsmos": 2.5}

  def recognised_words(sounds, rate):
    return [["it", "is", "read"] if len(sound) > rate else ["won", "star"] for sound in sounds]

  more = {"installed": lambda: True, "model_folder": lambda: "", "load_dnsmos": lambda: None, "given": given}
  module = types.SimpleNamespace(judge_speech=judge_speech, recognised_words=recognised_words, **more)
  monkeypatch.setattr(judged, "judges", module)
  return module


def test_answers_by_ear_are_what_is_heard(judges):
  voices = judged.Voices(MEDIA, TOKENIZER)
  for name in ("truth", "model"):
    assert voices.listen(name)(conversation()) == {}
  found = voices.judge()
  assert judges.given == [("it is red", 1.1)] * 2  # utterances of three words or more
  assert found["model"]["speech"]["utterances"] == 1
  assert found["model"]["by_ear"]["answer/colour"]["mean"] == 1.0
  assert found["model"]["by_ear"]["answer/count"]["mean"] == 0.0
  assert found["model"]["by_ear"]["right_answers"]["mean"] == 0.5
  lines = sections.lines([judged.table(found)])
  assert lines[0].split() == ["Voice,", "by", "ear", "truth", "(n=1)", "model", "(n=1)"]
  assert lines[1].split()[2:] == ["25%", "[20,", "30]"] * 2
  assert lines[2].split()[-1] == "2.50"
  assert lines[-2].split()[-1] == "50%"


def test_without_the_recogniser_nothing_is_right_by_ear(judges, monkeypatch):
  monkeypatch.setattr(judges, "installed", lambda: False)
  voices = judged.Voices(MEDIA, TOKENIZER)
  voices.listen("model")(conversation())
  found = voices.judge()
  assert found["model"]["by_ear"] == {}
  assert judged.table(found).rows[-1] == ["right answers by ear, all", "-"]


def test_a_missing_model_is_said_before_the_work(judges, monkeypatch):
  def missing():
    raise UserError("no recogniser: pip install")

  monkeypatch.setattr(judges, "model_folder", missing)
  with pytest.raises(UserError, match="no recogniser"):
    judged.Voices(MEDIA, TOKENIZER)
