"""Chooses a portrait and a voice sample out of a recording, for an agent who has none.

The agent keeps its face and voice only if it was shown them: without a portrait it drifts several times as much. The
portrait is a sharp, lit frame in which the agent is silent and still, so that its mouth is most likely closed; else the
first good frame. The voice is the loudest stretch in which the agent speaks most of the time, the user is silent and
nothing is clipped.
"""

import collections
from collections.abc import Iterable, Sequence

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.loudness import LOUD, levels
from wanstreamer_jax.data.transcripts import Words

LIGHT = (20.0, 235.0)  # mean of a good picture, of 255
CONTRAST = 6.0  # its least standard deviation
JUDGED_PIXELS = 64  # along the shorter side: enough to judge a picture, and a minute of them fits into memory
QUIET = 0.2  # seconds around a frame in which a closed mouth does not speak
VOICED = 0.5  # share of a voice sample in which somebody speaks
PARTS = 4  # of a unit, whose levels are judged
CLIPPED = 0.999


def pick_portrait(
  video: np.ndarray, audio: np.ndarray | None, words: Words | None, media: MediaConfig
) -> np.ndarray | None:
  """The best frame of uint8 [frames, height, width, 3], or None if none is good.

  audio: float32 [samples] of the same time, or None; words: by the same clock, or None where they are unknown.
  """
  step = max(1, min(video.shape[1:3]) // JUDGED_PIXELS)
  grey = video[:, ::step, ::step].astype(np.float32).mean(axis=3)  # [F, H / step, W / step]
  light, contrast = grey.mean(axis=(1, 2)), grey.std(axis=(1, 2))
  good = (light > LIGHT[0]) & (light < LIGHT[1]) & (contrast > CONTRAST)
  if not good.any():
    return None
  sharp = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2))
  good &= sharp >= 0.7 * np.median(sharp[good])
  silent = good & ~spoken(len(video), audio, words, media)
  if not silent.any():
    return video[int(good.argmax())]
  change = np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2))
  motion = np.maximum(np.append(change, change[-1:] if len(change) else 0.0), np.insert(change, 0, change[:1].sum()))
  return video[int(np.where(silent, motion, np.inf).argmin())]


def spoken(frames: int, audio: np.ndarray | None, words: Words | None, media: MediaConfig) -> np.ndarray:
  """bool [frames]: whether somebody speaks within QUIET of a frame, by the words and by the sound."""
  found, near = np.zeros(frames, bool), round(QUIET * media.fps)
  for word in words or ():
    found[max(0, int(word.start * media.fps)) : int(word.end * media.fps) + 1] = True
  if audio is not None:
    found |= levels(audio, frames) > LOUD
  return np.convolve(found, np.ones(2 * near + 1))[near : near + frames] > 0.5


def pick_voice(
  agent: Iterable[np.ndarray], user: Iterable[np.ndarray], units: int, media: MediaConfig
) -> np.ndarray | None:  # fmt: skip
  """The best `units` consecutive units of the agent's sound, float32 [units * samples], or None.

  agent, user: units of sound, float32 [samples]; both are read once, and `units` of them are kept.
  """
  window: collections.deque[np.ndarray] = collections.deque(maxlen=units)
  marks: collections.deque[tuple[float, float, bool]] = collections.deque(maxlen=units)  # voiced, level, clean
  best: tuple[float, Sequence[np.ndarray]] | None = None
  others = iter(user)
  for sound in agent:
    other = next(others, None)
    parts = levels(sound[: len(sound) // PARTS * PARTS], PARTS)
    clean = float(np.abs(sound).max(initial=0.0)) < CLIPPED
    clean &= other is None or float(levels(other, 1)[0]) <= LOUD
    window.append(sound)
    marks.append((float((parts > LOUD).mean()), float(levels(sound, 1)[0]), bool(clean)))
    if len(window) == units and all(mark[2] for mark in marks):
      level = float(np.mean([mark[1] for mark in marks]))
      if np.mean([mark[0] for mark in marks]) >= VOICED and (best is None or level > best[0]):
        best = level, list(window)
  return None if best is None else np.concatenate(best[1])
