"""How a body moves: lips by phone, and smooth gestures, each a pure function of time."""

import functools

import numpy as np

from wanstreamer_jax.data.duplex_world.phones import PHONES, SILENCE
from wanstreamer_jax.data.duplex_world.speech import Utterance

REST = (0.0, 0.5, 0.0)  # opening, width and rounding of a silent mouth
TONGUE = {"TH": 1.0, "DH": 1.0, "L": 0.9, "N": 0.6, "D": 0.5, "T": 0.45}  # how far the tongue shows, by phone
BITE = {"F": 1.0, "V": 1.0}  # the lower lip on the teeth
CLOSED = {"M": 1.0, "B": 1.0, "P": 1.0}
TAPS = np.linspace(-0.08, 0.08, 7)  # seconds over which lips blend neighbouring phones
WEIGHTS = np.exp(-0.5 * (TAPS / 0.04) ** 2) / np.exp(-0.5 * (TAPS / 0.04) ** 2).sum()
ENVELOPE_RATE = 100


def eased(time: np.ndarray, start: float, end: float, rise: float = 0.25) -> np.ndarray:
  """0 before `start`, 1 a `rise` later, and back to 0 from `end` on, smoothly; times in seconds."""
  up = np.clip((time - start) / rise, 0, 1)
  down = np.clip((time - end) / rise, 0, 1)
  level = np.clip(up - down, 0, 1)
  return level * level * (3 - 2 * level)


def nod(u: np.ndarray) -> np.ndarray:
  """Two quick nods within 0.9 s; u: seconds since their start."""
  return np.where((u >= 0) & (u < 0.9), np.sin(2 * np.pi * u / 0.9) ** 2, 0.0)


def shake(u: np.ndarray) -> np.ndarray:
  """The head turns left and right twice within 1.2 s; u: seconds since the start."""
  inside = (u >= 0) & (u < 1.2)
  return np.where(inside, np.sin(2 * np.pi * u / 0.6) * np.sin(np.pi * np.clip(u / 1.2, 0, 1)), 0.0)


def bump(u: np.ndarray, seconds: float) -> np.ndarray:
  """Up and down once; u: seconds since the start."""
  return np.where((u >= 0) & (u < seconds), np.sin(np.pi * u / seconds) ** 2, 0.0)


class Lips:
  """The mouth of one utterance, on its own clock."""

  def __init__(self, utterance: Utterance, sample_rate: int):
    names = [phone.name for phone in utterance.phones]
    self.edges = np.array([phone.end for phone in utterance.phones])
    shapes = [(*(PHONES[n].mouth if n != SILENCE else REST), TONGUE.get(n, 0.0), BITE.get(n, 0.0)) for n in names]
    self.shapes = np.array([*shapes, (*REST, 0.0, 0.0)])
    self.closed = np.array([*(CLOSED.get(name, 0.0) + 0.8 * BITE.get(name, 0.0) for name in names), 0.0])
    self.envelope = _envelope(utterance.audio, sample_rate // ENVELOPE_RATE)

  def at(self, local: np.ndarray) -> np.ndarray:
    """[5, frames]: opening, width, rounding, tongue, lower lip on the teeth; local: seconds since the start."""
    out = np.zeros((5, len(local)))
    for tap, weight in zip(TAPS, WEIGHTS):
      out += weight * self.shapes[self._index(local + tap)].T
    sharp = [self.shapes[self._index(local + tap), 3:].T for tap in (-0.02, 0.0, 0.02)]
    out[3:] = sum(sharp) / 3  # tongue and teeth move faster than the lips
    closed = sum(self.closed[self._index(local + tap)] for tap in (-0.02, 0.0, 0.02)) / 3
    frame = np.clip((local * ENVELOPE_RATE).astype(int), 0, len(self.envelope) - 1)
    out[0] *= (1 - np.clip(1.2 * closed, 0, 1)) * (0.45 + 0.65 * self.envelope[frame])
    return out

  def _index(self, local: np.ndarray) -> np.ndarray:
    """Of the phone at each time; the last entry is rest."""
    index = np.searchsorted(self.edges, local, "right")
    return np.where(local < 0, len(self.edges), np.minimum(index, len(self.edges)))


def _envelope(audio: np.ndarray, hop: int) -> np.ndarray:
  """Loudness, 0 to 1, in frames of `hop` samples over windows of five."""
  count = max(1, len(audio) // hop)
  power = np.square(np.resize(audio, count * hop).astype(np.float64)).reshape(count, -1).mean(axis=1)
  padded = np.concatenate([np.zeros(2), power, np.zeros(2)])
  level = np.sqrt(sum(padded[i : i + count] for i in range(5)) / 5)
  return np.clip(level / max(1.3 * float(np.sqrt(power.mean())), 1e-6), 0, 1)


@functools.lru_cache(maxsize=4096)
def moment(seed: int, kind: int, index: int) -> tuple[float, ...]:
  """Four uniform numbers of one window of time."""
  return tuple(np.random.default_rng([seed, kind, index + 1]).random(4).tolist())
