"""What arrives from one visitor, cut into units: a jitter buffer for sound, the pictures that belong to it, typed text.

The host's clock decides when a unit is taken; the visitor's clock (capture times) decides what belongs together. Sound
that is late is replaced by silence. Sound that piles up beyond SLACK is dropped from its old end at once, and what lies
there in every unit for a while, beyond MARGIN, is dropped too, so that the delay never grows and soon shrinks. What the
host itself has still to catch up with is no part of either. Pictures follow the sound that they were captured with.
"""

from collections import deque

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.media import MediaUnit

SLACK = 0.08  # seconds of sound beyond a unit that may wait; more is dropped down to half of it
JUMP = 0.02  # seconds between a message's time and what those before it say, from where on it is believed
MARGIN = 0.02  # seconds of sound that may always wait: a message
PATIENCE = 16  # units after which sound that waited through all of them is dropped
GONE = 6  # units without anything new after which a microphone or camera counts as switched off
MOST_UNITS = 8  # of sound that wait; older sound is dropped when more arrives
MOST_PICTURES = 64  # that wait; older ones are dropped


class Inbox:
  """One visitor's side between the network and the engine. Implements `hall.Source`.

  Not thread-safe: one event loop fills and empties it.
  """

  def __init__(self, media: MediaConfig):
    self.media = media
    self.dropped = self.missing = 0  # samples
    self._sound: deque[np.ndarray] = deque()  # as it came: joined only when a unit is taken
    self._samples = 0  # of it
    self._clock: float | None = None  # capture time of the first waiting sample
    self._pictures: deque[tuple[float, np.ndarray]] = deque(maxlen=MOST_PICTURES)
    self._shown: np.ndarray | None = None
    self._silent = self._still = GONE  # units since something came
    self._least, self._units = np.inf, 0  # the least that waited behind a unit, over how many units
    self._typed: list[str] = []

  def sound(self, samples: np.ndarray, time: float) -> None:
    """Samples float32 captured from `time` on (the visitor's clock, seconds)."""
    begin = time - self._samples / self.media.sample_rate
    if self._clock is None or abs(self._clock - begin) > JUMP:
      self._clock = begin  # clocks drift and jump: the newest message is right
    self._sound.append(samples)
    self._samples += len(samples)
    self._silent = 0
    self._drop(self._samples - MOST_UNITS * self.media.samples)

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
    return self._samples / self.media.sample_rate

  def take(self, behind: int = 0) -> tuple[MediaUnit, list[str], float | None]:
    """The next unit, what was typed, and the capture time of its end (None without sound).

    behind: units that the host will take at once after this one, to catch up with its clock.
    """
    typed, self._typed = self._typed, []
    self._trim(behind)
    sound, end = self._take_sound()
    video = self._take_pictures(end)
    self._silent, self._still = self._silent + 1, self._still + 1
    return MediaUnit(video, sound), typed, end

  def _trim(self, behind: int) -> None:
    rate = self.media.sample_rate
    over = self._samples - (1 + behind) * self.media.samples
    self._least, self._units = min(self._least, over), self._units + 1
    surplus = over - int(SLACK * rate / 2) if over > SLACK * rate else 0
    if self._units == PATIENCE:
      surplus = max(surplus, int(self._least) - int(MARGIN * rate))
      self._least, self._units = np.inf, 0
    self._drop(surplus)

  def _drop(self, surplus: int) -> None:
    self.dropped += sum(map(len, self._oldest(surplus)))

  def _oldest(self, samples: int) -> list[np.ndarray]:
    """So many samples, or all that there are, in pieces; they wait no longer, and the clock goes on by them."""
    pieces: list[np.ndarray] = []
    while samples > 0 and self._sound:
      piece = self._sound.popleft()
      if len(piece) > samples:
        self._sound.appendleft(piece[samples:])
        piece = piece[:samples]
      pieces.append(piece)
      samples -= len(piece)
    found = sum(map(len, pieces))
    self._samples -= found
    if self._clock is not None:
      self._clock += found / self.media.sample_rate
    return pieces

  def _take_sound(self) -> tuple[np.ndarray | None, float | None]:
    samples = self.media.samples
    if self._silent >= GONE and not self._sound:
      return None, None
    pieces = self._oldest(samples)
    late = samples - sum(map(len, pieces))
    self.missing += late
    return np.concatenate([*pieces, np.zeros(late, np.float32)]), self._clock

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
