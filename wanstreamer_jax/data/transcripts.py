"""Reads words with their times, as a manifest or an aligner's file gives them.

A manifest lists words as {"text", "start", "end"}, or names a file. The file is JSON of any of these forms:

    [{"text": "hello", "start": 0.4, "end": 0.7}, ...]                            a list ("word" for "text" is fine)
    {"alignments": [["hello", [0.4, 0.7], "SPEAKER_MAIN"], ...]}                  moshi-finetune
    {"segments": [{"start", "end", "words": [{"word", "start", "end"}]}, ...]}    whisper, whisperX, whisper-timestamped
    {"metadata:transcript": [{"start", "end", "words": [...]}, ...]}              Seamless Interaction
    {"tiers": {"words": {"entries": [[0.4, 0.7, "hello"], ...]}}}                 Montreal Forced Aligner

Times are seconds. A word without times, as aligners leave numbers, gets the gap between its neighbours, and the words
of a segment that was not aligned at all share it evenly. A segment with a text but without words is refused: what was
said in it must not be taken for silence.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from wanstreamer_jax.errors import DataError, one_line

FORMS = "alignments", "segments", "metadata:transcript", "tiers"  # keys by which a file's form is known
MAX_TIME = 1e9  # seconds
LONGEST_WORD = 1.0  # seconds that a word without times may get


class TimedWord(NamedTuple):
  """One word and when it sounds, in seconds from the recording's start."""

  text: str
  start: float
  end: float


Words = tuple[TimedWord, ...]


def read_text_lines(path: pathlib.Path, what: str) -> list[str]:
  """The lines of a UTF-8 text file with or without a byte order mark. Raises DataError."""
  try:
    return path.read_text(encoding="utf-8-sig").split("\n")
  except OSError as error:
    raise DataError(f"{what} {path}: {error.strerror}") from error
  except UnicodeDecodeError as error:
    raise DataError(f"{what} {path}: not a text file ({one_line(error)}); save it as UTF-8") from error


def read_transcript(path: pathlib.Path, required: bool = True) -> dict[str, Words] | None:
  """The words of a transcript by speaker, sorted by time; "" is the speaker where the file names none.

  Raises DataError for a bad word, and for JSON of none of the forms, which is None unless a transcript is required.
  """
  try:
    value = json.loads("\n".join(read_text_lines(path, "transcript")))
  except (ValueError, RecursionError) as error:
    raise DataError(f"transcript {path}: not JSON ({one_line(error)})") from error
  if not is_transcript(value):
    if not required:
      return None
    raise DataError(
      f"transcript {path}: expected a list of words or an object with one of {', '.join(FORMS)}; convert it to "
      '[{"text", "start", "end"}, ...]'
    )
  return words_by_speaker(value, path)


def is_transcript(value: Any) -> bool:
  """Whether a parsed JSON value has one of the known forms."""
  return isinstance(value, list) or (isinstance(value, dict) and any(key in value for key in FORMS))


def words_by_speaker(value: Any, path: pathlib.Path) -> dict[str, Words]:
  """The words of a parsed transcript by speaker; `path` is named in messages. Raises DataError."""
  found: dict[str, list[TimedWord]] = {}
  try:
    for speaker, word in _entries(value):
      found.setdefault(speaker, []).append(word)
  except DataError as error:
    raise DataError(f"transcript {path}: {error}") from error
  except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
    raise DataError(f"transcript {path}: a word is not what its form has ({one_line(error)})") from error
  return {speaker: tuple(sorted(words, key=lambda word: word.start)) for speaker, words in found.items()}


def words_of_speaker(path: pathlib.Path, speaker: str | None) -> Words:
  """The words of one speaker of a transcript, or of its only one. Raises DataError."""
  found = read_transcript(path) or {}
  if speaker is None:
    if len(found) > 1:
      known = ", ".join(map(repr, sorted(found)))
      raise DataError(
        f"transcript {path} has words of several speakers ({known}): name one, as in "
        f'"words": {{"file": {path.name!r}, "speaker": {sorted(found)[0]!r}}}'
      )
    return next(iter(found.values()), ())
  if speaker not in found:
    raise DataError(f"transcript {path} has no speaker {speaker!r}: it has {', '.join(map(repr, sorted(found)))}")
  return found[speaker]


def _entries(value: Any) -> Iterator[tuple[str, TimedWord]]:
  """(speaker, word) of a parsed transcript of any form."""
  if isinstance(value, list):
    yield from _of_words(value, 0.0, math.inf, "")
  elif "alignments" in value:
    for text, (start, end), *speaker in value["alignments"]:
      if str(text).strip():
        yield str(speaker[0]) if speaker and speaker[0] else "", timed(text, start, end)
  elif "tiers" in value:
    for name, tier in value["tiers"].items():
      speaker, _, kind = name.rpartition(" - ")
      if kind == "words":
        yield from ((speaker, timed(text, start, end)) for start, end, text in tier["entries"] if text.strip())
  else:
    for segment in value.get("segments", value.get("metadata:transcript")):
      start, end = (segment.get(key) or default for key, default in (("start", 0.0), ("end", math.inf)))
      yield from _of_words(_words_of(segment), start, end, segment.get("speaker") or "")


def _words_of(segment: dict[str, Any]) -> list[dict[str, Any]]:
  """The words of a segment. Raises DataError where they were not asked for when it was transcribed."""
  words, text = segment.get("words"), str(segment.get("text") or "").split()
  if words is None and text:
    raise DataError(
      f"the segment {' '.join(text)!r:.60} at {segment.get('start')!r:.20} s has no words: transcribe it with times "
      "of words"
    )
  return words or [{"text": word} for word in text]


def _of_words(
  words: Iterable[dict[str, Any]], begin: float, end: float, speaker: str
) -> Iterator[tuple[str, TimedWord]]:
  """Words as objects; runs of words without times share the gap between their neighbours evenly, LONGEST_WORD at the
  most for each."""
  words = [word for word in words if str(word.get("text", word.get("word", ""))).strip()]
  known = [word.get("start") is not None and word.get("end") is not None for word in words]
  last, index = begin, 0
  while index < len(words):
    run = index
    while run < len(words) and not known[run]:
      run += 1
    upto = words[run]["start"] if run < len(words) else (end if end < math.inf else last)
    share = max(0.0, upto - last) / max(1, run - index)
    if index > 0 or run < len(words):  # else no word of the segment has a time
      share = min(share, LONGEST_WORD)
    first = last if index or run == len(words) else max(last, upto - (run - index) * share)  # beside the first with one
    for number, word in enumerate(words[index:run]):
      yield _object(word, speaker, first + number * share, first + (number + 1) * share)
    if run < len(words):
      yield _object(words[run], speaker, words[run]["start"], words[run]["end"])
      last = max(last, words[run]["end"])
    index = run + 1


def _object(word: dict[str, Any], speaker: str, start: float, end: float) -> tuple[str, TimedWord]:
  return word.get("speaker") or speaker, timed(word.get("text", word.get("word")), start, end)


def timed(text: Any, start: Any, end: Any) -> TimedWord:
  """A checked word. Raises DataError with the values."""
  numbers = all(isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < MAX_TIME for x in (start, end))
  if not isinstance(text, str) or not numbers or not 0 <= start <= end:
    raise DataError(f"word {text!r:.60} from {start!r:.20} to {end!r:.20}: expected a text and 0 <= start <= end in s")
  return TimedWord(text.strip(), float(start), float(end))
