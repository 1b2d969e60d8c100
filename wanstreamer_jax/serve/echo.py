"""Measures how much of the agent's voice returns through the user's microphone. The server knows what it sent."""

from collections import deque

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.loudness import is_loud

SPAN = 2.4  # seconds of the agent's audio that are searched for
MAX_DELAY = 0.8  # seconds after which an echo may arrive: network, play-out buffer, air
MIN_SHARE = 0.25  # of the microphone's energy that the echo must explain to count as one
EVERY = 10  # units between measurements


class EchoMeter:
  """Call it with every unit; it measures from time to time."""

  def __init__(self, media: MediaConfig):
    self._unit_ms = media.unit_ms
    self._delay_units = self._units(MAX_DELAY)
    self._recent: deque[np.ndarray] = deque()  # the agent's units whose echo may not have arrived in full
    self._agent: deque[np.ndarray] = deque(maxlen=self._units(SPAN))  # older ones
    self._user: deque[np.ndarray] = deque(maxlen=self._units(SPAN + MAX_DELAY))
    self._count = 0

  def _units(self, seconds: float) -> int:
    return round(1000 * seconds / self._unit_ms)

  def __call__(self, agent: np.ndarray, user: np.ndarray | None) -> float | None:
    """Adds one unit of both sides' audio.

    Returns the level of the echo in dB relative to the agent's audio (mostly below 0); None when there is no echo, and
    between measurements.
    """
    self._recent.append(agent)
    if len(self._recent) > self._delay_units:
      self._agent.append(self._recent.popleft())
    self._user.append(np.zeros_like(agent) if user is None else user)
    self._count += 1
    if self._count % EVERY or len(self._agent) < (self._agent.maxlen or 0):
      return None
    reference, recorded = np.concatenate(self._agent), np.concatenate(self._user)
    return echo_level(reference, recorded) if is_loud(reference) else None


def echo_level(reference: np.ndarray, recorded: np.ndarray) -> float | None:
  """The gain in dB with which `reference` [n] occurs in `recorded` [m >= n], at the best delay; None if it does not.

  The delay is the peak of the cross-correlation; there the gain is the least-squares fit, <x, y> / <x, x>.
  """
  size = 1 << (len(reference) + len(recorded) - 1).bit_length()
  correlation = np.fft.irfft(np.fft.rfft(recorded, size) * np.conj(np.fft.rfft(reference, size)), size)
  correlation = correlation[: len(recorded) - len(reference) + 1]
  delay = int(np.argmax(np.abs(correlation)))
  window = recorded[delay : delay + len(reference)]
  energy, total = float(reference @ reference), float(window @ window)
  product = float(abs(correlation[delay]))
  if energy * total == 0 or product**2 < MIN_SHARE * energy * total:
    return None
  return 20 * float(np.log10(product / energy))
