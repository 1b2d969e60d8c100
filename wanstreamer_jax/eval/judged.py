"""Judges voices by ear: word errors, quality, and right answers as they are heard.

The agent's sound is cut into utterances, and its own text is laid beside them by time. `judges.py` hears them. Judged
are the truth, what the audio codec makes of the truth, the agent, and the agent that meets another session's user. What
is heard is scored by the same `is_right` as what is written: an agent that writes the right word and mumbles it is
wrong by ear.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.eval import intervals, judges
from wanstreamer_jax.eval.answers import BY_ALL, answer_scores
from wanstreamer_jax.eval.intervals import Scores
from wanstreamer_jax.eval.judges import LEAST_WORDS
from wanstreamer_jax.eval.scores import Conversation, Script, spoken, timed_words
from wanstreamer_jax.eval.sections import PLAIN, SHARE, Section
from wanstreamer_jax.eval.turns import AHEAD, merge, speech_intervals

GAP = 0.8  # seconds of silence between utterances
MARGIN = 0.1  # seconds of sound that are kept around an utterance
SPEECH = {  # what `judge_speech` gives: its title, how it is written, and the key of the number of cases
  "wer": ("word errors", SHARE, "words"),
  "letters_wer": ("word errors of what is spelled", SHARE, "letters"),
  "template_errors": ("utterances taken for another (templates)", SHARE, "utterances"),
  "dnsmos": ("DNSMOS (1 to 5)", PLAIN, "utterances"),
}
NAMES = ("truth", "codec", "model", "shuffled_user")


class Utterance(NamedTuple):
  """A piece of an agent's speech. audio: float32 [S]; words: what it wrote for it; start, end: seconds."""

  audio: np.ndarray
  words: tuple[str, ...]
  start: float
  end: float


def utterances(c: Conversation, media: MediaConfig, tokenizer: TextTokenizer) -> list[Utterance]:
  """The agent's speech, cut where it pauses for 0.8 s. A word belongs to the first utterance that ends after it was
  written and begins at most 1 s later; words without one were not voiced and belong to none."""
  rate = media.sample_rate
  pieces = merge(speech_intervals(c.agent_audio, rate), GAP)
  words: list[list[str]] = [[] for _ in pieces]
  for time, word in spoken(timed_words(c.agent_text, tokenizer, media.unit_ms / 1000)):
    place = next((i for i, (start, end) in enumerate(pieces) if time < end and start - time <= AHEAD), None)
    if place is not None:
      words[place].append(word)
  cut = lambda start, end: c.agent_audio[round(max(0.0, start - MARGIN) * rate) : round((end + MARGIN) * rate)]
  return [Utterance(cut(*piece), tuple(said), *map(float, piece)) for piece, said in zip(pieces, words)]


class Voices:
  """What was said in many sessions, by name, until it is judged."""

  def __init__(self, media: MediaConfig, tokenizer: TextTokenizer):
    """Raises UserError, before the work, where only a part of the judges is installed."""
    self.media, self.tokenizer = media, tokenizer
    if judges.installed():
      judges.model_folder()
      judges.load_dnsmos()
    self.sessions: dict[str, list[tuple[Script, list[Utterance]]]] = {}

  def listen(self, name: str) -> Callable[[Conversation], Scores]:
    """What keeps the utterances of a conversation; it adds no scores, since all are heard at the end."""

    def keep(c: Conversation) -> Scores:
      found = utterances(c, self.media, self.tokenizer)
      self.sessions.setdefault(name, []).append((c.script, found))
      return {}

    return keep

  def judge(self) -> dict[str, Any]:
    """{name: what `judge` gives}."""
    rate = self.media.sample_rate
    return {name: judge(sessions, rate) for name, sessions in self.sessions.items()}


def judge(sessions: Sequence[tuple[Script, Sequence[Utterance]]], rate: int) -> dict[str, Any]:
  """The judges' figures of some sessions of one agent: {"speech": word errors, quality and the like, "by_ear": right
  answers with intervals}. Without the recogniser "speech" is what a matcher of templates finds, and "by_ear" is empty.
  """
  said = [utterance for _, found in sessions for utterance in found if len(utterance.words) >= LEAST_WORDS]
  speech = judges.judge_speech([(utterance.audio, " ".join(utterance.words)) for utterance in said], rate)
  if not judges.installed():
    return {"speech": {"utterances": len(said)} | speech, "by_ear": {}}
  every = [utterance for _, found in sessions for utterance in found]
  heard = iter(judges.recognised_words([utterance.audio for utterance in every], rate))
  parts = [by_ear(script, [(utterance.start, next(heard)) for utterance in found]) for script, found in sessions]
  return {"speech": {"utterances": len(said)} | speech, "by_ear": intervals.figures(parts)}


def by_ear(script: Script, heard: Sequence[tuple[float, Sequence[str]]]) -> Scores:
  """Answer scores of what a recogniser heard: (start, words) of every utterance."""
  return answer_scores(script.questions, [(start, word) for start, words in heard for word in words], by_ear=True)


def table(figures: dict[str, Any]) -> Section:
  """A column for each voice. figures: what `Voices.judge` gives."""
  names = [name for name in NAMES if name in figures]
  rows = []
  for key, (title, form, count) in SPEECH.items():
    cells = [form.text(_figure(figures[name]["speech"], key, count), interval=True) for name in names]
    if any(cell != "-" for cell in cells):
      rows.append([title, *cells])
  for key, title in ((BY_ALL, "right answers by ear, mean over kinds"), ("answer", "right answers by ear, all")):
    rows.append([title, *(SHARE.text(figures[name]["by_ear"].get(key), interval=True) for name in names)])
  header = [f"{name} (n={figures[name]['speech']['utterances']})" for name in names]
  return Section("Voice, by ear", ["", *header], rows)


def _figure(found: dict[str, Any], key: str, count: str) -> dict[str, Any] | None:
  """A number of the judges as a figure of `intervals.py`; None where there is none. count: the key of its cases."""
  value = found.get(key)
  bounds = {end: found[f"{key}_{end}"] for end in ("low", "high") if f"{key}_{end}" in found}
  return None if value is None else {"mean": value, "n": found.get(count, 1)} | bounds
