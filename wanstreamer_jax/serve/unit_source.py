"""Sources of user units: the network (`inbox.py`) or a simulated user. `watched_user.py` makes the latter."""

from typing import NamedTuple, Protocol

import numpy as np

from wanstreamer_jax.data.media import MediaUnit

MAX_TYPED = 500  # characters of one typed text


class UserInput(NamedTuple):
  """One unit of a user, as the scheduler takes it."""

  unit: MediaUnit
  typed: list[str]
  captured: float | None  # capture time of the unit's last sample on the client's clock, in seconds, if known


class UnitSource(Protocol):
  """A session's user. All methods but `prepare` are called in the event loop and must not block."""

  def prepare(self) -> None:
    """Does what can be done before the next unit is due. Called in the scheduler's thinker thread."""
    ...

  def take(self, behind: int) -> UserInput:
    """The next unit.

    behind: how many more units the scheduler will take immediately after this one, because it is late.
    """
    ...

  def observe_agent(self, audio: np.ndarray) -> None:
    """The agent's answer to the last unit: float32 [samples]."""
    ...

  def text(self, text: str) -> None:
    """Text that the person at the client typed; it enters with the next unit."""
    ...
