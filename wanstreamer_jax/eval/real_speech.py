"""Judges a voice with the extra `speech`: a recogniser, and DNSMOS.

Both are trained networks, for English at 16 kHz, which this package neither ships nor downloads. Their figures depend
on their versions and compare agents of one run; word errors are those of the recogniser too (compare the column of the
recorded voice). Neither mel distance nor DNSMOS predicts word errors.
"""

import importlib
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import signal

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import UserError, one_line_with_type
from wanstreamer_jax.eval.answers import plain
from wanstreamer_jax.eval.intervals import Scores
from wanstreamer_jax.eval.scores import Conversation, spoken, timed_words
from wanstreamer_jax.eval.turns import merge, speech_intervals

RATE = 16_000  # Hz, of both networks
UTTERANCE_GAP = 0.8  # seconds of silence between utterances
LEAST = 1.0  # seconds of speech that DNSMOS is asked about
Recogniser = Callable[[np.ndarray], str]  # float32 [S] at RATE -> what was said
Rater = Callable[[np.ndarray], float]  # the same -> 1 to 5


def judge(
  media: MediaConfig, tokenizer: TextTokenizer, recogniser: str | None, dnsmos: bool
) -> Callable[[Conversation], Scores] | None:
  """What adds `word_errors` and `dnsmos` to the scores of a conversation; None if neither is asked for.

  recogniser: a folder with a model of faster-whisper. Raises UserError for packages and models that are not there.
  """
  hear = load_recogniser(recogniser) if recogniser else None
  rate = load_dnsmos() if dnsmos else None
  if hear is None and rate is None:
    return None
  return lambda conversation: voice_scores(conversation, media, tokenizer, hear, rate)


def load_recogniser(folder: str) -> Recogniser:
  """A faster-whisper model on the CPU in int8: beam 5, no text of before."""
  if not (pathlib.Path(folder) / "model.bin").is_file():
    raise UserError(f"--recogniser {folder!r} holds no model.bin: give a folder with a model of faster-whisper")
  package = _package("faster_whisper", "faster-whisper")
  try:
    model = package.WhisperModel(folder, device="cpu", compute_type="int8", local_files_only=True)
  except Exception as error:
    raise UserError(f"--recogniser {folder!r} cannot be loaded: {one_line_with_type(error)}") from error

  def hear(audio: np.ndarray) -> str:
    segments, _ = model.transcribe(audio, language="en", beam_size=5, condition_on_previous_text=False)
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
      f"this needs the extra `speech` ({error}): pip install 'wanstreamer-jax[speech]', or {pip}"
    ) from error


def voice_scores(
  c: Conversation, media: MediaConfig, tokenizer: TextTokenizer, hear: Recogniser | None, rate: Rater | None
) -> Scores:
  """word_errors: one value for the conversation, errors over the words that the agent wrote to be voiced (its own text,
  so that what it says does not count, only whether it is heard). dnsmos: of every utterance of 1 s or more."""
  speech = merge(speech_intervals(c.agent_audio, media.sample_rate), UTTERANCE_GAP)
  pieces = [
    c.agent_audio[round(max(0.0, start - 0.1) * media.sample_rate) : round((end + 0.1) * media.sample_rate)]
    for start, end in speech
  ]
  heard = [at_rate(piece, media.sample_rate) for piece in pieces]
  out: Scores = {}
  if hear is not None:
    written = [word for _, word in spoken(timed_words(c.agent_text, tokenizer, media.unit_ms / 1000))]
    said = [word for piece in heard for word in words_of(hear(piece))]
    out["word_errors"] = [word_errors(words_of(" ".join(written)), said)]
  if rate is not None:
    peaks = ((piece, float(np.abs(piece).max())) for piece in heard if len(piece) >= LEAST * RATE)
    out["dnsmos"] = [rate(piece / max(peak, 1.0)) for piece, peak in peaks]  # it takes samples within -1 and 1
  return out


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
