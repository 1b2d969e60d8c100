"""A body has a look and a voice, and moves on a clock. It is told what to do (say, hold, nod, look) and renders any
span of time.

Everything is a function of time, so that rendering a session at once or unit by unit gives the same frames and samples.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from wanstreamer_jax.data.duplex_world.faces import TRACKS, Look, draw, still_tracks
from wanstreamer_jax.data.duplex_world.motion import REST, Lips, bump, eased, moment, nod, shake
from wanstreamer_jax.data.duplex_world.speech import Utterance, synthesise
from wanstreamer_jax.data.duplex_world.things import Held, Raised
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.session import Phone, Word
from wanstreamer_jax.errors import DataError

RAISE_SECONDS = 0.4
FADE_SECONDS = 0.04
AFTER = 2.0  # seconds in which whatever was begun or ended has come to rest
BLINK_SECONDS = 0.22
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclasses.dataclass
class Line:
  """An utterance on the session's clock; `cut` is when an interruption silences it."""

  start: float
  utterance: Utterance
  cut: float = np.inf
  lips: Lips | None = None

  @property
  def end(self) -> float:
    return min(self.cut, self.start + self.utterance.words[-1].end)


@dataclasses.dataclass
class Holding:
  """A hand that is up from `start` on and goes down at `end`: with a thing, or for a gesture."""

  what: Held | str
  place: str
  start: float
  end: float = np.inf


