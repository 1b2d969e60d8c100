"""Somebody to watch: users of duplex_world who talk with the agent in a visitor's place, one after another."""

import numpy as np

from wanstreamer_jax.data.duplex_world.reacting import ReactingUser
from wanstreamer_jax.data.duplex_world.world import WorldConfig
from wanstreamer_jax.data.media import MediaUnit

SITTING = 90.0  # seconds after which somebody else sits down


class DrawnUser:
  """Implements `hall.Source`. The visitor who watches may type in between."""

  def __init__(self, world: WorldConfig, seed: int):
    self.world, self.seed = world, seed
    self.person = seed  # the seed of who sits there
    self._units = round(1000 * SITTING / world.unit_ms)
    self._heard = np.zeros(world.samples, np.float32)
    self._typed: list[str] = []
    self._count = 0
    self.sitting: ReactingUser | None = None
    self._next: MediaUnit | None = None

  def text(self, text: str) -> None:
    self._typed.append(text)

  def hear(self, audio: np.ndarray) -> None:
    """The agent's last unit of sound: float32 [samples]."""
    self._heard = audio

  def prepare(self) -> None:
    """Acts and is drawn, unless that has been done since the last unit was taken."""
    if self._next is not None:
      return
    if self._count % self._units == 0:
      self.person = self.seed + self._count // self._units
      self.sitting = ReactingUser(self.person, self.world, "heldout")
    assert self.sitting is not None
    sound, video, typed = self.sitting.step(self._heard)
    self._count += 1
    self._typed += typed
    self._next = MediaUnit(video, sound)

  def take(self, behind: int = 0) -> tuple[MediaUnit, list[str], float | None]:
    """As `Inbox.take`; nobody's clock tells when this was captured."""
    self.prepare()
    assert self._next is not None
    unit, self._next = self._next, None
    typed, self._typed = self._typed, []
    return unit, typed, None
