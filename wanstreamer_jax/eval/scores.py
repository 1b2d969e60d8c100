"""Scores one conversation. The same formulas judge the model, the baselines and the truth."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.loudness import levels
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.eval import metrics, turns
from wanstreamer_jax.eval.turns import Opportunity

IDENTITY_TIMES = (0.5, 5.0, 10.0, 15.0, 18.5, 55.0)  # seconds
AROUND = 0.2  # seconds before and after speech that count as speaking when mouth and sound are compared
BACKCHANNELS = (["mhm"], ["mm"], ["uh"], ["huh"], ["okay"], ["yeah"])
ANSWER_TIME = 4.0  # seconds after a question within which an answer counts, unless the user goes on before


@dataclasses.dataclass(frozen=True)
class Question:
  """An act of the user that asks for an answer: its kind, its end, and the words that a right answer contains.

  choices: all words that an answer of this kind could be. Then the first of them that is said counts, so that reciting
  them all does not count as knowing. unseen: whether training never has this phrasing or sum.
  """

  kind: str
  end: float
  until: float  # when the user (or the session) goes on
  answer: tuple[str, ...] = ()
  choices: tuple[str, ...] = ()
  unseen: bool = False


@dataclasses.dataclass(frozen=True)
class Script:
  """The acts of the user that call for a reaction."""

  questions: tuple[Question, ...] = ()
  pauses: tuple[tuple[float, float], ...] = ()  # inside the user's sentences
  interruptions: tuple[float, ...] = ()  # when the user cuts in on the agent
  opportunities: tuple[Opportunity, ...] = ()
  speech: tuple[tuple[float, float], ...] = ()  # when the user speaks


@dataclasses.dataclass(frozen=True)
class Conversation:
  """Both sides of one session. audio: float32 [S]; video: uint8 [T, H, W, 3]; text: int32 [units, n] of the agent."""

  seed: int
  script: Script
  user_audio: np.ndarray
  user_video: np.ndarray
  agent_audio: np.ndarray
  agent_video: np.ndarray
  agent_text: np.ndarray
  portrait: np.ndarray | None  # uint8 [H, W, 3]


def timed_words(text: np.ndarray, tokenizer: TextTokenizer, unit_seconds: float) -> list[tuple[float, str]]:
  """The agent's words and directives with the start of the unit in which each begins. text: int32 [units, n]."""
  ids, times, lengths = [], [], [0]
  for unit, slots in enumerate(text):
    for token in slots:
      if token != tokenizer.pad_id:
        ids.append(int(token))
        times.append(unit * unit_seconds)
        lengths.append(len(tokenizer.decode(ids)))
  whole = tokenizer.decode(ids)
  starts = np.searchsorted(np.array(lengths[1:]), [match.start() for match in re.finditer(r"\S+", whole)], side="right")
  return [(times[index], word) for index, word in zip(starts, whole.split())]


