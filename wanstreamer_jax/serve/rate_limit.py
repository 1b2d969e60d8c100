"""How much a client may send: a token bucket, which refills steadily and allows bursts."""

import time


class RateLimit:
  """`rate` a second and `burst` at once, so that a stalled connection may deliver everything at once."""

  def __init__(self, rate: float, burst: float):
    self.rate, self.burst = rate, burst
    self._left, self._time = burst, time.monotonic()

  def take(self) -> bool:
    """Whether one more is allowed now."""
    now = time.monotonic()
    self._left = min(self.burst, self._left + self.rate * (now - self._time))
    self._time = now
    if self._left < 1:
      return False
    self._left -= 1
    return True
