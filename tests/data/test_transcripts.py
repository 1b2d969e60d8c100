"""Transcripts: the forms that aligners and corpora write give the same words, and a bad one is named."""

import json

import pytest

from wanstreamer_jax.data.transcripts import read_transcript, words_of_speaker
from wanstreamer_jax.errors import DataError

WORDS = (("hello", 0.4, 0.7), ("there", 0.8, 1.0))
OBJECTS = [{"word": text, "start": start, "end": end, "score": 0.9} for text, start, end in WORDS]
FORMS = {
  "list": [{"text": text, "start": start, "end": end} for text, start, end in reversed(WORDS)],
  "moshi": {"alignments": [[text, [start, end], "SPEAKER_MAIN"] for text, start, end in WORDS]},
  "whisper": {"segments": [{"start": 0, "end": 2, "words": OBJECTS[:1]}, {"start": 2, "end": 3, "words": OBJECTS[1:]}]},
  "seamless": {"id": "x", "metadata:transcript": [{"words": OBJECTS, "start": 0.4, "end": 1.0, "transcript": "-"}]},
  "mfa": {"start": 0, "tiers": {"words": {"entries": [[0.4, 0.7, "hello"], [0.7, 0.8, ""], [0.8, 1.0, "there"]]},
                                "phones": {"entries": [[0.4, 0.5, "h"]]}}},
}  # fmt: skip


def write(folder, value, **options):
  path = folder / "words.json"
  path.write_text(json.dumps(value), **options)
  return path


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_words(tmp_path, form):
  assert words_of_speaker(write(tmp_path, FORMS[form], encoding="utf-8-sig"), None) == WORDS


def test_words_without_times_share_the_gap_between_their_neighbours(tmp_path):
  words = [{"word": "in", "start": 1.0, "end": 1.2}, {"word": "19", "start": None}, {"word": "84"}]
  words += [{"word": "yes", "start": 2.0, "end": 2.1}, {"word": "1"}]
  found = words_of_speaker(write(tmp_path, {"segments": [{"start": 1.0, "end": 2.5, "words": words}]}), None)
  assert [word.text for word in found] == ["in", "19", "84", "yes", "1"]
  assert [word.start for word in found] == pytest.approx([1.0, 1.2, 1.6, 2.0, 2.1])
  assert [word.end for word in found] == pytest.approx([1.2, 1.6, 2.0, 2.1, 2.5])


def test_words_without_times_stand_beside_those_that_have_some(tmp_path):
  """The recording's first word with a time is at 60 s; the one before it was not said at 0 s."""
  words = [{"text": "19"}, {"text": "years", "start": 60.0, "end": 60.5}, {"text": "7"}]
  words += [{"text": "days", "start": 90.0, "end": 90.5}]
  assert [word.start for word in words_of_speaker(write(tmp_path, words), None)] == [59.0, 60.0, 60.5, 90.0]


def test_a_segment_that_was_not_aligned_keeps_its_words(tmp_path):
  """WhisperX leaves "words": [] there; what was said is not taken for silence."""
  segments = [{"start": 1.0, "end": 2.0, "text": " in 1984", "words": []}, {"start": 2, "end": 3, "words": OBJECTS[:0]}]
  found = words_of_speaker(write(tmp_path, {"segments": segments}), None)
  assert found == (("in", 1.0, 1.5), ("1984", 1.5, 2.0))


def test_speakers_are_told_apart(tmp_path):
  path = write(tmp_path, {"alignments": [["hi", [0, 1], "SPEAKER_MAIN"], ["yes", [1, 2], "SPEAKER_OTHER"]]})
  assert [word.text for word in words_of_speaker(path, "SPEAKER_OTHER")] == ["yes"]
  with pytest.raises(DataError, match="several speakers .*name one"):
    words_of_speaker(path, None)
  with pytest.raises(DataError, match="no speaker 'ada': it has 'SPEAKER_MAIN', 'SPEAKER_OTHER'"):
    words_of_speaker(path, "ada")


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ({"text": "hello"}, "expected a list of words or an object with one of alignments"),
    ([{"text": "a", "start": 2, "end": 1}], "word 'a' from 2 to 1: expected"),
    ([{"text": 3, "start": 2, "end": 1}], "word 3 from 2 to 1: expected"),
    ({"alignments": [["a", 3]]}, "a word is not what its form has"),
    ({"segments": [{"words": ["a"]}]}, "a word is not what its form has"),
    ({"segments": [{"start": 2.0, "end": 3.0, "text": "so it is"}]}, "'so it is' at 2.0 s has no words: transcribe"),
    ({"tiers": {"words": {}}}, "a word is not what its form has"),
  ],
)
def test_what_is_no_transcript_is_one_line(tmp_path, value, message):
  with pytest.raises(DataError, match=message) as caught:
    read_transcript(write(tmp_path, value))
  assert "words.json" in str(caught.value)
  assert "\n" not in str(caught.value)
