"""Cuts a client's audio, video and text into units. It is a jitter buffer between network and scheduler.

The host's clock decides when a unit is taken; the client's clock (capture times) decides what belongs together. Missing
audio is replaced by silence. The delay never grows and soon shrinks: audio beyond SLACK is dropped at once, oldest
first, and audio beyond MARGIN that has waited behind every unit for a while is dropped too. Audio that a late host is
about to take counts for neither. Frames follow the audio they were captured with.
"""

from collections import deque

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.media import MediaUnit
from wanstreamer_jax.serve.unit_source import UserInput

SLACK = 0.08  # seconds of audio beyond a unit that may wait; above it, audio is dropped down to half of it
MAX_CLOCK_ERROR = 0.02  # seconds between a message's time and the expected one, above which the message is believed
MARGIN = 0.02  # seconds of audio that may always wait: one message
PATIENCE = 16  # units after which audio that waited through all of them is dropped
ABSENT_UNITS = 6  # units without new data after which a microphone or camera counts as switched off
MAX_UNITS = 8  # of waiting audio; older audio is dropped when more arrives
MAX_FRAMES = 64  # waiting; older ones are dropped


class Inbox:
  """One client's side. Implements `UnitSource`.

  Not thread-safe: one event loop fills and empties it.
  """

  def __init__(self, media: MediaConfig):
    self.media = media
    self.dropped = self.missing = 0  # samples, since the start
    self._audio: deque[np.ndarray] = deque()  # pieces as they arrived; joined only when a unit is taken
    self._samples = 0  # in `_audio`
    self._clock: float | None = None  # capture time of the first waiting sample
    self._frames: deque[tuple[float, np.ndarray]] = deque(maxlen=MAX_FRAMES)
    self._last_frame: np.ndarray | None = None
    self._units_without_audio = self._units_without_video = ABSENT_UNITS
    self._min_over, self._min_over_units = np.inf, 0  # the least that waited behind a unit, over how many units
    self._typed: list[str] = []

  def audio(self, samples: np.ndarray, time: float) -> None:
    """Adds samples, float32 [n], captured from `time` on (the client's clock, seconds)."""
    begin = time - self._samples / self.media.sample_rate
    if self._clock is None or abs(self._clock - begin) > MAX_CLOCK_ERROR:
      self._clock = begin  # clocks drift and jump: the newest message is right
    self._audio.append(samples)
    self._samples += len(samples)
    self._units_without_audio = 0
    self._drop(self._samples - MAX_UNITS * self.media.samples)

  def frame(self, frame: np.ndarray, time: float) -> None:
    """Adds a frame, uint8 [height, width, 3], captured at `time`."""
    self._frames.append((time, frame))
    self._units_without_video = 0

  def text(self, text: str) -> None:
    """Adds a typed text."""
    self._typed.append(text)

  def prepare(self) -> None:
    """Nothing to prepare: units come over the network."""

  def observe_agent(self, audio: np.ndarray) -> None:
    """Nothing to observe: the person at the client hears the agent."""

  @property
  def waiting(self) -> float:
    """Seconds of audio that wait."""
    return self._samples / self.media.sample_rate

  def take(self, behind: int = 0) -> UserInput:
    """The next unit; its capture time is None without audio.

    behind: how many more units the host will take immediately after this one, to catch up with its clock.
    """
    typed, self._typed = self._typed, []
    self._trim(behind)
    audio, end = self._take_audio()
    video = self._take_video(end)
    self._units_without_audio += 1
    self._units_without_video += 1
    return UserInput(MediaUnit(video, audio), typed, end)

  def _trim(self, behind: int) -> None:
    """Drops what would only add delay."""
    rate = self.media.sample_rate
    over = self._samples - (1 + behind) * self.media.samples
    self._min_over, self._min_over_units = min(self._min_over, over), self._min_over_units + 1
    surplus = over - int(SLACK * rate / 2) if over > SLACK * rate else 0
    if self._min_over_units == PATIENCE:
      surplus = max(surplus, int(self._min_over) - int(MARGIN * rate))
      self._min_over, self._min_over_units = np.inf, 0
    self._drop(surplus)

  def _drop(self, samples: int) -> None:
    self.dropped += sum(map(len, self._pop(samples)))

  def _pop(self, samples: int) -> list[np.ndarray]:
    """Removes and returns the oldest samples, at most so many, in pieces; the clock advances with them."""
    pieces: list[np.ndarray] = []
    while samples > 0 and self._audio:
      piece = self._audio.popleft()
      if len(piece) > samples:
        self._audio.appendleft(piece[samples:])
        piece = piece[:samples]
      pieces.append(piece)
      samples -= len(piece)
    popped = sum(map(len, pieces))
    self._samples -= popped
    if self._clock is not None:
      self._clock += popped / self.media.sample_rate
    return pieces

  def _take_audio(self) -> tuple[np.ndarray | None, float | None]:
    """A unit of audio, float32 [samples], and the capture time of its end; None while the microphone is off."""
    samples = self.media.samples
    if self._units_without_audio >= ABSENT_UNITS and not self._audio:
      return None, None
    pieces = self._pop(samples)
    missing = samples - sum(map(len, pieces))
    self.missing += missing
    return np.concatenate([*pieces, np.zeros(missing, np.float32)]), self._clock

  def _take_video(self, end: float | None) -> np.ndarray | None:
    """The unit's frames, uint8 [frames, height, width, 3]; None while the camera is off.

    end: capture time of the unit's end. For each frame time the newest frame captured by then is taken. Without audio
    there is no such time: the newest frames that wait are spread over the unit.
    """
    media = self.media
    if self._units_without_video >= ABSENT_UNITS and not self._frames:
      self._last_frame = None
      return None
    frames = []
    for index in range(media.frames):
      left = media.frames - 1 - index  # frame times after this one
      due = None if end is None else end - left / media.fps
      while self._frames and (len(self._frames) > left if due is None else self._frames[0][0] <= due):
        self._last_frame = self._frames.popleft()[1]
      if self._last_frame is not None:
        frames.append(self._last_frame)
    if not frames:
      return None
    return np.stack([frames[0]] * (media.frames - len(frames)) + frames)
