"""A body has a look and a voice, and moves on a clock. It is told what to do (say, hold, nod, look) and renders any
span of time.

Everything is a function of time, so that rendering a session at once or unit by unit gives the same frames and samples.
"""

import dataclasses

import numpy as np

from wanstreamer_jax.data.duplex_world.faces import TRACKS, Held, Look, draw, still_tracks
from wanstreamer_jax.data.duplex_world.phones import PHONES, SILENCE
from wanstreamer_jax.data.duplex_world.speech import Utterance, synthesise
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.session import Phone, Word

RAISE_SECONDS = 0.4
FADE_SECONDS = 0.04
BLINK_SECONDS = 0.2


@dataclasses.dataclass
class Line:
  """An utterance on the session's clock; `cut` is when an interruption silences it."""

  start: float
  utterance: Utterance
  cut: float = np.inf

  @property
  def end(self) -> float:
    return min(self.cut, self.start + self.utterance.words[-1].end)


@dataclasses.dataclass
class Holding:
  """Something held up from `start` on, lowered at `end`."""

  thing: Held
  start: float
  end: float = np.inf


class Body:
  """One participant. Times are seconds on the session's clock."""

  TRACKS = TRACKS  # names of what `tracks` gives, besides "speaking"

  def __init__(self, look: Look, voice: Voice, seed: int, *, fps: int, sample_rate: int):
    self.look, self.voice, self.seed = look, voice, seed
    self.fps, self.sample_rate = fps, sample_rate
    self.lines: list[Line] = []
    self.holdings: list[Holding] = []
    self.nods: list[float] = []
    self.smiles: list[tuple[float, float]] = []
    self.attention: list[tuple[float, float]] = []  # intervals in which it looks into the camera
    self._phase = np.random.default_rng([seed, 1]).uniform(0, 2 * np.pi, 8)

  def say(self, words: list[str], start: float, *, question: bool = False, pace: float = 1.0) -> Line:
    """Speaks from `start` on. A "," in `words` is a short pause."""
    seed = int(np.random.default_rng([self.seed, len(self.lines), 2]).integers(2**31))
    line = Line(start, synthesise(words, self.voice, self.sample_rate, seed, question, pace))
    self.lines.append(line)
    return line

  def hold(self, thing: Held, start: float) -> None:
    """Raises something, lowering what was held."""
    self.lower(start)
    self.holdings.append(Holding(thing, start))

  def lower(self, time: float) -> None:
    if self.holdings and self.holdings[-1].end == np.inf:
      self.holdings[-1].end = time

  def speech(self) -> tuple[Word, ...]:
    """The words that were voiced, on the session's clock."""
    out = []
    for line in self.lines:
      for word in line.utterance.words:
        start, end = line.start + word.start, min(line.start + word.end, line.cut)
        if start < line.cut:
          out.append(Word(word.text, start, start, end))
    return tuple(out)

  def phones(self) -> tuple[Phone, ...]:
    out = []
    for line in self.lines:
      for phone in line.utterance.phones:
        start = line.start + phone.start
        if start < line.cut:
          out.append(Phone(phone.name, start, min(line.start + phone.end, line.cut)))
    return tuple(out)

  def audio(self, first: int, last: int) -> np.ndarray:
    """Samples [first, last) of the voice: float32."""
    out = np.zeros(last - first, np.float32)
    for line in self.lines:
      offset = round(line.start * self.sample_rate)
      samples = line.utterance.audio
      if line.cut < np.inf:
        samples = _faded(samples, round((line.cut - line.start) * self.sample_rate), self.sample_rate)
      a, b = max(first, offset), min(last, offset + len(samples))
      if a < b:
        out[a - first : b - first] += samples[a - offset : b - offset]
    return out

  def tracks(self, first: int, last: int) -> dict[str, np.ndarray]:
    """All movements, per frame of [first, last): float32 arrays by name."""
    time = (np.arange(first, last) + 0.5) / self.fps
    tracks = still_tracks(last - first)
    tracks["mouth"], tracks["mouth_width"], tracks["mouth_round"] = self._mouth(time)
    tracks["blink"] = self._blinks(time)
    tracks["sway"], tracks["tilt"], tracks["brow"] = self._idle(time)
    tracks["nod"] = sum((_nod(time - start) for start in self.nods), np.zeros_like(time))
    tracks["gaze_x"], tracks["gaze_y"] = self._gaze(time)
    for start, end in self.smiles:
      tracks["mouth_width"] += 0.7 * ((time >= start) & (time < end))
    tracks["held"], _ = self._held(time)
    speaking = np.zeros(len(time), bool)
    for line in self.lines:
      speaking |= (time >= line.start) & (time < line.end)
    tracks["speaking"] = speaking
    return {name: np.asarray(track, np.float32) for name, track in tracks.items()}

  def video(self, first: int, last: int, height: int, width: int) -> np.ndarray:
    """Frames [first, last): uint8 [frames, height, width, 3]."""
    time = (np.arange(first, last) + 0.5) / self.fps
    _, things = self._held(time)
    tracks = self.tracks(first, last)
    del tracks["speaking"]
    return draw(self.look, tracks, things, height, width)

  def _mouth(self, time: np.ndarray) -> np.ndarray:
    """Opening, width and rounding [3, frames], smoothed over 70 ms."""
    out = np.zeros((3, len(time)), np.float32)
    out[1] = 0.5
    for line in self.lines:
      phones = line.utterance.phones
      if line.end < time[0] - 0.2 or line.start > time[-1] + 0.2:
        continue
      edges = np.array([phone.end for phone in phones])
      shapes = np.array([PHONES[p.name].mouth if p.name != SILENCE else (0, 0.5, 0) for p in phones])
      total = np.zeros((3, len(time)))
      inside = np.zeros(len(time))
      for shift in (-0.035, 0.0, 0.035):
        local = time + shift - line.start
        on = (local >= 0) & (local < edges[-1]) & (time + shift < line.cut)
        shape = shapes[np.clip(np.searchsorted(edges, local, "right"), 0, len(edges) - 1)].T
        total += np.where(on, shape, np.array([[0.0], [0.5], [0.0]])) / 3
        inside += on
      out = np.where(inside > 0, total, out)
    return out

  def _blinks(self, time: np.ndarray) -> np.ndarray:
    """One blink at a random time in every window of 3.2 s."""
    window = np.floor(time / 3.2).astype(int)
    closed = np.zeros(len(time))
    for index in np.unique(window):
      start = 3.2 * index + np.random.default_rng([self.seed, 3, index + 1]).uniform(0.2, 2.8)
      closed += np.clip(1.4 * np.sin(np.pi * np.clip((time - start) / BLINK_SECONDS, 0, 1)), 0, 1)
    return np.clip(closed, 0, 1)

  def _idle(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slow sway, tilt and brow movement: sums of sines."""
    p = self._phase
    sway = 0.7 * np.sin(0.9 * time + p[0]) + 0.3 * np.sin(2.1 * time + p[1])
    tilt = 0.6 * np.sin(0.6 * time + p[2]) + 0.3 * np.sin(1.7 * time + p[3])
    return sway, tilt, 0.3 * np.sin(0.5 * time + p[4])

  def _gaze(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A new direction every 1.1 s; into the camera during `attention` and while speaking."""
    window = np.floor(time / 1.1).astype(int)
    away = np.zeros((2, len(time)))
    for index in np.unique(window):
      r = np.random.default_rng([self.seed, 4, index + 1])
      target = r.uniform(-1, 1, 2) * (r.random() < 0.4)
      away[:, window == index] = target[:, None]
    steady = np.zeros(len(time), bool)
    for start, end in [*self.attention, *((line.start, line.end) for line in self.lines)]:
      steady |= (time >= start) & (time < end)
    return np.where(steady, 0.0, away[0]), np.where(steady, 0.0, away[1])

  def _held(self, time: np.ndarray) -> tuple[np.ndarray, list[Held | None]]:
    """For each frame, how far something is raised (0..1), and what it is."""
    raised = np.zeros(len(time))
    things: list[Held | None] = [None] * len(time)
    for holding in self.holdings:
      up = np.clip((time - holding.start) / RAISE_SECONDS, 0, 1)
      down = np.clip((time - holding.end) / RAISE_SECONDS, 0, 1) if holding.end < np.inf else 0.0
      level = np.clip(up - down, 0, 1)
      for i in np.flatnonzero(level > 0).tolist():
        raised[i], things[i] = level[i], holding.thing
    return raised, things


def _nod(u: np.ndarray) -> np.ndarray:
  """Two quick nods within 0.7 s; u: seconds since their start."""
  return np.where((u >= 0) & (u < 0.7), np.sin(2 * np.pi * u / 0.7) ** 2, 0.0)


def _faded(samples: np.ndarray, length: int, sample_rate: int) -> np.ndarray:
  """The first `length` samples, fading out at the end."""
  samples = samples[: max(0, length)].copy()
  fade = min(len(samples), round(FADE_SECONDS * sample_rate))
  if fade:
    samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
  return samples
