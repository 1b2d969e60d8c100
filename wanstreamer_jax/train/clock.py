"""Runs that end by the clock (`train.minutes`): when to stop and save, and the schedule.

A machine that is lent for minutes does as many updates as it can. Nobody knows how many before, so the schedule of the
learning rate follows the time from the first update to the end, and is told to every update. A continued run has its
whole time again, with a schedule of its own; it is no repetition of an undisturbed one.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel import hosts
from wanstreamer_jax.parallel.mesh import replicated

SAVE = 120.0  # seconds between checkpoints


class Clock:
  """The time of one start of a run, which begins when this is made; of 0 minutes: no end, and it decides nothing.

  Raises ConfigError in a job of several processes, whose clocks would differ.
  """

  def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic):
    if minutes and hosts.several():
      raise ConfigError("train.minutes ends a run of one process only: set train.steps in a job of several")
    self._now, self._end = now, now() + 60 * minutes
    self.runs = minutes > 0
    self._first: float | None = None  # update
    self._saved = now()

  def left(self) -> float:
    """Seconds until the end."""
    return max(0.0, self._end - self._now())

  def over(self) -> bool:
    """Whether the last update should be the last one."""
    return self.runs and self._now() >= self._end

  def save_due(self) -> bool:
    """Whether it is time for a checkpoint; said once."""
    if not self.runs or self._now() < self._saved + SAVE:
      return False
    self._saved = self._now()
    return True

  def share(self) -> float:
    """How much of the time from the first call of this to the end has gone: 0 to 1."""
    now = self._now()
    self._first = now if self._first is None else self._first
    return min(1.0, (now - self._first) / max(self._end - self._first, 1e-9))

  def arguments(self, mesh: Mesh, share: float | None = None) -> tuple[Any, ...]:
    """What an update takes beside state and batch: the share (by default the present one) on the devices, or nothing
    without an end."""
    if not self.runs:
      return ()
    return (jax.device_put(np.float32(self.share() if share is None else share), replicated(mesh)),)
