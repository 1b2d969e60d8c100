"""How much a visitor may send: a bucket that fills steadily and lets bursts through."""

import time


class Bucket:
  """`rate` a second, `depth` at once. A stalled line that delivers everything at once is no offence."""

  def __init__(self, rate: float, depth: float):
    self.rate, self.depth = rate, depth
    self._left, self._time = depth, time.monotonic()

  def take(self) -> bool:
    """Whether there is room for one more."""
    now = time.monotonic()
    self._left = min(self.depth, self._left + self.rate * (now - self._time))
    self._time = now
    if self._left < 1:
      return False
    self._left -= 1
    return True
