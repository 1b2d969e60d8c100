"""Recogniser and DNSMOS, with stand-ins: what they are given, how errors count, and what is said without them."""

import sys

import numpy as np
import pytest

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.records import text_to_units
from wanstreamer_jax.data.session import Word
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.eval import judges, real_speech
from wanstreamer_jax.eval.scores import Conversation, Script

MEDIA, TOKENIZER = Config().media, TextTokenizer()


def conversation():
  """The agent writes five words, one of them a directive, and sounds twice: 1.5 s and 0.5 s."""
  words = [Word(text, at, at + 0.2, at + 0.4) for at, text in enumerate(("red", "(nods)", "blue", "green", "it"))]
  text, _ = text_to_units(words, 50, 3, TOKENIZER, 0.16)
  audio = np.zeros(50 * MEDIA.samples, np.float32)
  for start, end in ((1.0, 2.5), (5.0, 5.5)):
    part = slice(round(start * MEDIA.sample_rate), round(end * MEDIA.sample_rate))
    audio[part] = 0.3 * np.sin(np.arange(part.stop - part.start) * 0.1)
  return Conversation(0, Script(), audio, np.zeros((0, 4, 4, 3)), audio, np.zeros((0, 4, 4, 3)), text, None)


def test_errors_are_those_between_the_written_and_the_heard_words():
  given = []

  def hear(audio):
    given.append(len(audio) / real_speech.RATE)
    return "Red, blue." if len(given) == 1 else "grin it now"

  scores = real_speech.voice_scores(conversation(), MEDIA, TOKENIZER, hear, None)
  assert scores == {"word_errors": [0.5]}  # one wrong and one more, of four
  assert given == pytest.approx([1.7, 0.7], abs=0.05)


def test_only_longer_utterances_are_rated():
  scores = real_speech.voice_scores(conversation(), MEDIA, TOKENIZER, None, lambda audio: len(audio) / real_speech.RATE)
  assert scores["dnsmos"] == pytest.approx([1.7], abs=0.05)


@pytest.mark.parametrize(
  ("reference", "heard", "rate"),
  [("a b c", "a b c", 0), ("a b c", "", 1), ("a b c", "a x c", 1 / 3), ("a b c", "b c", 1 / 3), ("a", "a b c", 2)],
)
def test_word_error_rate(reference, heard, rate):
  assert judges.word_errors(reference.split(), heard.split()) == pytest.approx(rate)


def test_nothing_to_say_is_not_an_error():
  assert np.isnan(judges.word_errors([], ["a"]))


def test_what_is_missing_is_said(tmp_path, monkeypatch):
  assert real_speech.judge(MEDIA, TOKENIZER, None, False) is None
  with pytest.raises(UserError, match=r"holds no model\.bin: give a folder with a model of faster-whisper"):
    real_speech.judge(MEDIA, TOKENIZER, str(tmp_path), False)
  (tmp_path / "model.bin").write_text("")
  for package in ("faster_whisper", "speechmos"):
    monkeypatch.setitem(sys.modules, package, None)
  for model, rated in ((str(tmp_path), False), (None, True)):
    with pytest.raises(UserError, match=r"needs the extra `judges` .*pip install 'wanstreamer-jax\[judges\]'"):
      real_speech.judge(MEDIA, TOKENIZER, model, rated)
