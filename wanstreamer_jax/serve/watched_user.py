"""Simulated users for viewers to watch: they talk with the agent one after another. They are people of duplex_world."""

import numpy as np

from wanstreamer_jax.data.duplex_world.reacting import ReactingUser
from wanstreamer_jax.data.duplex_world.world import WorldConfig
from wanstreamer_jax.data.media import MediaUnit
from wanstreamer_jax.serve.unit_source import UserInput

VISIT_SECONDS = 90.0  # after which the next user takes over


class WatchedUser:
  """Implements `UnitSource`. The viewer may type in between.

  `prepare` runs in the scheduler's thinker thread, everything else in the event loop; the scheduler never runs
  `prepare` and `take` of a session at the same time.
  """

  def __init__(self, world: WorldConfig, seed: int):
    self.world, self.seed = world, seed
    self.user_seed = seed  # of the current user
    self.user: ReactingUser | None = None
    self._units_per_user = round(1000 * VISIT_SECONDS / world.unit_ms)
    self._count = 0  # units since the start
    self._agent_audio = np.zeros(world.samples, np.float32)  # what the agent said last
    self._typed: list[str] = []
    self._next: MediaUnit | None = None

  def text(self, text: str) -> None:
    """Adds a text that the viewer typed."""
    self._typed.append(text)

  def observe_agent(self, audio: np.ndarray) -> None:
    """The agent's last unit of audio: float32 [samples]."""
    self._agent_audio = audio

  def prepare(self) -> None:
    """Simulates and renders the next unit, unless that was done since the last `take`."""
    if self._next is not None:
      return
    if self._count % self._units_per_user == 0:
      self.user_seed = self.seed + self._count // self._units_per_user
      self.user = ReactingUser(self.user_seed, self.world, "heldout")
    assert self.user is not None
    audio, video, typed = self.user.step(self._agent_audio)
    self._count += 1
    self._typed += typed
    self._next = MediaUnit(video, audio)

  def take(self, behind: int = 0) -> UserInput:
    """The next unit; no client's clock says when it was captured."""
    self.prepare()
    assert self._next is not None
    unit, self._next = self._next, None
    typed, self._typed = self._typed, []
    return UserInput(unit, typed, None)
