"""Writes units.jsonl and captions, from which the timeline and the film are drawn.

All times are seconds from the start of the input.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.engine.interface import PHASES
from wanstreamer_jax.errors import UserError

THINKER_PHASES = ("commit", "perceive", "think")  # may overlap with the other phases of the unit before
ANSWER_PHASES = PHASES[1:]  # what lies between a complete unit of the user and the answer to it
BINS = 16  # envelope points per unit

CAPTION_CHARS = 76  # a caption ends before it outgrows two lines
CAPTION_GAP = 1.2  # seconds without a word that end a caption
CAPTION_HOLD = 1.6  # seconds for which a caption stays after its last word


@dataclasses.dataclass(frozen=True)
class UnitRow:
  """One unit of a session as it was served. Times in milliseconds, levels in dBFS, `start` in seconds."""

  unit: int
  start: float
  times: dict[str, float]
  text: str
  typed: tuple[str, ...]
  speaking: bool
  user_speaking: bool
  level: float
  user_level: float | None  # None: the input has no audio
  latency: float | None  # None: not in real time

  def json(self) -> str:
    """The line of units.jsonl."""
    value = {
      "unit": self.unit,
      "start": self.start,
      **{f"{phase}_ms": self.times[phase] for phase in PHASES},
      "total_ms": round(sum(self.times.values()), 3),
      "text": self.text,
      "state": "speaking" if self.speaking else "listening",
      "level_db": self.level,
      "user_state": "speaking" if self.user_speaking else "silent",
      "user_level_db": self.user_level,
      "typed": list(self.typed),
    }
    if self.latency is not None:
      value["latency_ms"] = self.latency
    return json.dumps(value, ensure_ascii=False)


def throughput(steps: Sequence[dict[str, float]], unit_ms: int, slots: int, overlaps: bool = False) -> str:
  """Whether the engine keeps up: one line for people with the median and p95 of a unit of all slots.

  steps: milliseconds by phase, of several units. overlaps: whether the next unit is thought while this one is
  performed, so that the longer of both counts, not their sum. Raises UserError when not even the median keeps up.
  """
  total = np.array([sum(step.values()) for step in steps])
  thinker = np.array([sum(step[phase] for phase in THINKER_PHASES) for step in steps])
  takes = np.maximum(thinker, total - thinker) if overlaps else total
  median, p95 = np.percentile(takes, (50, 95))
  latency = np.percentile([sum(step[phase] for phase in ANSWER_PHASES) for step in steps], 95)
  all_slots = f"{slots} slot{'s' if slots > 1 else ''}"
  if median > unit_ms:
    raise UserError(
      f"a unit of {all_slots} takes {median:.0f} ms here, but a new one comes every {unit_ms} ms: use fewer --slots, "
      "a smaller model, or a faster device"
    )
  verdict = "keeps up" if p95 < unit_ms else "does NOT always keep up: use fewer --slots"
  rate = f"a unit of {all_slots} takes {median:.0f} ms (p95 {p95:.0f}) of {unit_ms}: {verdict}"
  return f"{rate}; answers after {latency:.0f} ms (p95)"


def envelope(audio: np.ndarray | None) -> np.ndarray:
  """Lowest and highest sample in each of BINS parts of a unit [samples]: float32 [BINS, 2]; 0 without audio."""
  if audio is None:
    return np.zeros((BINS, 2), np.float32)
  parts = np.array_split(audio, BINS)
  return np.array([(part.min(), part.max()) for part in parts], np.float32)


class SessionLog:
  """A session's rows, written to units.jsonl as they come, and the envelopes of both sides' audio."""

  def __init__(self, path: Path, media: MediaConfig):
    self.media = media
    self.rows: list[UnitRow] = []
    self.user: list[np.ndarray] = []
    self.agent: list[np.ndarray] = []
    self.file = path.open("w", encoding="utf-8")

  def add(self, row: UnitRow, user: np.ndarray | None, agent: np.ndarray) -> None:
    """Appends a unit; `user` and `agent` are its audio, float32 [samples]."""
    self.file.write(row.json() + "\n")
    self.file.flush()
    self.rows.append(row)
    self.user.append(envelope(user))
    self.agent.append(envelope(agent))

  def close(self) -> None:
    self.file.close()

  @property
  def unit_s(self) -> float:
    return self.media.unit_ms / 1000


@dataclasses.dataclass(frozen=True)
class Caption:
  """Words that are shown together; word i appears at `times[i]`, all disappear at `end`."""

  words: tuple[str, ...]
  times: tuple[float, ...]
  end: float

  @property
  def start(self) -> float:
    return self.times[0]

  @property
  def text(self) -> str:
    return join(self.words)


def join(words: Sequence[str]) -> str:
  """Words as a sentence: separated by spaces, except before punctuation."""
  return re.sub(r"\s+([.,!?;:…]+)(?=\s|$)", r"\1", " ".join(words))


def captions(timed: Sequence[tuple[float, str]], last: float) -> list[Caption]:
  """Groups (seconds, word) into captions by pauses and length; each ends before the next one and before `last`."""
  groups: list[list[tuple[float, str]]] = []
  for time, word in timed:
    paused = not groups or time - groups[-1][-1][0] > CAPTION_GAP
    if paused or len(join([w for _, w in groups[-1]] + [word])) > CAPTION_CHARS:
      groups.append([])
    groups[-1].append((time, word))
  starts = [group[0][0] for group in groups[1:]] + [last]
  found = []
  for group, following in zip(groups, starts):
    times, words = zip(*group)
    found.append(Caption(words, times, end=min(times[-1] + CAPTION_HOLD, following)))
  return found


def agent_captions(log: SessionLog) -> list[Caption]:
  """What the agent wrote, by the time it was written."""
  return captions(written_words(log.rows), len(log.rows) * log.unit_s)


def written_words(rows: Sequence[UnitRow]) -> list[tuple[float, str]]:
  """(seconds, word): a word has the time of the unit that began it, even if a later unit completed it."""
  words: list[tuple[float, str]] = []
  for row in rows:
    continued, *begun = row.text.split(" ")
    if continued:
      time, beginning = words.pop() if words else (row.start, "")
      words.append((time, beginning + continued))
    words += [(row.start, word) for word in begun if word]
  return words


def typed_captions(log: SessionLog) -> list[Caption]:
  """What the user typed, by the time it was typed."""
  words = [(row.start, word) for row in log.rows for text in row.typed for word in text.split()]
  return captions(words, len(log.rows) * log.unit_s)


def stamp(seconds: float) -> str:
  """hh:mm:ss.mmm, as WebVTT wants it."""
  millis = round(seconds * 1000)
  return f"{millis // 3_600_000:02d}:{millis // 60_000 % 60:02d}:{millis // 1000 % 60:02d}.{millis % 1000:03d}"


def write_vtt(path: Path, log: SessionLog) -> None:
  """The agent's text as WebVTT captions."""
  lines = ["WEBVTT", "", "NOTE generated by wanstreamer_jax", ""]
  for caption in agent_captions(log):
    text = caption.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    lines += [f"{stamp(caption.start)} --> {stamp(caption.end)}", text, ""]
  path.write_text("\n".join(lines), encoding="utf-8")
