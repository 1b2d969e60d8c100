"""Measures recordings while they are read, so that bad ones are seen. Nothing is dropped here.

`QualityWatch` is shown every unit of a recording and gives one entry of report.json:

    {"seconds": 61.4, "cut_seconds": 0.3, "cut_words": {"agent": 0, "user": 1}, "mixed": 0.02, "flags": ["user silent"],
     "agent": {"level": -21.3, "loud": 0.41, "clipped": 0.0, "still": 0.02, "dark": 0.0, "sync": 0.46, "late_ms": 0,
               "sync_rank": 1.0, "words": 140, "words_heard": 0.97, "unwritten": 0.0}, "user": {...}}

cut_seconds: of the longest stream past the recording's end; cut_words: those that start behind its last session.
level: dBFS of the frames that are loud; loud, clipped, still, dark: shares of frames and samples. sync: the correlation
of the motion in the middle of the lower half of the picture, where a cropped face has its mouth, with the sound's
envelope, at the shift that fits best; late_ms: how much the sound is later there; sync_rank: how rarely other shifts of
the recording fit as well. It is weak evidence (hands move with speech too). words_heard: words during which this side
is loud. unwritten: loud frames further than two seconds from any word, where words are known: speech that would be
learned as if nothing were said. mixed: correlation of both sides' samples, near 1 where one mixed track was given to
both.
"""

from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.loudness import LOUD, SILENCE, levels
from wanstreamer_jax.data.manifest import ManifestLine
from wanstreamer_jax.data.recording_media import SideUnits
from wanstreamer_jax.data.session import AGENT, USER
from wanstreamer_jax.data.transcripts import Words

FULL_SCALE = 0.999  # a sample that is louder is clipped
STILL = 0.05  # mean change of a pixel, of 255, below which two frames are the same
DARK = 12.0  # mean of a picture, of 255
MAX_SHIFT = 0.4  # seconds by which sound and motion are shifted against each other
MIN_SPEECH = 4.0  # seconds of loud sound below which sync says nothing
NEAR_WORD = 2.0  # seconds around a word in which speech may be its
LIMITS = {  # flag -> (figure of a side, "below" or "above", limit)
  "silent": ("loud", "below", 0.01),
  "clipped": ("clipped", "above", 0.001),
  "frozen": ("still", "above", 0.8),
  "dark": ("dark", "above", 0.5),
  "not in sync": ("sync_rank", "below", 0.8),
  "words elsewhere": ("words_heard", "below", 0.5),
  "speech without words": ("unwritten", "above", 0.5),
}
OUT_OF_TIME, OUT_OF_TIME_MS, CERTAIN = "sound late or early", 120, 0.25  # where sync is at least CERTAIN
MIXED, ONE_TRACK = 0.8, "one mixed track"


