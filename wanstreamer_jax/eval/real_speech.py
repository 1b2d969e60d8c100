"""Judges the voice of records by a recogniser and DNSMOS (`judges.py`)."""

from collections.abc import Callable

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.eval.judges import (
  LEAST,
  RATE,
  Hear,
  Rater,
  at_rate,
  load_dnsmos,
  load_recogniser,
  word_errors,
  words_of,
)
from wanstreamer_jax.eval.scores import Conversation, Scores, spoken, timed_words
from wanstreamer_jax.eval.turns import merge, speech_intervals

UTTERANCE_GAP = 0.8  # seconds of silence between utterances


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


def voice_scores(
  c: Conversation, media: MediaConfig, tokenizer: TextTokenizer, hear: Hear | None, rate: Rater | None
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
