"""Small sessions without a world: noise, tones and known words, for tests of everything behind `Session`."""

import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.session import Event, Phone, Session, Side, Word, World


def small_config(units: int = 4, batch: int = 4) -> Config:
  """16x16 pixels, 1.2 kHz: a media unit is under 8 kB."""
  config = Config()
  config.media.height = config.media.width = 16
  config.media.sample_rate = 1200
  config.data.units, config.data.batch = units, batch
  return config


def fake_session(seed: int, config: Config, units: int) -> Session:
  """Both sides filled with values that follow from the seed; the agent says two words, the user types one."""
  rng = np.random.default_rng(seed)
  media, seconds = config.media, config.media.unit_ms / 1000
  frames = units * media.frames

  def side(words: tuple[Word, ...]) -> Side:
    video = rng.integers(0, 256, (frames, media.height, media.width, 3), np.uint8)
    audio = rng.uniform(-1, 1, units * media.samples).astype(np.float32)
    tracks = {"mouth": rng.random(frames).astype(np.float32)}
    speech = tuple(word for word in words if word.voiced and word.end > word.start)
    return Side(video, audio, words, speech, (Phone("a", 0.1, 0.2),), tracks)

  agent = side((Word("red", seconds, 2 * seconds, 3 * seconds), Word("circle", seconds, 2.5 * seconds, 3 * seconds)))
  portrait = rng.integers(0, 256, (media.height, media.width, 3), np.uint8)
  world = World({"name": "Ada", "likes": "tea"}, portrait)
  events = (Event(0.0, seconds, "user", "question", {"kind": "colour", "n": 2}),)
  return Session(side((Word("hello", 0.0, 0.0, 0.0),)), agent, world, events, units, seed, f"fake {seed}")


@dataclasses.dataclass(frozen=True)
class FakeSource:
  """One session per item."""

  config: Config
  items: int
  units: int = 8
  tracks: tuple[str, ...] = ("mouth",)

  def sessions(self, item: int) -> Generator[Session, None, None]:
    yield fake_session(item, self.config, self.units)

  def spoken(self) -> Iterator[tuple[Word, ...]]:
    return iter(())

  def where(self, item: int) -> str:
    return f"fake {item}"

  def describe(self) -> dict[str, Any]:
    return {"name": "fake", "items": self.items}