class SideWatch:
  """The figures of one side, unit by unit."""

  def __init__(self, media: MediaConfig):
    self.media = media
    self.levels: list[np.ndarray] = []  # dBFS of every frame's time, NaN where there is no sound
    self.motion: list[np.ndarray] = []  # of every frame, from the one before; NaN where there is no picture
    self.changes: list[np.ndarray] = []  # mean change of a pixel
    self.light: list[np.ndarray] = []
    self.clipped = self.samples = 0
    self._last: np.ndarray | None = None

  def add(self, unit: SideUnits) -> None:
    frames = self.media.frames
    self.levels.append(np.full(frames, np.nan))
    self.motion.append(np.full(frames, np.nan))
    if unit.audio is not None and unit.audio_valid:
      self.levels[-1] = levels(unit.audio[: len(unit.audio) // frames * frames], frames)
      self.clipped += int((np.abs(unit.audio) >= FULL_SCALE).sum())
      self.samples += len(unit.audio)
    if unit.video is not None and unit.video_valid:
      video = unit.video[:, ::2, ::2]  # every second pixel is enough
      before = video[:1] if self._last is None else self._last
      change = np.abs(np.diff(np.concatenate([before, video]).astype(np.float32), axis=0)).mean(axis=3)
      height, width = change.shape[1:]
      mouth = change[:, height // 2 : -(height // 8) or None, width // 4 : -(width // 4) or None]
      self.motion[-1] = mouth.mean(axis=(1, 2))
      self.changes.append(change.mean(axis=(1, 2)))
      self.light.append(video.mean(axis=(1, 2, 3)))
      self._last = video[-1:]

  def figures(self, words: Words | None) -> dict[str, Any]:
    """The figures of what was added; only those of streams that exist."""
    found: dict[str, Any] = {}
    sound, motion = (np.concatenate(parts) if parts else np.zeros(0) for parts in (self.levels, self.motion))
    heard, least = sound[~np.isnan(sound)], MIN_SPEECH * self.media.fps
    loud = sound > LOUD
    if len(heard):
      found |= {"level": round(float(sound[loud].mean()), 1) if loud.any() else SILENCE}
      found |= {"loud": _share(heard > LOUD), "clipped": round(self.clipped / max(1, self.samples), 6)}
    if self.changes:
      found |= {"still": _share(np.concatenate(self.changes)[1:] < STILL)}
      found |= {"dark": _share(np.concatenate(self.light) < DARK)}
      both = ~np.isnan(sound + motion)
      if (loud & both).sum() >= least:
        seen = sync(motion[both], sound[both], self.media.fps)
        found |= {"sync": seen.correlation, "late_ms": seen.late, "sync_rank": seen.rank}
    if words is not None:
      found["words"] = len(words)
      if loud.sum() >= least:
        found["unwritten"] = _share(~_near_words(words, len(sound), self.media.fps)[loud])
      if words and len(heard):
        found["words_heard"] = _share(
          np.array([_is_heard(word.start, word.end, sound, self.media.fps) for word in words])
        )
    return found


def _share(values: np.ndarray) -> float:
  return round(float(values.mean()), 3) if len(values) else 0.0


def _is_heard(start: float, end: float, sound: np.ndarray, fps: int) -> bool:
  return bool((sound[int(start * fps) : int(end * fps) + 1] > LOUD).any())


def _near_words(words: Words, frames: int, fps: int) -> np.ndarray:
  """bool [frames]: whether a word is within NEAR_WORD of a frame."""
  near = np.zeros(frames, bool)
  for word in words:
    near[max(0, int((word.start - NEAR_WORD) * fps)) : int((word.end + NEAR_WORD) * fps) + 1] = True
  return near


class Sync(NamedTuple):
  """How well motion goes with sound."""

  correlation: float  # the highest, over shifts of at most MAX_SHIFT
  late: int  # milliseconds by which the sound is later there
  rank: float  # share of shifts elsewhere, in groups of as many, that do not reach it: 1 where it is no accident


def sync(motion: np.ndarray, sound: np.ndarray, fps: int) -> Sync:
  """Compares motion with the level of sound, one number a frame each [T]; levels in dBFS.

  Both are smoothed over five frames and shifted against each other around the whole recording.
  """
  length, most = min(len(motion), len(sound)), round(MAX_SHIFT * fps)
  a, b = (_normalised(_smooth(x)) for x in (np.log1p(motion[:length]), np.maximum(sound[:length], LOUD - 20)))
  all_shifts = np.fft.irfft(np.conj(np.fft.rfft(a)) * np.fft.rfft(b), length)  # [k]: sound later by k frames
  near = np.roll(all_shifts, most)[: 2 * most + 1]
  best = int(near.argmax())
  far = all_shifts[most + 1 : length - most]
  groups = far[: len(far) // len(near) * len(near)].reshape(-1, len(near)).max(axis=1)
  rank = float((groups < near[best]).mean()) if len(groups) else 1.0
  return Sync(round(float(near[best]), 3), round((best - most) * 1000 / fps), round(rank, 3))


def _normalised(values: np.ndarray) -> np.ndarray:
  values = values - values.mean()
  size = float(np.sqrt((values * values).sum()))
  return values / size if size > 1e-9 else np.zeros_like(values)


def _smooth(values: np.ndarray) -> np.ndarray:
  return np.convolve(values, np.ones(5) / 5, "same")


class QualityWatch:
  """The figures of one recording, unit by unit."""

  def __init__(self, line: ManifestLine, media: MediaConfig):
    self.line, self.media, self.units = line, media, 0
    self.sides = {name: SideWatch(media) for name in (USER, AGENT)}
    self.products = np.zeros(3)  # of the sides' samples: user x agent, user x user, agent x agent

  def add(self, unit: dict[str, SideUnits]) -> None:
    for name, watch in self.sides.items():
      watch.add(unit[name])
    a, b = unit[USER].audio, unit[AGENT].audio
    if a is not None and b is not None:
      self.products += [float(a @ b), float(a @ a), float(b @ b)]
    self.units += 1

  def report(self) -> dict[str, Any]:
    """One recording's entry of report.json; see the module's docstring."""
    seconds = self.units * self.media.unit_ms / 1000
    entry: dict[str, Any] = {"id": self.line.id, "seconds": round(seconds, 2)}
    scale = float(np.sqrt(self.products[1] * self.products[2]))
    if scale > 0:
      entry["mixed"] = round(abs(float(self.products[0])) / scale, 3)
    for name, watch in self.sides.items():
      entry[name] = watch.figures(self.line.sides[name].words)
    return entry | {"flags": flags(entry)}


def quality_flags() -> list[str]:
  """All flags that there are."""
  return [f"{side} {flag}" for side in (USER, AGENT) for flag in (*LIMITS, OUT_OF_TIME)] + [ONE_TRACK, "unreadable"]


def flags(entry: dict[str, Any]) -> list[str]:
  """What is suspicious about a recording: "agent clipped", ..., "one mixed track"."""
  found = []
  for name in (USER, AGENT):
    for flag, (figure, direction, limit) in LIMITS.items():
      value = entry[name].get(figure)
      if value is not None and (value < limit if direction == "below" else value > limit):
        found.append(f"{name} {flag}")
    if abs(entry[name].get("late_ms", 0)) >= OUT_OF_TIME_MS and entry[name]["sync"] >= CERTAIN:
      found.append(f"{name} {OUT_OF_TIME}")
  return [*found, *([ONE_TRACK] if entry.get("mixed", 0.0) > MIXED else [])]


def line(entry: dict[str, Any]) -> str:
  """One recording's figures on one line."""
  if "error" in entry:
    return f"{entry['id']}: {entry['error']}"
  sides = [f"{side} " + " ".join(f"{name} {value}" for name, value in entry[side].items()) for side in (USER, AGENT)]
  odd = f" | {', '.join(entry['flags'])}" if entry["flags"] else ""
  return f"{entry['id']}: {entry['seconds']} s | " + " | ".join(sides) + odd


def lines(entries: list[dict[str, Any]]) -> list[str]:
  """Lines about the reports of all recordings: how many have which flag, and the first of them."""
  flagged = [entry for entry in entries if entry["flags"]]
  out = [f"quality: {len(entries)} recordings read, {len(flagged)} with something to look at"]
  cut = sum(sum(entry.get("cut_words", {}).values()) for entry in entries)
  out += [f"  {cut} words start behind the last session of their recording, and are left out"] if cut else []
  for flag in sorted({flag for entry in flagged for flag in entry["flags"]}):
    having = [entry["id"] for entry in flagged if flag in entry["flags"]]
    out.append(f"  {flag}: {len(having)} ({', '.join(having[:3])}{', ...' if len(having) > 3 else ''})")
  return out
