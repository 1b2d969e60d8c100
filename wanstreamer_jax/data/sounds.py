"""Sounds to train and to judge audio codecs on: voices, chords, noise, rooms.

Speech is read from a folder of sound files (a folder below it for each voice, if there are several), or made by the
voices of duplex_world: hundreds, by the engines of `data.voices`. All else is made up here. Every sound is a pure
function of its kind, its length and its seed. `SoundSource` gives sessions without pictures and text, whose two sides
are sounds: of all KINDS in turn (TURNS["sounds"]), or voices alone, for the codec of an agent that only speaks.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config, MediaConfig
from wanstreamer_jax.data.duplex_world.phones import LEXICON
from wanstreamer_jax.data.duplex_world.speech import synthesise
from wanstreamer_jax.data.duplex_world.voices import agent_voice, cough, engines_of, user_voice, versions
from wanstreamer_jax.data.session import Session, Side, Word, World
from wanstreamer_jax.errors import DataError

KINDS = ("voice", "two voices", "chord", "noise", "room", "cough")
# The kinds of one side after the other. "sounds": half of them one voice, then every other kind of sound once.
TURNS = {"sounds": ("voice",) * 4 + KINDS[1:5], "voices": ("voice",) * 15 + ("cough",)}
VERSION = 2
MAX_FILE_SECONDS = 600.0
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus")


@dataclasses.dataclass(frozen=True)
class Speech:
  """Who speaks: the files of a folder, or voices of duplex_world by `engines` where it is ""."""

  folder: str = ""
  engines: tuple[str, ...] = ("formant",)

  @functools.cached_property
  def voices(self) -> list[list[pathlib.Path]]:
    """The files of each voice. Raises DataError for a folder without any."""
    root = pathlib.Path(self.folder)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
      raise DataError(f"{root} holds no sound files ({', '.join(SUFFIXES)}): give a folder of speech")
    return [[file for file in files if file.parent == parent] for parent in sorted({file.parent for file in files})]

  def utterance(self, voice: int, media: MediaConfig, rng: np.random.Generator) -> np.ndarray:
    """A sentence or a file of voice `voice`, any number: float32 [samples]."""
    if self.folder:
      from wanstreamer_jax.data.media import read_audio  # here, since voices are made where there is no media library

      files = self.voices[voice % len(self.voices)]
      return read_audio(files[int(rng.integers(len(files)))], media, MAX_FILE_SECONDS)
    words = list(LEXICON)
    chosen = [words[i] for i in rng.integers(len(words), size=rng.integers(2, 9))]
    draw = (user_voice, agent_voice, agent_voice)[voice % 3]
    speaker = draw(np.random.default_rng(voice), False, self.engines)
    return synthesise(chosen, speaker, media.sample_rate, int(rng.integers(1 << 30)), rng.random() < 0.3).audio

  def describe(self) -> dict[str, Any]:
    """What a manifest says about it: the files by name and size."""
    if not self.folder:
      return {"speech": ",".join(self.engines), **versions(self.engines)}
    files = [f"{path.relative_to(self.folder)} {path.stat().st_size}" for paths in self.voices for path in paths]
    return {"speech": hashlib.sha256("\n".join(files).encode()).hexdigest(), "files": len(files)}


def sound(kind: str, samples: int, seed: int, media: MediaConfig, speech: Speech) -> np.ndarray:
  """One sound of a kind of KINDS: float32 [samples] in [-1, 1], at a random level."""
  rng = np.random.default_rng([seed, KINDS.index(kind)])
  rate = media.sample_rate
  if kind == "voice":
    audio = talk(samples, media, speech, rng)
  elif kind == "two voices":
    audio = talk(samples, media, speech, rng) + rng.uniform(0.5, 1) * talk(samples, media, speech, rng)
  elif kind == "chord":
    audio = chords(samples, rate, rng)
  elif kind == "noise":
    audio = noise(samples, rate, rng)
  elif kind == "cough":
    audio = coughs(samples, rate, rng)
  else:
    audio = in_room(talk(samples, media, speech, rng), rate, rng)
  loudness = np.sqrt(np.mean(np.square(audio))) + 1e-9
  audio = audio * (10 ** rng.uniform(-1.5, -0.9) / loudness)  # -30 to -18 dB
  return (audio / max(1.0, np.abs(audio).max() / 0.98)).astype(np.float32)


def talk(samples: int, media: MediaConfig, speech: Speech, rng: np.random.Generator) -> np.ndarray:
  """One voice, with pauses of up to 0.6 s, that begins anywhere in its speech."""
  voice, pieces, length = int(rng.integers(1 << 20)), [], 0
  skip = int(rng.integers(media.sample_rate))
  while length < samples + skip:
    pieces += [np.zeros(int(media.sample_rate * rng.uniform(0.05, 0.6))), speech.utterance(voice, media, rng)]
    length += sum(map(len, pieces[-2:]))
  return np.concatenate(pieces)[skip : skip + samples]


def coughs(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
  """Coughs with up to 3 s between them, in faint noise."""
  audio, at = 0.003 * noise(samples, rate, rng), int(rate * rng.uniform(0, 1))
  while at < samples:
    piece = cough(rate, rng)[: samples - at]
    audio[at : at + len(piece)] += piece
    at += len(piece) + int(rate * rng.uniform(0.3, 3))
  return audio


def chords(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
  """Two to five notes at a time, plucked or held, with overtones; a new chord every 0.4 to 1.6 s."""
  audio, start = np.zeros(samples), 0
  while start < samples:
    count = min(int(rate * rng.uniform(0.4, 1.6)), samples - start)
    time = np.arange(count) / rate
    envelope = np.exp(-time * rng.choice([0.3, 3.0])) * np.minimum(1, time / 0.01) * np.minimum(1, time[::-1] / 0.02)
    for note in rng.choice(np.arange(33, 81), rng.integers(2, 6), replace=False):  # 55 to 831 Hz
      pitch, decay = 440 * 2 ** ((note - 69 + rng.normal(0, 0.03)) / 12), rng.uniform(0.4, 0.9)
      for harmonic in range(1, min(24, int(0.45 * rate / pitch)) + 1):
        wave = np.sin(2 * np.pi * (harmonic * pitch * time + rng.random()))
        audio[start : start + count] += decay**harmonic * envelope * wave
    start += count
  return audio


def noise(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
  """Noise of a random tilt and band, steady or in bursts."""
  frequency = np.fft.rfftfreq(samples, 1 / rate)
  low, high = np.sort(np.exp(rng.uniform(np.log(60), np.log(0.48 * rate), 2)))
  shape = (np.maximum(frequency, 50) / 50) ** -rng.choice([0.0, 0.5, 1.0])
  if rng.random() < 0.5:  # a band of at least an octave, 40 dB above the rest
    shape = shape * np.where((frequency >= low) & (frequency <= max(high, 2 * low)), 1.0, 0.01)
  audio = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * shape, samples)
  audio /= np.sqrt(np.mean(np.square(audio)))
  if rng.random() < 0.5:
    knots = rng.uniform(0.02, 1, samples // (rate // 5) + 2)
    audio *= np.interp(np.arange(samples), np.arange(len(knots)) * (rate // 5), knots)
  return audio


def in_room(audio: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
  """Sound as a microphone a few metres away takes it up: early reflections, a decaying tail, a little noise."""
  seconds = rng.uniform(0.2, 0.8)  # until the tail is 60 dB down
  time = np.arange(int(seconds * rate)) / rate
  tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
  tail[: int(0.003 * rate)] = 0
  tail *= rng.uniform(0.3, 1.0) / np.sqrt(np.sum(np.square(tail)))
  tail[0] = 1.0
  for at in rng.integers(int(0.003 * rate), int(0.03 * rate), 6):
    tail[at] += rng.uniform(-0.4, 0.4)
  size = 1 << (len(audio) + len(tail)).bit_length()
  wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(tail, size), size)[: len(audio)]
  hiss = noise(len(audio), rate, rng) * np.sqrt(np.mean(np.square(wet))) * 10 ** rng.uniform(-2.2, -1.5)
  return wet + hiss


@dataclasses.dataclass(frozen=True)
class SoundSource:
  """Sessions `first_seed`, `first_seed` + 1, ...: the sides are of the kinds of `turns`, one after the other."""

  media: MediaConfig
  units: int
  items: int
  first_seed: int
  speech: Speech
  name: str = "sounds"  # a key of TURNS

  @classmethod
  def of(cls, config: Config, first_seed: int, sessions: int, folder: str = "", name: str = "sounds") -> "SoundSource":
    """The source that a config describes. Raises DataError for a folder without speech, ConfigError for voices by an
    engine that is not installed."""
    speech = Speech(folder) if folder else Speech(engines=engines_of(config.data.voices))
    _ = folder and speech.voices
    return cls(config.media, config.data.session_units, sessions, first_seed, speech, name)

  @property
  def tracks(self) -> tuple[str, ...]:
    return ()

  def sessions(self, item: int) -> Generator[Session, None, int]:
    seed = self.first_seed + item
    sides = [self.side(2 * seed + (number + seed // 4) % 2) for number in range(2)]  # every kind comes on both sides
    yield Session(sides[0], sides[1], World(), (), self.units, seed, self.where(item))
    return 0

  def spoken(self) -> Iterator[tuple[Word, ...]]:
    """Nobody's words: what sounds is not text."""
    return iter(())

  def side(self, number: int) -> Side:
    """Side `number` of all sides of all sessions."""
    kind = TURNS[self.name][number % len(TURNS[self.name])]
    made = sound(kind, self.units * self.media.samples, number, self.media, self.speech)
    return Side(None, made, text_valid=np.zeros(self.units, bool))  # what is said in it is not written down

  def where(self, item: int) -> str:
    return f"{self.name}, seed {self.first_seed + item}"

  def describe(self) -> dict[str, Any]:
    """For the manifest."""
    speech = self.speech.describe()
    return {"name": self.name, "version": VERSION, **speech, "first_seed": self.first_seed, "sessions": self.items}
