"""Judges by templates, without a recogniser, whether words can be understood.

Every text is spoken by voices of duplex_world. An utterance counts as wrong if a template of another text is nearer
than all of its own. Nearness is dynamic time warping (Sakoe and Chiba 1978) over mel cepstra without their mean, which
takes away most of the speaker and the loudness. The share of errors ranks voices of the same texts as a recogniser
does; it is no word error rate, and figures over different sets of texts cannot be compared.
"""

from collections.abc import Callable, Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world.speech import synthesise
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.errors import DataError

FRAME = 0.016  # seconds between frames
BANDS, CEPSTRA = 32, 13
RIVALS = 12  # other texts that an utterance is compared with: those of the nearest length
VOICES = (Voice("low", pitch=115.0), Voice("high", pitch=200.0, size=1.15))
Speak = Callable[[str], Sequence[np.ndarray]]  # a text -> sounds [S] of it, at the utterances' sample rate


def template_errors(
  utterances: Sequence[tuple[np.ndarray, str]], sample_rate: int, speak: Speak | None = None
) -> float:
  """Share of the utterances (float32 [S], text) that are nearer to the template of another text; NaN if fewer than two
  texts can be spoken. speak: templates in the voice that is judged, if it is known; two formant voices by default."""
  speak = speak or (lambda text: speak_formant(text, sample_rate))
  templates = {}
  for text in dict.fromkeys(text for _, text in utterances):
    try:
      templates[text] = [cepstra(sound, sample_rate) for sound in speak(text)]
    except DataError:  # nothing in it can be spoken
      continue
  if len(templates) < 2:
    return float("nan")
  known = [(audio, text) for audio, text in utterances if text in templates]
  return float(np.mean([_is_wrong(cepstra(audio, sample_rate), text, templates) for audio, text in known]))


def speak_formant(text: str, sample_rate: int) -> list[np.ndarray]:
  """A text by the formant voices. Raises DataError for what they cannot pronounce."""
  words = [word for word in text.split() if not word.startswith("(")]
  return [synthesise(words, voice, sample_rate).audio for voice in VOICES]


def _is_wrong(said: np.ndarray, text: str, templates: dict[str, list[np.ndarray]]) -> bool:
  size = len(templates[text][0])
  others = sorted(
    (other for other in templates if other != text), key=lambda other: abs(len(templates[other][0]) - size)
  )
  nearest = lambda texts: min(warped(said, template) for other in texts for template in templates[other])
  return nearest(others[:RIVALS]) <= nearest([text])


def cepstra(audio: np.ndarray, sample_rate: int) -> np.ndarray:
  """Mel cepstra without their mean, of the loud part: float32 [frames, 12]. Silence at the ends is cut off."""
  hop, size = round(FRAME * sample_rate), 2 * round(FRAME * sample_rate)
  audio = np.pad(np.asarray(audio, np.float64), (0, max(0, 2 * size - len(audio))))
  frames = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop] * np.hanning(size)
  power = np.square(np.abs(np.fft.rfft(frames, axis=1))) @ _bank(size, sample_rate).T
  total = power.sum(axis=1)
  loud = np.flatnonzero(total > 1e-3 * np.percentile(total, 95))
  power = power[loud[0] : loud[-1] + 1] if len(loud) else power
  log = np.log(power + 1e-5 * power.max() + 1e-12)
  k = np.arange(BANDS)
  basis = np.cos(np.pi / BANDS * np.outer(np.arange(1, CEPSTRA), k + 0.5))
  found = log @ basis.T
  return (found - found.mean(axis=0)).astype(np.float32)


def _bank(size: int, sample_rate: int) -> np.ndarray:
  """Triangular filters [BANDS, bins], evenly on the mel scale from 100 to 7,000 Hz."""
  mel = lambda hz: 2595 * np.log10(1 + hz / 700)
  edges = np.linspace(mel(100.0), mel(min(7000.0, 0.45 * sample_rate)), BANDS + 2)
  at = mel(np.fft.rfftfreq(size, 1 / sample_rate))[None]
  low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  return np.maximum(0, np.minimum((at - low) / (middle - low), (high - at) / (high - middle)))


def warped(a: np.ndarray, b: np.ndarray) -> float:
  """Mean distance along the cheapest monotone path that joins [n, c] and [m, c], by anti-diagonals."""
  n, m = len(a), len(b)
  cost = np.sqrt(np.maximum(0, (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T))
  total = np.full((n + 1, m + 1), np.inf)
  total[0, 0] = 0
  for diagonal in range(n + m - 1):
    i = np.arange(max(0, diagonal - m + 1), min(n, diagonal + 1))
    j = diagonal - i
    # A diagonal step counts twice, so that no path is cheaper for being short.
    total[i + 1, j + 1] = cost[i, j] + np.minimum(
      total[i, j] + cost[i, j], np.minimum(total[i, j + 1], total[i + 1, j])
    )
  return float(total[n, m]) / (n + m)
