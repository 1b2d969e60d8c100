"""Finds what the user of a recording called for, from who spoke when.

Nobody has written down what is a question. The recorded agent is the judge: what it did shows what was called for. With
speech of both sides as intervals (`turns.py`), and a backchannel being speech under 1 s with at most 3 words:

hand_off           a pause of the user in which the recorded agent took the floor within 1.5 s: the agent should answer;
                   within 4 s it is a question without a known answer, whose latency is measured
stay_silent        a pause of the user of 0.5 s or more in which the recorded agent said nothing at all
backchannel_place  a backchannel of the recorded agent while the user had the floor: no more than that
interrupt          the user began, for 1 s or more, while the recorded agent spoke, and it stopped within 1.5 s: `yield`

An agent that is streamed over a recording hears a user who reacts to somebody else. So these figures compare agents
with baselines and with the recorded agent, whose own column shows what the definitions leave open.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wanstreamer_jax.data.session import AGENT
from wanstreamer_jax.eval.answers import ANSWER_TIME, Question
from wanstreamer_jax.eval.scores import Script
from wanstreamer_jax.eval.turns import (
  ANSWER_WITHIN,
  BREATH,
  SHORT,
  SPEECH_GAP,
  YIELD_WITHIN,
  Opportunity,
  clip,
  merge,
  speech_intervals,
)

FEW_WORDS = 3  # of a backchannel
MIN_ROOM = 2.0  # seconds between a turn's end that counts and the end of the session


def speech_of(truth: dict[str, Any], side: str, audio: np.ndarray, rate: int) -> np.ndarray:
  """When a side of a recording speaks, [N, 2] seconds: by its timed words where it has any, else by its sound [S]."""
  words = [word for word in truth[side]["speech"] if word["voiced"] and word["end"] > word["start"]]
  spans = np.array([(word["start"], word["end"]) for word in words])
  found = merge(spans, SPEECH_GAP) if words else speech_intervals(audio, rate)
  return clip(found, 0.0, len(audio) / rate)


def voiced_at(truth: dict[str, Any], side: str) -> list[float]:
  """The starts of a side's voiced words."""
  return [word["start"] for word in truth[side]["speech"] if word["voiced"]]


def is_backchannel(piece: np.ndarray, words: Sequence[float]) -> bool:
  """Whether one piece of speech (start, end) is short and of few words, whose starts are `words`."""
  start, end = piece
  return end - start < SHORT and sum(start - 0.1 <= word < end for word in words) <= FEW_WORDS


def script_of(truth: dict[str, Any], user: np.ndarray, agent: np.ndarray, seconds: float) -> Script:
  """The script of a recording of `seconds`. user, agent: speech of its sides [N, 2]. See the module's docstring."""
  words = voiced_at(truth, AGENT)
  short = np.array([is_backchannel(piece, words) for piece in agent], bool)
  turns, backchannels = agent[~short], agent[short]
  questions, pauses, opportunities = [], [], []
  for end, until in zip(user[:, 1], [*user[1:, 0], seconds]):
    answers = [start for start, stop in turns if end - SHORT <= start < min(until, end + ANSWER_TIME) and stop > end]
    if answers and end <= seconds - MIN_ROOM:
      questions.append(Question("turn", float(end), float(until)))
      if answers[0] < end + ANSWER_WITHIN:
        opportunities.append(Opportunity("hand_off", float(end), float(min(until, end + ANSWER_TIME))))
    elif until - end >= BREATH and until < seconds and not len(clip(agent, end, until)):
      pauses.append((float(end), float(until)))
      opportunities.append(Opportunity("stay_silent", float(end), float(until)))
  for start, _ in backchannels:
    floor = [end for begin, end in merge(user, SHORT) if begin <= start < end]
    if floor:
      opportunities.append(Opportunity("backchannel", float(start), float(floor[0])))
  cut_in = [float(start) for start, end in user if _interrupts(start, end, turns) and start <= seconds - YIELD_WITHIN]
  opportunities += [Opportunity("yield", start, start + YIELD_WITHIN) for start in cut_in]
  return Script(tuple(questions), tuple(pauses), tuple(cut_in), tuple(opportunities), tuple(map(tuple, user)))


def _interrupts(start: float, end: float, turns: np.ndarray) -> bool:
  """Whether the user's speech cuts a turn of the recorded agent short."""
  return end - start >= SHORT and any(begin < start < stop <= start + YIELD_WITHIN for begin, stop in turns)


def backchannel_scores(
  script: Script, speech: np.ndarray, words: Sequence[float], seconds: float
) -> dict[str, list[float]]:
  """Backchannels and seconds of overlap of an agent's speech [N, 2] with the user's, per minute of the session. words:
  the starts of its words."""
  user = np.array(script.speech, np.float64).reshape(-1, 2)
  floor = merge(user, SHORT)
  short = [piece for piece in speech if is_backchannel(piece, words)]
  during = sum(any(begin <= start < end for begin, end in floor) for start, _ in short)
  both = sum(float(np.diff(clip(speech, start, end), axis=1).sum()) for start, end in user)
  return {"backchannels_per_minute": [60 * during / seconds], "overlap_per_minute": [60 * both / seconds]}
