"""Scores one conversation. The same formulas judge the model, the baselines and the truth."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.loudness import levels
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.eval import metrics, turns
from wanstreamer_jax.eval.answers import GRACE, Question, answer_scores, canonical, plain
from wanstreamer_jax.eval.cause import LEAST, cause_scores
from wanstreamer_jax.eval.intervals import Scores
from wanstreamer_jax.eval.turns import YIELD_WITHIN, Opportunity, Talk

IDENTITY_TIMES = (0.5, 5.0, 10.0, 15.0, 18.5, 55.0)  # seconds
STATES = ("speaking", "listening")
AROUND = 0.2  # seconds before and after speech that count as speaking when mouth and sound are compared
BACKCHANNELS = (["mhm"], ["mm"], ["uh"], ["huh"], ["okay"], ["yeah"])


@dataclasses.dataclass(frozen=True)
class Script:
  """The acts of the user that call for a reaction."""

  questions: tuple[Question, ...] = ()
  pauses: tuple[tuple[float, float], ...] = ()  # inside the user's sentences
  interruptions: tuple[float, ...] = ()  # when the user cuts in on the agent
  opportunities: tuple[Opportunity, ...] = ()
  speech: tuple[tuple[float, float], ...] = ()  # when the user speaks
  idle: tuple[tuple[float, float], ...] = ()  # when the user neither acts nor waits for anything
  noises: tuple["Noise", ...] = ()


@dataclasses.dataclass(frozen=True)
class Noise:
  """A cough, or another noise of the user that is no interruption. until: when the user acts next, at most 1.5 s later.
  last_word: the last word of the answer that was called for before, so that an answer that ends is not a stop."""

  start: float
  until: float
  asked: float = 0.0  # when that answer was called for
  last_word: str = ""


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


def cuts(text: np.ndarray, tokenizer: TextTokenizer, unit_seconds: float) -> list[float]:
  """The starts of the units with `<cut>`: the agent broke off what it was saying. text: int32 [units, n]."""
  return [float(unit * unit_seconds) for unit in np.flatnonzero((text == tokenizer.cut_id).any(axis=1))]


def spoken(words: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
  """The words of a text stream that are to be voiced: those outside parentheses, which may span several words."""
  return [pair for pair, inside in zip(words, _in_parentheses(words)) if not inside]


def directives(words: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
  """The words of a text stream in parentheses."""
  return [pair for pair, inside in zip(words, _in_parentheses(words)) if inside]


def _in_parentheses(words: Sequence[tuple[float, str]]) -> list[bool]:
  found, inside = [], False
  for _, word in words:
    inside = inside or word.startswith("(")
    found.append(inside)
    inside = inside and not word.endswith(")")
  return found


def mouth_opening(video: np.ndarray) -> np.ndarray:
  """A proxy for how far the mouth is open in each frame: float [T], the mean colour distance (L1 over RGB) of the mouth
  (55 % to 68 % of the rows, 45 % to 55 % of the columns) from a closed one, the median of that fifth of the frames in
  which no throat is seen: in which the darkest tenth of these pixels differs least from their mean. On drawn agents of
  duplex_world, which sway, nod, turn, tilt and smile, it correlates by 0.87 with the true opening."""
  height, width = video.shape[1:3]
  rows, columns = slice(round(0.55 * height), round(0.68 * height)), slice(round(0.45 * width), round(0.55 * width))
  box = video[:, rows, columns].astype(np.float32)
  light = np.sort(box.mean(axis=-1).reshape(len(box), -1), axis=1)
  contrast = light.mean(axis=1) - light[:, : max(3, light.shape[1] // 10)].mean(axis=1)
  closed = np.argsort(contrast, kind="stable")[: max(1, len(box) // 5)]
  return np.abs(box - np.median(box[closed], axis=0)).sum(axis=-1).mean(axis=(1, 2))


def score(conversation: Conversation, media: MediaConfig, tokenizer: TextTokenizer) -> Scores:
  """All scores of one conversation, as lists with one entry per occasion, so that conversations can be joined."""
  c, script = conversation, conversation.script
  speech = turns.speech_intervals(c.agent_audio, media.sample_rate)
  words = timed_words(c.agent_text, tokenizer, media.unit_ms / 1000)
  seconds = len(c.agent_audio) / media.sample_rate
  user = np.array(script.speech, np.float64).reshape(-1, 2)
  out = talk_scores(script, speech, words, seconds, cuts(c.agent_text, tokenizer, media.unit_ms / 1000))
  out["talks_over_user"] = [turns.overlap(user, speech) / max(np.diff(user, axis=1).sum(), 1e-9)] if len(user) else []
  return out | picture_scores(c, media, speech)


def talk_scores(
  script: Script, speech: np.ndarray, words: Sequence[tuple[float, str]], seconds: float, cuts: Sequence[float] = ()
) -> Scores:
  """Scores of what the agent says and when. speech: [N, 2]; words: its whole text stream, timed; cuts: when it wrote
  `<cut>`."""
  voiced = spoken(words)
  content = [time for time, word in voiced if plain([word]) not in BACKCHANNELS]
  mere = [time for time, word in voiced if plain([word]) in BACKCHANNELS]
  out = answer_scores(script.questions, voiced, directives(words))
  out |= turn_scores(script, Talk(speech, content, mere, cuts), words, seconds)
  out["talk_share"] = [turns.talk_share(speech, seconds)]
  out["words_per_minute"] = [60 * len(voiced) / seconds]
  return out


def turn_scores(script: Script, talk: Talk, words: Sequence[tuple[float, str]], seconds: float) -> Scores:
  """Turn-taking: see `turns.py` and `cause.py`. words: the whole text stream."""
  speech = talk.speech
  noises = [noise_opportunity(noise, talk, words) for noise in script.noises]
  opportunities = [*script.opportunities, *(found for found in noises if found)]
  hits = turns.turn_taking(opportunities, talk)
  out: Scores = {("turn_taking" if name == "all" else f"turn_taking/{name}"): list(map(float, values))
                 for name, values in hits.items()}  # fmt: skip
  out["false_stop"] = [1.0 - hit for hit in hits.get("continue", [])]
  hand_offs = [o for o in opportunities if o.kind == "hand_off"]
  out["tor/hand_off"] = [float(turns.take_over(speech, talk.words, o.start, o.end)) for o in hand_offs]
  latencies = [turns.answer_latency(q.end, q.until, speech, talk.words) for q in script.questions if not q.directive]
  out["responds"] = [float(latency is not None) for latency in latencies]
  out["response_latency"] = [latency for latency in latencies if latency is not None]
  stops = [turns.stop_latency(time, speech) for time in script.interruptions]
  out["stop_latency"] = [stop for stop in stops if stop is not None]
  pauses = np.array(script.pauses, np.float64).reshape(-1, 2)
  out["false_take_over"] = list(map(float, turns.false_take_overs(pauses, speech)))
  return out | cause_scores(script.questions, opportunities, script.interruptions, script.idle, talk, seconds)


def noise_opportunity(noise: Noise, talk: Talk, words: Sequence[tuple[float, str]]) -> Opportunity | None:
  """What a noise of the user calls for: to speak on, if the agent speaks; else silence. An agent that falls silent
  within 1.5 s has spoken on if it has written the last word of its answer, and no `<cut>`; None where it was about to
  end within 0.3 s anyway."""
  stop = turns.stop_latency(noise.start, talk.speech)
  if stop is None:
    return Opportunity("stay_silent", noise.start, noise.until, name="noise")
  said = canonical(word for time, word in words if noise.asked - GRACE <= time < noise.start + stop)
  cut = any(noise.start <= time < noise.start + stop + YIELD_WITHIN for time in talk.cuts)
  finished = not cut and canonical([noise.last_word])[:1] in [[word] for word in said]
  if stop < LEAST and finished:
    return None
  return Opportunity("continue", noise.start, noise.start + YIELD_WITHIN, finished=finished)


def lower_face(video: np.ndarray) -> np.ndarray:
  """Lips and chin of pictures [T, H, W, 3]: 52 % to 78 % of the rows, 33 % to 67 % of the columns."""
  height, width = video.shape[1:3]
  return video[:, round(0.52 * height) : round(0.78 * height), round(0.33 * width) : round(0.67 * width)]


def speaking_frames(frames: int, fps: int, speech: np.ndarray) -> np.ndarray:
  """Whether the agent speaks, at most AROUND before or after: bool [frames]. speech: [N, 2]."""
  speaking = np.zeros(frames, bool)
  for start, end in speech:
    speaking[max(0, round((start - AROUND) * fps)) : round((end + AROUND) * fps)] = True
  return speaking


def lips(audio: np.ndarray, video: np.ndarray, media: MediaConfig, speech: np.ndarray) -> tuple[float, float]:
  """(lag in ms, correlation) of mouth and sound while the agent speaks: `metrics.lip_sync`."""
  speaking = speaking_frames(len(video), media.fps, speech)
  return metrics.lip_sync(mouth_opening(video), levels(audio, len(video)), media.fps, speaking)


def picture_scores(c: Conversation, media: MediaConfig, speech: np.ndarray) -> Scores:
  """Lip sync while the agent speaks, sync of sound and motion, detail of lips and chin, drift from the portrait."""
  lag, score = lips(c.agent_audio, c.agent_video, media, speech)
  out: Scores = {"lip_lag_ms": [lag], "lip_correlation": [score]}
  out["av_align"] = [metrics.av_align(c.agent_audio, c.agent_video)]
  speaking, face = speaking_frames(len(c.agent_video), media.fps, speech), lower_face(c.agent_video)
  for state, frames in zip(STATES, (face[speaking], face[~speaking])):
    out[f"detail/{state}"] = [metrics.gradient_energy(frames)]
  if c.portrait is not None:
    drift = metrics.identity_drift(c.portrait, c.agent_video, media.fps, IDENTITY_TIMES)
    for name, values in drift.items():
      out |= {f"drift_{name}/{time:g}s": [value] for time, value in zip(IDENTITY_TIMES, values) if value == value}
  return out


def with_sharpness(parts: Sequence[Scores], truth: Sequence[Scores]) -> list[Scores]:
  """Adds `sharpness/speaking` and `sharpness/listening`: the detail of lips and chin over that of the true agent of the
  same session in the same state, 1 where it is as sharp; `sharpness` is their mean. Sessions that `truth` lacks get
  none."""
  out = []
  for part, true in zip(parts, truth):
    ratios = {}
    for state in STATES:
      mine, its = (scores.get(f"detail/{state}", []) for scores in (part, true))
      ratios[state] = mine[0] / its[0] if mine and its and its[0] > 0 else float("nan")
    both = {f"sharpness/{state}": [ratio] for state, ratio in ratios.items()}
    out.append(part | both | {"sharpness": [metrics.mean(list(ratios.values()))]})
  return out + list(parts[len(out) :])


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
