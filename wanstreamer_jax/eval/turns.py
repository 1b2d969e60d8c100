"""Turn-taking metrics in NumPy: who speaks when, and whether that was right. They are computed on intervals of speech.

Times are seconds. Intervals are float [N, 2] (start, end), sorted and disjoint. The agent's speech is what an energy
detector finds in its own output and its words are those of its own text stream, so figures are not comparable with
benchmarks that transcribe the output with a recogniser (Full-Duplex-Bench, arXiv 2503.04721; VideoFDB, arXiv
2605.30256); the definitions are theirs, with two that are stricter, because an agent that says a short word every few
seconds, whatever the user does, must not score well (`baselines.Puppets` is one):

hand_off     The agent begins within 1.5 s of the end of the user's turn (at most 0.5 s before it), has not begun
             anything earlier in the turn, and speaks at length. At length is 1 s of sound or more than three words
             (Full-Duplex-Bench), or, as right answers of duplex_world are shorter ("red" takes 0.28 s), the time that
             the answer called for takes: `answer_seconds`. It need not be right. Only sound counts, not pauses.
stay_silent  The agent begins nothing but a backchannel. (In the benchmarks a word of less than 1 s is allowed.)
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wanstreamer_jax.data.loudness import LOUD, levels

# What should happen at an opportunity, and the take-over (0 or 1) that is right. (VideoFDB, arXiv 2605.30256)
EXPECTED = {"stay_silent": 0, "yield": 0, "hand_off": 1, "backchannel": 0, "continue": 1}
SPEECH_GAP = 0.3  # seconds between words that still count as speaking
MIN_SPEECH = 0.08  # seconds: shorter sound is a click
YIELD_WITHIN = 1.5  # seconds
ANSWER_WITHIN = 1.5  # seconds, of a hand-off
EARLY = 0.5  # seconds before the end of the user's turn at which an answer may begin
BREATH = 0.5  # seconds of silence in speech that goes on
SHORT = 1.0  # seconds: shorter speech of few words is a backchannel, not a turn
SHORTEST_ANSWER = 0.25  # seconds of sound that any answer takes
LETTER_SECONDS = 0.06  # seconds of sound a letter; the voices of duplex_world take 0.07 to 0.11
AHEAD = 1.0  # seconds that words may be written before they sound, at most


@dataclasses.dataclass(frozen=True)
class Opportunity:
  """A moment at which the agent should or should not have the floor.

  kind: a key of EXPECTED. start, end: the span that is judged: for "hand_off" and "backchannel" from the end of the
  user's turn to the next one, for "stay_silent" the user's pause or remark that wants no answer, for "yield" the
  user's interruption, for "continue" a cough or another noise through which the agent is to speak on.
  turn: when the user's turn began (hand_off); None where it may be talked over. seconds: of sound that count as an
  answer at length, if less than 1 s. name: what it is, for figures of its own. finished: whether the agent says all
  that it has to say ("continue"); then it may end.
  """

  kind: str
  start: float
  end: float
  turn: float | None = None
  seconds: float = SHORT
  name: str = ""
  finished: bool = False


class Talk(NamedTuple):
  """What an agent said: its speech [N, 2], and when it wrote words with a content, mere backchannels, and `<cut>`."""

  speech: np.ndarray
  words: Sequence[float] = ()
  backchannels: Sequence[float] = ()
  cuts: Sequence[float] = ()

  def pieces(self) -> np.ndarray:
    """Its speech with breaths, and without its backchannels: [N, 2], joined over pauses up to BREATH."""
    joined = merge(self.speech, BREATH)
    return np.array([piece for piece in joined if not self._is_backchannel(*piece)]).reshape(-1, 2)

  def _is_backchannel(self, start: float, end: float) -> bool:
    """Whether a piece is shorter than 1 s and goes with backchannels only."""
    near = lambda times: any(start - AHEAD <= time < end for time in times)
    return end - start < SHORT and near(self.backchannels) and not near(self.words)

  def sound(self, start: float, end: float) -> float:
    """Seconds of sound in a span."""
    return float(np.diff(clip(self.speech, start, end), axis=1).sum())

  def written(self, start: float, end: float) -> int:
    """Words with a content that belong to speech in a span."""
    return sum(start - AHEAD <= time < end for time in self.words)


def answer_seconds(words: Sequence[str]) -> float:
  """The sound that an answer of these words takes at least, 0.25 to 1 s."""
  return float(np.clip(LETTER_SECONDS * sum(map(len, words)), SHORTEST_ANSWER, SHORT))


def speech_intervals(audio: np.ndarray, sample_rate: int) -> np.ndarray:
  """Energy detector: frames of 20 ms above LOUD; pauses up to SPEECH_GAP are filled, then pieces under MIN_SPEECH are
  dropped. (Full-Duplex-Bench v1.5 joins the model's speech over 0.5 s)"""
  size = sample_rate // 50
  frames = len(audio) // size
  loud = levels(audio[: frames * size], frames) > LOUD
  return merge(runs(loud) * 0.02, SPEECH_GAP, MIN_SPEECH)


def runs(flags: np.ndarray) -> np.ndarray:
  """Half-open index ranges [N, 2] of the True runs of flags [T]."""
  edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
  return edges.reshape(-1, 2)


def merge(intervals: np.ndarray, gap: float, min_seconds: float = 0.0) -> np.ndarray:
  """Intervals [N, 2] joined over pauses up to `gap`; then those shorter than `min_seconds` are dropped."""
  joined: list[list[float]] = []
  for start, end in sorted(map(tuple, np.asarray(intervals, np.float64).reshape(-1, 2))):
    if joined and start - joined[-1][1] <= gap + 1e-9:
      joined[-1][1] = max(joined[-1][1], end)
    else:
      joined.append([start, end])
  return np.array([pair for pair in joined if pair[1] - pair[0] >= min_seconds - 1e-9]).reshape(-1, 2)


def clip(intervals: np.ndarray, start: float, end: float) -> np.ndarray:
  """The parts of the intervals inside [start, end)."""
  cut = np.clip(intervals, start, end)
  return cut[cut[:, 1] > cut[:, 0]]


def take_over(speech: np.ndarray, words: Sequence[float], start: float, end: float) -> int:
  """TOR of one sample: 0 without speech in [start, end); 0 when it spans (first start to last end) less than 1 s and
  at most 3 words were written there; else 1. words: the times of the agent's words. (Full-Duplex-Bench v1; the span
  and the sound are those of the energy detector, the words those of the text stream)"""
  found = clip(speech, start, end)
  if not len(found):
    return 0
  written = sum(start <= time < end for time in words)
  return int(found[-1, 1] - found[0, 0] >= SHORT or written > 3)


def is_turn(speech: np.ndarray, words: Sequence[float], start: float, end: float) -> int:
  """Whether the agent's speech in [start, end) is more than a backchannel, that is at least 1 s or 2 words."""
  found = clip(speech, start, end)
  written = sum(start <= time < end for time in words)
  return int(len(found) > 0 and (found[-1, 1] - found[0, 0] >= SHORT or written >= 2))


def hand_off(opportunity: Opportunity, talk: Talk) -> bool:
  """Whether the agent takes the floor in time and at length; see the module's docstring."""
  end, until = opportunity.start, opportunity.end
  pieces = talk.pieces()
  if opportunity.turn is not None and begins(pieces, opportunity.turn, end - EARLY):
    return False
  for start, stop in pieces:
    if end - EARLY <= start < min(until, end + ANSWER_WITHIN) and stop > end:
      sound = talk.sound(start, stop)
      if sound >= opportunity.seconds - 1e-6 or (sound >= SHORTEST_ANSWER and talk.written(start, stop) > 3):
        return True
  return False


def begins(pieces: np.ndarray, start: float, end: float) -> bool:
  """Whether any of the pieces of speech begins in [start, end)."""
  return bool(((pieces[:, 0] >= start) & (pieces[:, 0] < end)).any())


def floor_taken(opportunity: Opportunity, talk: Talk) -> int | None:
  """Whether the agent has the floor, by the kind of opportunity (TO_i of TOR-Alignment); None where there is no
  occasion, because the agent was silent when the user cut in or coughed:

  hand_off: `hand_off`. stay_silent: it begins something other than a backchannel. backchannel: `is_turn`. yield,
  continue: whether it still speaks 1.5 s after the span's start, in the speech that was going on at the start (joined
  over pauses of 0.5 s, so that taking a breath is not yielding).
  """
  start, end = opportunity.start, opportunity.end
  if opportunity.kind in ("yield", "continue"):
    stop = stop_latency(start, talk.speech)
    return None if stop is None else int(opportunity.finished or stop > YIELD_WITHIN)
  if opportunity.kind == "hand_off":
    return int(hand_off(opportunity, talk))
  if opportunity.kind == "stay_silent":
    return int(begins(talk.pieces(), start, end))
  return is_turn(talk.speech, talk.words, start, end)


def turn_taking(opportunities: Sequence[Opportunity], talk: Talk) -> dict[str, list[int]]:
  """1 for every opportunity whose take-over is the expected one, else 0, by kind and under "all", whose mean is the
  headline: VideoFDB's TOR-Alignment (arXiv 2605.30256) with the take-overs of `floor_taken`."""
  hits: dict[str, list[int]] = {"all": []}
  for opportunity in opportunities:
    taken = floor_taken(opportunity, talk)
    if taken is None:
      continue
    hit = int(taken == EXPECTED[opportunity.kind])
    hits["all"].append(hit)
    hits.setdefault(opportunity.kind, []).append(hit)
  return hits


def response_latency(turn_end: float, until: float, speech: np.ndarray) -> float | None:
  """Seconds from the end of the user's turn to the start of the agent's next speech before `until`; an answer that
  began at most 1 s early and goes on counts as 0; None without one. (Full-Duplex-Bench: negatives are clipped to 0)"""
  for start, end in speech:
    if end > turn_end and turn_end - 1.0 <= start < until:
      return max(0.0, float(start - turn_end))
  return None


def answer_latency(turn_end: float, until: float, speech: np.ndarray, words: Sequence[float]) -> float | None:
  """`response_latency` of a response that says something: one that is a take-over, or in which the agent wrote at
  least one of `words` (times, without backchannels: a right answer may be a single word, "mhm" is none)."""
  latency = response_latency(turn_end, until, speech)
  said = any(turn_end - 1.0 <= time < until for time in words)
  return latency if said or take_over(speech, words, turn_end, until) else None


def stop_latency(interruption: float, speech: np.ndarray) -> float | None:
  """Seconds from the start of the user's interruption to the end of the agent's speech that was going on then, pauses
  up to 0.5 s joined; None when the agent was silent. (Full-Duplex-Bench v1.5, which reports the overlap of the two)"""
  for start, end in merge(speech, BREATH):
    if start < interruption < end:
      return float(end - interruption)
  return None


def false_take_overs(pauses: np.ndarray, speech: np.ndarray, min_seconds: float = 0.1) -> list[int]:
  """For each pause inside a user's sentence [N, 2]: 1 if the agent speaks for at least `min_seconds` seconds of it."""
  return [int(np.diff(clip(speech, start, end), axis=1).sum() >= min_seconds) for start, end in pauses]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
  """Seconds that are in both sets of intervals."""
  return float(sum(np.diff(clip(second, start, end), axis=1).sum() for start, end in first))


def talk_share(speech: np.ndarray, seconds: float) -> float:
  """The share of a session that is speech."""
  return float(np.diff(speech, axis=1).sum() / seconds) if seconds else float("nan")
