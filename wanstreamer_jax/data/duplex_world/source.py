"""duplex_world as a `data.make.SessionSource`."""

import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.body import Body
from wanstreamer_jax.data.duplex_world.script import WORLD_VERSION
from wanstreamer_jax.data.duplex_world.voices import engines_of, versions
from wanstreamer_jax.data.duplex_world.world import SPLITS, WorldConfig, make_session, script_words
from wanstreamer_jax.data.session import Session, Word
from wanstreamer_jax.errors import DataError

SCRIPTS = 16  # sessions whose words are known before any is rendered


@dataclasses.dataclass(frozen=True)
class DuplexSource:
  """Sessions `first_seed`, `first_seed` + 1, ... of one split."""

  world: WorldConfig
  split: str
  first_seed: int
  items: int

  @classmethod
  def of(cls, config: Config, split: str, first_seed: int, sessions: int) -> "DuplexSource":
    """The source that a config describes. Raises DataError for an unknown split."""
    if split not in SPLITS:
      raise DataError(f"split is {split!r}: expected one of {', '.join(SPLITS)}")
    return cls(world_config(config), split, first_seed, sessions)

  @property
  def units(self) -> int:
    return self.world.units

  @property
  def tracks(self) -> tuple[str, ...]:
    return Body.TRACKS

  def sessions(self, item: int) -> Generator[Session, None, None]:
    yield make_session(self.first_seed + item, self.world, self.split)

  def spoken(self) -> Iterator[tuple[Word, ...]]:
    """The agent's words of the first sessions, whose scripts run without media."""
    for item in range(min(self.items, SCRIPTS)):
      yield script_words(self.first_seed + item, self.world, self.split)

  def where(self, item: int) -> str:
    return f"seed {self.first_seed + item}"

  def describe(self) -> dict[str, Any]:
    return {
      "name": "duplex_world",
      "version": WORLD_VERSION,
      "world": dataclasses.asdict(self.world),
      **versions(engines_of(self.world.voices) + engines_of(self.world.agent_voices or self.world.voices)),
      "split": self.split,
      "first_seed": self.first_seed,
      "sessions": self.items,
    }


def world_config(config: Config) -> WorldConfig:
  """The WorldConfig of a config. Raises ConfigError when its voices need a library that is not installed."""
  shared = {field: getattr(config.media, field) for field in ("height", "width", "fps", "sample_rate", "unit_ms")}
  data = config.data
  return WorldConfig(
    **shared,
    units=data.session_units,
    text_lead=data.text_lead,
    size=data.world,
    voices=data.voices,
    agent_voices=data.agent_voices,
    accents=data.accents,
    asides=data.asides,
    camera_off=data.camera_off,
    agent_unseen=data.agent_unseen,
    emphasis=data.emphasis,
  )
