"""How much of what the agent said comes back through the visitor's microphone: the server knows what it played."""

from collections import deque

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.loudness import is_loud

SPAN = 2.4  # seconds of the agent's sound that are looked for
DELAY = 0.8  # seconds after which an echo may come: network, play-out, air
LIKENESS = 0.25  # of the microphone's energy that the echo must explain to count as one
EVERY = 10  # units between measurements


class EchoMeter:
  """Call it with every unit; now and then it has something to tell."""

  def __init__(self, media: MediaConfig):
    self.media = media
    units = lambda seconds: round(1000 * seconds / media.unit_ms)
    self._played: deque[np.ndarray] = deque(maxlen=units(SPAN))
    self._heard: deque[np.ndarray] = deque(maxlen=units(SPAN + DELAY))
    self._waits = units(DELAY)
    self._recent: deque[np.ndarray] = deque()  # played, but not long enough ago for its echo to be whole
    self._units = 0

  def __call__(self, played: np.ndarray, heard: np.ndarray | None) -> float | None:
    """One unit of both. -> the level of the echo in dB over what was played (below 0 mostly), None if there is none.

    Without news (most of the time) None as well.
    """
    self._recent.append(played)
    if len(self._recent) > self._waits:
      self._played.append(self._recent.popleft())
    self._heard.append(np.zeros_like(played) if heard is None else heard)
    self._units += 1
    if self._units % EVERY or len(self._played) < (self._played.maxlen or 0):
      return None
    x, y = np.concatenate(self._played), np.concatenate(self._heard)
    return echo_level(x, y) if is_loud(x) else None


def echo_level(played: np.ndarray, heard: np.ndarray) -> float | None:
  """20 log10 of the gain with which `played` [n] is found in `heard` [m >= n] at its best delay; None if it is not."""
  size = 1 << (len(played) + len(heard) - 1).bit_length()
  products = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size)), size)
  products = products[: len(heard) - len(played) + 1]
  delay = int(np.argmax(np.abs(products)))
  window = heard[delay : delay + len(played)]
  energy, total = float(played @ played), float(window @ window)
  product = float(abs(products[delay]))
  if energy * total == 0 or product**2 < LIKENESS * energy * total:
    return None
  return 20 * float(np.log10(product / energy))
