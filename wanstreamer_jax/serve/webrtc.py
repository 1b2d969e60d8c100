"""Sound and pictures of a visit over WebRTC (the extra `webrtc`); words stay on the WebSocket, which carries the offer.

For networks that lose packets: WebRTC goes on where TCP waits. On a good one the WebSocket has less delay.
"""

import asyncio
import contextlib
import fractions
import time
from collections import deque
from typing import Any

import aiortc
import aiortc.rtcrtpreceiver
import av
import numpy as np
from aiortc.mediastreams import MediaStreamError

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.serve.inbox import Inbox
from wanstreamer_jax.serve.picture_codec import check_sides, fit
from wanstreamer_jax.serve.rate_limit import Bucket

MARGIN = 0.06  # seconds of sound that wait before the first is played
PART = 0.02  # seconds of sound in a frame of Opus
PATIENCE = {False: (4, 1), True: (128, 0)}  # packets that a lost one of (sound, pictures) holds back; prefetched ones

_JitterBuffer = aiortc.rtcrtpreceiver.JitterBuffer


def _impatient(capacity: int, prefetch: int = 0, is_video: bool = False) -> Any:
  """aiortc's jitter buffer waits for 16 packets of sound after a loss, and never plays that delay down again."""
  capacity, prefetch = PATIENCE[is_video]
  return _JitterBuffer(capacity=capacity, prefetch=prefetch, is_video=is_video)


aiortc.rtcrtpreceiver.JitterBuffer = _impatient  # type: ignore[misc, assignment]


class Playout:
  """What the agent said and showed, at its pace: pictures follow the sound that is being played."""

  def __init__(self, media: MediaConfig):
    self.media = media
    self._chunks: deque[tuple[np.ndarray, np.ndarray]] = deque()  # sound and picture of a frame's time
    self._played = 0  # samples of the first chunk
    self._picture = np.zeros((media.height, media.width, 3), np.uint8)
    self._begin = 0.0

  def play(self, audio: np.ndarray, video: np.ndarray) -> None:
    """A unit. What has piled up is dropped from its old end."""
    if not self._chunks:
      self._begin = time.monotonic() + MARGIN
    self._chunks += zip(np.array_split(audio, len(video)), video)
    most = self.media.frames + int(2 * MARGIN * self.media.fps)
    while len(self._chunks) > most:
      self._chunks.popleft()
      self._played = 0

  def hush(self) -> None:
    """What waits to be heard is silence; pictures go on."""
    self._chunks = deque((np.zeros_like(sound), picture) for sound, picture in self._chunks)

  def sound(self, samples: int) -> np.ndarray:
    """The next samples: int16."""
    out, filled = np.zeros(samples, np.float32), 0
    while filled < samples and self._chunks and time.monotonic() >= self._begin:
      chunk, self._picture = self._chunks[0]
      piece = chunk[self._played : self._played + samples - filled]
      out[filled : filled + len(piece)] = piece
      filled, self._played = filled + len(piece), self._played + len(piece)
      if self._played == len(chunk):
        self._chunks.popleft()
        self._played = 0
    return (np.clip(out, -1, 1) * 32767).astype(np.int16)

  def picture(self) -> np.ndarray:
    """What belongs to the sound that was given last."""
    return self._picture


class Paced(aiortc.MediaStreamTrack):
  """A track that gives `rate` frames a second."""

  def __init__(self, kind: str, rate: float):
    self.kind = kind
    super().__init__()
    self._rate, self._count, self._begin = rate, 0, 0.0

  async def turn(self) -> int:
    """Sleeps until the next frame is due. Returns its number."""
    if self.readyState != "live":
      raise MediaStreamError
    self._begin = self._begin or time.monotonic()
    await asyncio.sleep(max(0.0, self._begin + self._count / self._rate - time.monotonic()))
    self._count += 1
    return self._count - 1


class Sound(Paced):
  def __init__(self, playout: Playout):
    super().__init__("audio", 1 / PART)
    self._playout = playout

  async def recv(self) -> av.AudioFrame:
    number, rate = await self.turn(), self._playout.media.sample_rate
    samples = round(PART * rate)
    frame = av.AudioFrame.from_ndarray(self._playout.sound(samples)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, number * samples, fractions.Fraction(1, rate)
    return frame


class Pictures(Paced):
  def __init__(self, playout: Playout):
    super().__init__("video", playout.media.fps)
    self._playout = playout

  async def recv(self) -> av.VideoFrame:
    number, fps = await self.turn(), self._playout.media.fps
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(self._playout.picture()), format="rgb24")
    frame.pts, frame.time_base = number, fractions.Fraction(1, fps)
    return frame


class Peer:
  """One visitor's connection: fills an inbox, plays what the agent answers.

  messages, pictures: how much the visitor may send, over whatever way; more is left out.
  """

  def __init__(self, media: MediaConfig, inbox: Inbox, messages: Bucket, pictures: Bucket):
    self.media, self.inbox, self.playout = media, inbox, Playout(media)
    self._messages, self._pictures = messages, pictures
    self._connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    self._tasks: list[asyncio.Task[None]] = []

  async def answer(self, offer: str) -> str:
    """The SDP that answers an offer with all its candidates. Raises DataError for what is none."""
    connection = self._connection
    connection.on("track", lambda track: self._tasks.append(asyncio.create_task(self._receive(track))))
    try:
      await connection.setRemoteDescription(aiortc.RTCSessionDescription(offer, "offer"))
      connection.addTrack(Sound(self.playout))
      connection.addTrack(Pictures(self.playout))
      await connection.setLocalDescription(await connection.createAnswer())
    except Exception as error:  # aiortc raises many kinds for SDP that it does not like
      raise DataError("an offer that is not SDP for one sound and one picture track") from error
    return str(connection.localDescription.sdp)

  async def _receive(self, track: aiortc.MediaStreamTrack) -> None:
    with contextlib.suppress(MediaStreamError):
      if track.kind == "audio":
        await self._hear(track)
      else:
        await self._see(track)

  async def _hear(self, track: aiortc.MediaStreamTrack) -> None:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=self.media.sample_rate)
    while True:
      frame = await track.recv()
      assert isinstance(frame, av.AudioFrame)
      if not self._messages.take():
        continue
      arrived = time.monotonic() - frame.samples / frame.sample_rate
      for part in resampler.resample(frame):
        self.inbox.sound(part.to_ndarray()[0].astype(np.float32), arrived)

  async def _see(self, track: aiortc.MediaStreamTrack) -> None:
    while True:
      frame = await track.recv()  # of any size, and browsers change it on the way
      assert isinstance(frame, av.VideoFrame)
      if self._pictures.take():
        arrived = time.monotonic()
        with contextlib.suppress(DataError):  # too large: left out, as its sender would not be told
          self.inbox.picture(await asyncio.to_thread(self._fit, frame), arrived)

  def _fit(self, frame: av.VideoFrame) -> np.ndarray:
    """uint8 [height, width, 3]. In a thread. Raises DataError."""
    height, width = self.media.height, self.media.width
    check_sides((frame.width, frame.height), height, width)
    return fit(frame.to_image(), height, width)

  async def close(self) -> None:
    for task in self._tasks:
      task.cancel()
    await self._connection.close()