class Body:
  """One participant. Times are seconds on the session's clock."""

  TRACKS = TRACKS  # names of what `tracks` gives, besides "speaking"

  def __init__(self, look: Look, voice: Voice, seed: int, *, fps: int, sample_rate: int):
    self.appearance, self.voice, self.seed = look, voice, seed
    self.fps, self.sample_rate = fps, sample_rate
    self.speak = synthesise  # or `speech.timing`, which is enough for a script without media
    self.lines: list[Line] = []
    self.sounds: list[tuple[float, np.ndarray]] = []  # (start, samples) of what is no speech
    self.holdings: list[Holding] = []
    self.nods: list[float] = []
    self.shakes: list[float] = []
    self.smiles: list[tuple[float, float]] = []
    self.surprises: list[tuple[float, float]] = []
    self.looks: list[tuple[str, float, float]] = []
    self.attention: list[tuple[float, float]] = []  # intervals in which it looks into the camera
    self._phase = np.random.default_rng([seed, 1]).uniform(0, 2 * np.pi, 10)

  def say(self, words: list[str], start: float, *, question: bool = False, pace: float = 1.0) -> Line:
    """Speaks from `start` on. A "," in `words` is a short pause."""
    seed = int(np.random.default_rng([self.seed, len(self.lines), 2]).integers(2**31))
    line = Line(start, self.speak(words, self.voice, self.sample_rate, seed, question, pace))
    self.lines.append(line)
    return line

  def make_sound(self, audio: np.ndarray, start: float) -> None:
    """Makes a sound that is no speech, such as a cough. audio: float32 [samples]."""
    self.sounds.append((start, audio))

  def hold(self, things: Held | tuple[Held, ...], start: float) -> None:
    """Raises one thing, or several at different places, lowering what was held. Raises DataError for one place."""
    things = (things,) if isinstance(things, Held) else things
    places = [thing.place for thing in things]
    if len(set(places)) < len(places):
      raise DataError(f"things are held at {', '.join(places)}: expected different places")
    self.lower(start)
    self.holdings += [Holding(thing, thing.place, start) for thing in things]

  def lower(self, time: float) -> None:
    """Lowers all that is held."""
    for holding in self.holdings:
      if holding.end == np.inf:
        holding.end = time

  def wave(self, start: float, seconds: float = 1.6) -> None:
    """Waves with a free hand."""
    self._gesture("wave", start, seconds)

  def thumb_up(self, start: float, seconds: float = 2.0) -> None:
    """Shows a thumb with a free hand."""
    self._gesture("thumb", start, seconds)

  def _gesture(self, name: str, start: float, seconds: float) -> None:
    taken = {holding.place for holding in self.holdings if holding.end > start}
    place = "left" if taken & {"right", "up"} and "left" not in taken else "right"
    self.holdings.append(Holding(name, place, start, start + max(seconds - RAISE_SECONDS, RAISE_SECONDS)))

  def nod(self, start: float) -> None:
    """Nods twice, within 0.9 s."""
    self.nods.append(start)

  def shake(self, start: float) -> None:
    """Shakes its head, within 1.2 s."""
    self.shakes.append(start)

  def smile(self, start: float, end: float) -> None:
    self.smiles.append((start, end))

  def surprise(self, start: float, end: float) -> None:
    """Raises brows and opens eyes and mouth."""
    self.surprises.append((start, end))

  def look(self, direction: str, start: float, end: float) -> None:
    """Turns eyes and head "left", "right", "up" or "down", as seen in the picture. Raises DataError for another."""
    if direction not in DIRECTIONS:
      raise DataError(f"direction is {direction!r}: expected one of {', '.join(DIRECTIONS)}")
    self.looks.append((direction, start, end))

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
    for start, samples in self.sounds:
      offset = round(start * self.sample_rate)
      a, b = max(first, offset), min(last, offset + len(samples))
      if a < b:
        out[a - first : b - first] += samples[a - offset : b - offset]
    for line in self.lines:
      offset = round(line.start * self.sample_rate)
      samples = line.utterance.audio
      if offset >= last or offset + len(samples) <= first:
        continue
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
    for name, values in zip(("mouth", "mouth_width", "mouth_round", "tongue", "bite"), self._mouth(time)):
      tracks[name] = values
    tracks["blink"] = self._blinks(time)
    tracks |= self._idle(time)
    near = functools.partial(_near, time)
    holdings = near(self.holdings, lambda holding: (holding.start, holding.end))
    tracks["nod"] = tracks["nod"] + _total(time, [nod(time - start) for start in near(self.nods)])
    tracks["turn"] = tracks["turn"] + 0.8 * _total(time, [shake(time - start) for start in near(self.shakes)])
    tracks["gaze_x"], tracks["gaze_y"] = self._gaze(time)
    for direction, start, end in near(self.looks, lambda look: look[1:]):
      (dx, dy), level = DIRECTIONS[direction], eased(time, start, end)
      tracks["gaze_x"] = (1 - level) * tracks["gaze_x"] + dx * level
      tracks["gaze_y"] = (1 - level) * tracks["gaze_y"] + dy * level
      tracks["turn"] = tracks["turn"] + 0.8 * dx * level
      tracks["nod"] = tracks["nod"] + 0.7 * dy * level
    tracks["smile"] = _most(time, [eased(time, start, end) for start, end in near(self.smiles)])
    tracks["surprise"] = _most(time, [eased(time, start, end, 0.16) for start, end in near(self.surprises)])
    tracks["held"] = _most(time, [_level(h, time) for h in holdings if isinstance(h.what, Held)])
    for gesture in ("wave", "thumb"):
      tracks[gesture] = _most(time, [_level(h, time) for h in holdings if h.what == gesture])
    said = near([(line.start, line.end) for line in self.lines])
    tracks["speaking"] = _most(time, [(time >= start) & (time < end) for start, end in said])
    return {name: np.asarray(track, np.float32) for name, track in tracks.items()}

  def video(self, first: int, last: int, height: int, width: int, slow: int = 1) -> np.ndarray:
    """Frames [first, last): uint8 [frames, height, width, 3]. slow: how many frames show the picture of the first."""
    tracks = {name: track[::slow] for name, track in self.tracks(first, last).items() if name != "speaking"}
    drawn = draw(self.appearance, tracks, self.hands(first, last)[::slow], height, width)
    return drawn if slow == 1 else np.repeat(drawn, slow, axis=0)[: last - first]

  def hands(self, first: int, last: int) -> list[list[Raised]]:
    """The hands that are up in each frame of [first, last)."""
    time = (np.arange(first, last) + 0.5) / self.fps
    hands: list[list[Raised]] = [[] for _ in time]
    for holding in _near(time, self.holdings, lambda holding: (holding.start, holding.end)):
      level = _level(holding, time)
      swing = np.sin(2 * np.pi * 2.2 * (time - holding.start)) if holding.what == "wave" else np.zeros(len(time))
      for i in np.flatnonzero(level > 0).tolist():
        hands[i].append(Raised(holding.what, holding.place, float(level[i]), float(swing[i])))
    return hands

  def _mouth(self, time: np.ndarray) -> np.ndarray:
    """Opening, width, rounding, tongue and lower lip on teeth [5, frames]."""
    out = np.zeros((5, len(time)))
    out[1] = REST[1]
    for line in self.lines:
      if line.end < time[0] - 0.3 or line.start > time[-1] + 0.3:
        continue
      if line.lips is None:
        line.lips = Lips(line.utterance, self.sample_rate)
      local = time - line.start
      on = (local >= -0.1) & (local < line.lips.edges[-1] + 0.1)
      shape = line.lips.at(local)
      shape[[0, 3, 4]] *= 1 - np.clip((time - line.cut) / 0.08, 0, 1)  # an interruption closes the mouth
      out = np.where(on, shape, out)
    return out

  def _blinks(self, time: np.ndarray) -> np.ndarray:
    """One blink at a random time in every window of 3.2 s, sometimes two; lids fall faster than they rise."""
    closed = np.zeros(len(time))
    for index in np.unique(np.floor(time / 3.2).astype(int)).tolist():
      when, again, _, _ = moment(self.seed, 3, index)
      for start in (0.2 + 2.2 * when, 0.2 + 2.2 * when + 0.3)[: 1 + (again < 0.15)]:
        u = (time - 3.2 * index - start) / BLINK_SECONDS
        closed = np.maximum(closed, np.clip(np.minimum(3.6 * u, 1.9 - 1.9 * u), 0, 1))
    return closed

  def _idle(self, time: np.ndarray) -> dict[str, np.ndarray]:
    """Slow sway, turn, tilt and brows, sums of sines; while speaking, brows and head mark some of the words."""
    p = self._phase
    wave = lambda speed, phase: np.sin(speed * time + p[phase])
    accents = np.zeros(len(time))
    for number, line in enumerate(self.lines):
      if line.start - 0.2 > time[-1] or line.end + 1 < time[0]:
        continue
      for index, word in enumerate(line.utterance.words):
        strength, *_ = moment(self.seed, 5 + number, index)
        at = line.start + word.start - 0.08
        if strength < 0.4 and at < line.cut:
          accents += (0.5 + strength) * bump(time - at, 0.5)
    return {
      "sway": 0.6 * wave(0.9, 0) + 0.3 * wave(2.1, 1),
      "turn": 0.22 * wave(0.7, 5) + 0.1 * wave(1.9, 6),
      "tilt": 0.55 * wave(0.6, 2) + 0.3 * wave(1.7, 3),
      "brow": 0.25 * wave(0.5, 4) + 0.7 * accents,
      "nod": 0.12 * wave(0.8, 7) + 0.22 * accents,
    }

  def _gaze(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A new direction every 1.1 s; into the camera during `attention` and while speaking."""
    window = np.floor(time / 1.1).astype(int)
    away = np.zeros((2, len(time)))
    for index in np.unique(window).tolist():
      x, y, rare, _ = moment(self.seed, 4, index)
      if rare < 0.4:
        away[:, window == index] = [[2 * x - 1], [1.2 * y - 0.6]]
    steady = np.zeros(len(time), bool)
    for start, end in _near(time, [*self.attention, *((line.start, line.end) for line in self.lines)]):
      steady |= (time >= start) & (time < end)
    return np.where(steady, 0.0, away[0]), np.where(steady, 0.0, away[1])


def _near(time: np.ndarray, moves: Sequence[Any], span: Callable[[Any], Any] | None = None) -> list[Any]:
  """Those of a long session's moves that can be seen at these times; all others are at rest, exactly.

  span: (start, end) of a move; None: moves are such pairs, or starts of something short.
  """
  first, last, near = time[0] - AFTER, time[-1], []
  for move in moves:
    start, end = span(move) if span else move if isinstance(move, tuple) else (move, move)
    if start <= last and end >= first:
      near.append(move)
  return near


def _total(time: np.ndarray, parts: Iterable[np.ndarray]) -> np.ndarray:
  return functools.reduce(lambda a, b: a + b, parts, np.zeros(len(time)))


def _most(time: np.ndarray, parts: Iterable[np.ndarray]) -> np.ndarray:
  return functools.reduce(lambda a, b: np.maximum(a, b), parts, np.zeros(len(time)))


def _level(holding: Holding, time: np.ndarray) -> np.ndarray:
  """How far a hand is up, 0 to 1."""
  return eased(time, holding.start, holding.end, RAISE_SECONDS)


def _faded(samples: np.ndarray, length: int, sample_rate: int) -> np.ndarray:
  """The first `length` samples, fading out at the end."""
  samples = samples[: max(0, length)].copy()
  fade = min(len(samples), round(FADE_SECONDS * sample_rate))
  if fade:
    samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
  return samples
