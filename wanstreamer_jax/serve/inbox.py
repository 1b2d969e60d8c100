"""What arrives from one visitor, cut into units: a jitter buffer for sound, the pictures that belong to it, typed text.

The host's clock decides when a unit is taken; the visitor's clock (capture times) decides what belongs together. Sound
that is late is replaced by silence. Sound that piles up beyond SLACK is dropped from its old end at once, and what lies
there in every unit for a while, beyond MARGIN, is dropped too, so that the delay never grows and soon shrinks. Pictures
follow the sound that they were captured with.
"""

from collections import deque

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.media import UserUnit

SLACK = 0.08  # seconds of sound beyond a unit that may wait; more is dropped down to half of it
JUMP = 0.02  # seconds between a message's time and what those before it say, from where on it is believed
MARGIN = 0.02  # seconds of sound that may always wait: a message
PATIENCE = 16  # units after which sound that waited through all of them is dropped
GONE = 6  # units without anything new after which a microphone or camera counts as switched off
MOST_PICTURES = 64  # that wait; older ones are dropped


class Inbox:
  """One visitor's side between the network and the engine. Implements `hall.Source`.

  Not thread-safe: one event loop fills and empties it.
  """

  def __init__(self, media: MediaConfig):
    self.media = media
    self.dropped = self.missing = 0  # samples
    self._sound = np.zeros(0, np.float32)
    self._clock: float | None = None  # capture time of the first waiting sample
    self._pictures: deque[tuple[float, np.ndarray]] = deque(maxlen=MOST_PICTURES)
    self._shown: np.ndarray | None = None
    self._silent = self._still = GONE  # units since something came
    self._least, self._units = np.inf, 0  # the least that waited behind a unit, over how many units
    self._typed: list[str] = []

  def sound(self, samples: np.ndarray, time: float) -> None:
    """Samples float32 captured from `time` on (the visitor's clock, seconds)."""
    begin = time - len(self._sound) / self.media.sample_rate
    if self._clock is None or abs(self._clock - begin) > JUMP:
      self._clock = begin  # clocks drift and jump: the newest message is right
    self._sound = np.concatenate([self._sound, samples])
    self._silent = 0

  def picture(self, picture: np.ndarray, time: float) -> None:
    """A picture uint8 [height, width, 3] captured at `time`."""
    self._pictures.append((time, picture))
    self._still = 0

  def text(self, text: str) -> None:
    self._typed.append(text)

  def prepare(self) -> None:
    pass  # units come when they come

  def hear(self, audio: np.ndarray) -> None:
    pass

  @property
  def waiting(self) -> float:
    """Seconds of sound that wait."""
    return len(self._sound) / self.media.sample_rate

  def take(self) -> tuple[UserUnit, list[str], float | None]:
    """The next unit, what was typed, and the capture time of its end (None without sound)."""
    typed, self._typed = self._typed, []
    self._trim()
    sound, end = self._take_sound()
    video = self._take_pictures(end)
    self._silent, self._still = self._silent + 1, self._still + 1
    return UserUnit(video, sound), typed, end

  def _trim(self) -> None:
    rate = self.media.sample_rate
    behind = len(self._sound) - self.media.samples
    self._least, self._units = min(self._least, behind), self._units + 1
    surplus = behind - int(SLACK * rate / 2) if behind > SLACK * rate else 0
    if self._units == PATIENCE:
      surplus = max(surplus, int(self._least) - int(MARGIN * rate))
      self._least, self._units = np.inf, 0
    if surplus > 0:
      self._sound = self._sound[surplus:]
      self.dropped += surplus
      assert self._clock is not None
      self._clock += surplus / rate

  def _take_sound(self) -> tuple[np.ndarray | None, float | None]:
    samples = self.media.samples
    if self._silent >= GONE and not len(self._sound):
      return None, None
    now, self._sound = self._sound[:samples], self._sound[samples:]
    self.missing += samples - len(now)
    if self._clock is None:
      return np.zeros(samples, np.float32), None
    self._clock += len(now) / self.media.sample_rate
    return np.concatenate([now, np.zeros(samples - len(now), np.float32)]), self._clock

  def _take_pictures(self, end: float | None) -> np.ndarray | None:
    """Of every frame time of the unit the newest picture by then; without sound, or behind it, the newest ones."""
    media = self.media
    if self._still >= GONE and not self._pictures:
      self._shown = None
      return None
    frames = []
    for index in range(media.frames):
      due = None if end is None else end - (media.frames - 1 - index) / media.fps
      left = media.frames - 1 - index  # without a clock the last pictures are spread over the unit
      while self._pictures and (len(self._pictures) > left if due is None else self._pictures[0][0] <= due):
        self._shown = self._pictures.popleft()[1]
      if self._shown is not None:
        frames.append(self._shown)
    if not frames:
      return None
    return np.stack([frames[0]] * (media.frames - len(frames)) + frames)