def spoken(words: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
  """The words of a text stream that are to be voiced: those outside parentheses, which may span several words."""
  found, inside = [], False
  for time, word in words:
    inside = inside or word.startswith("(")
    if not inside:
      found.append((time, word))
    inside = inside and not word.endswith(")")
  return found


def plain(words: Sequence[str]) -> list[str]:
  """Words in lower case without punctuation."""
  found = (re.sub(r"[^\w']", "", word.lower()) for word in words)
  return [word for word in found if word]


def is_right(question: Question, words: Sequence[str]) -> bool:
  """Whether voiced words answer a question: the first words that could be an answer must be the right one. Without
  `choices`, the answer must occur in order and without gaps."""
  wanted, said = plain(question.answer), plain(words)
  if question.choices:
    said = [word for word in said if word in question.choices][: len(wanted)]
  return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


def mouth_opening(video: np.ndarray) -> np.ndarray:
  """A proxy for how far the mouth is open in each frame: float [T], the mean colour distance (L1 over RGB) of the mouth
  (55 % to 68 % of the rows, 45 % to 55 % of the columns) from a closed one, the median of that fifth of the frames in
  which no throat is seen: in which the darkest tenth of these pixels is brightest. On drawn agents of duplex_world,
  which sway, nod, turn, tilt and smile, it correlates by 0.85 with the true opening."""
  height, width = video.shape[1:3]
  rows, columns = slice(round(0.55 * height), round(0.68 * height)), slice(round(0.45 * width), round(0.55 * width))
  box = video[:, rows, columns].astype(np.float32)
  light = np.sort(box.mean(axis=-1).reshape(len(box), -1), axis=1)
  contrast = light.mean(axis=1) - light[:, : max(3, light.shape[1] // 10)].mean(axis=1)
  closed = np.argsort(contrast, kind="stable")[: max(1, len(box) // 5)]
  return np.abs(box - np.median(box[closed], axis=0)).sum(axis=-1).mean(axis=(1, 2))


Scores = dict[str, list[float]]


def score(conversation: Conversation, media: MediaConfig, tokenizer: TextTokenizer) -> Scores:
  """All scores of one conversation, as lists with one entry per occasion, so that conversations can be joined."""
  c, script = conversation, conversation.script
  speech = turns.speech_intervals(c.agent_audio, media.sample_rate)
  words = timed_words(c.agent_text, tokenizer, media.unit_ms / 1000)
  seconds = len(c.agent_audio) / media.sample_rate
  user = np.array(script.speech, np.float64).reshape(-1, 2)
  voiced = spoken(words)
  content = [time for time, word in voiced if plain([word]) not in BACKCHANNELS]
  out = answer_scores(script, voiced) | turn_scores(script, speech, content)
  out["talk_share"] = [turns.talk_share(speech, seconds)]
  out["talks_over_user"] = [turns.overlap(user, speech) / max(np.diff(user, axis=1).sum(), 1e-9)] if len(user) else []
  out["words_per_minute"] = [60 * len(voiced) / seconds]
  return out | picture_scores(c, media, speech)


def answer_scores(script: Script, words: Sequence[tuple[float, str]]) -> Scores:
  """Share of questions whose answer is in the agent's text between the question's end (0.5 s grace) and the user's
  next turn, at most 4 s after the answer may begin; all, by kind, and those that training never has."""
  out: Scores = {"answer": []}
  for question in script.questions:
    if not question.answer:
      continue
    until = min(question.until, question.end + ANSWER_TIME)
    said = [word for time, word in words if question.end - 0.5 <= time < until]
    right = float(is_right(question, said))
    out["answer"].append(right)
    out.setdefault(f"answer/{question.kind}", []).append(right)
    if question.unseen:
      out.setdefault("answer/unseen", []).append(right)
  return out


def turn_scores(script: Script, speech: np.ndarray, words: Sequence[float]) -> Scores:
  """Turn-taking: see `turns.py`."""
  hits = turns.tor_alignment(script.opportunities, speech, words)
  out: Scores = {("tor_alignment" if name == "all" else f"tor_alignment/{name}"): list(map(float, values))
                 for name, values in hits.items()}  # fmt: skip
  hand_offs = [o for o in script.opportunities if o.kind == "hand_off"]
  out["tor/hand_off"] = [float(turns.take_over(speech, words, o.start, o.end)) for o in hand_offs]
  latencies = [turns.answer_latency(q.end, q.until, speech, words) for q in script.questions]
  out["responds"] = [float(latency is not None) for latency in latencies]
  out["response_latency"] = [latency for latency in latencies if latency is not None]
  stops = [turns.stop_latency(time, speech) for time in script.interruptions]
  out["stop_latency"] = [stop for stop in stops if stop is not None]
  pauses = np.array(script.pauses, np.float64).reshape(-1, 2)
  out["false_take_over"] = list(map(float, turns.false_take_overs(pauses, speech)))
  return out


def picture_scores(c: Conversation, media: MediaConfig, speech: np.ndarray) -> Scores:
  """Lip sync while the agent speaks, sync of sound and motion, and drift from the portrait."""
  frames = len(c.agent_video)
  loudness = levels(c.agent_audio, frames)
  mouth = mouth_opening(c.agent_video)
  speaking = np.zeros(frames, bool)
  for start, end in speech:
    speaking[max(0, round((start - AROUND) * media.fps)) : round((end + AROUND) * media.fps)] = True
  lag, score = metrics.lip_sync(mouth, loudness, media.fps, speaking)
  out: Scores = {"lip_lag_ms": [lag], "lip_correlation": [score]}
  out["av_align"] = [metrics.av_align(c.agent_audio, c.agent_video)]
  if c.portrait is not None:
    drift = metrics.identity_drift(c.portrait, c.agent_video, media.fps, IDENTITY_TIMES)
    for name, values in drift.items():
      out |= {f"drift_{name}/{time:g}s": [value] for time, value in zip(IDENTITY_TIMES, values) if value == value}
  return out


def join(parts: Sequence[Scores]) -> Scores:
  """Lists of many conversations, one after another."""
  names = dict.fromkeys(name for part in parts for name in part)
  return {name: [value for part in parts for value in part.get(name, [])] for name in names}


def summarise(scores: Scores) -> dict[str, dict[str, float]]:
  """{"name": {"mean", "n"}} of the values that are not NaN; lag and latency also have their median."""
  out = {}
  for name, values in scores.items():
    found = [value for value in values if value == value]
    out[name] = {"mean": metrics.mean(found), "n": len(found)}
    if "latency" in name or "lag" in name:
      out[name]["median"] = float(np.median(found)) if found else float("nan")
  return out
