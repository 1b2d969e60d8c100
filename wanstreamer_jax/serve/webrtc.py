"""Audio and video over WebRTC (the extra `webrtc`). Text stays on the WebSocket, which also carries the offer.

It is for networks that lose packets: WebRTC continues where TCP waits. On a good network the WebSocket has less delay.
Everything runs in the event loop; only the resizing of frames runs in worker threads.
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
from wanstreamer_jax.serve.frame_codec import check_size, fit
from wanstreamer_jax.serve.inbox import Inbox
from wanstreamer_jax.serve.rate_limit import RateLimit

MARGIN = 0.06  # seconds of audio that wait before the first is played
OPUS_SECONDS = 0.02  # of audio in one Opus frame
JITTER_BUFFER = {False: (4, 1), True: (128, 0)}  # by is_video: capacity and prefetch, in packets

_JitterBuffer = aiortc.rtcrtpreceiver.JitterBuffer


def _short_jitter_buffer(capacity: int, prefetch: int = 0, is_video: bool = False) -> Any:
  """Replaces aiortc's sizes: its buffer waits for 16 audio packets after a loss, and keeps that delay for ever."""
  capacity, prefetch = JITTER_BUFFER[is_video]
  return _JitterBuffer(capacity=capacity, prefetch=prefetch, is_video=is_video)


aiortc.rtcrtpreceiver.JitterBuffer = _short_jitter_buffer  # type: ignore[misc, assignment]


class Playout:
  """The agent's units, played at their own pace: the frame follows the audio that is being played."""

  def __init__(self, media: MediaConfig):
    self.media = media
    self._chunks: deque[tuple[np.ndarray, np.ndarray]] = deque()  # the audio of one frame's time, and the frame
    self._played = 0  # samples of the first chunk
    self._frame = np.zeros((media.height, media.width, 3), np.uint8)
    self._begin = 0.0  # time.monotonic() before which nothing is played

  def play(self, audio: np.ndarray, video: np.ndarray) -> None:
    """Adds a unit. What has piled up is dropped, oldest first."""
    if not self._chunks:
      self._begin = time.monotonic() + MARGIN
    self._chunks += zip(np.array_split(audio, len(video)), video)
    max_chunks = self.media.frames + int(2 * MARGIN * self.media.fps)
    while len(self._chunks) > max_chunks:
      self._chunks.popleft()
      self._played = 0

  def flush(self) -> None:
    """Silences the audio that waits; the video goes on."""
    self._chunks = deque((np.zeros_like(audio), frame) for audio, frame in self._chunks)

  def next_audio(self, samples: int) -> np.ndarray:
    """The next samples, int16 [samples]; silence where there are none."""
    out, filled = np.zeros(samples, np.float32), 0
    while filled < samples and self._chunks and time.monotonic() >= self._begin:
      chunk, self._frame = self._chunks[0]
      piece = chunk[self._played : self._played + samples - filled]
      out[filled : filled + len(piece)] = piece
      filled, self._played = filled + len(piece), self._played + len(piece)
      if self._played == len(chunk):
        self._chunks.popleft()
        self._played = 0
    return (np.clip(out, -1, 1) * 32767).astype(np.int16)

  def current_frame(self) -> np.ndarray:
    """The frame that belongs to the audio returned last: uint8 [height, width, 3]."""
    return self._frame


class PacedTrack(aiortc.MediaStreamTrack):
  """A track that yields `rate` frames a second."""

  def __init__(self, kind: str, rate: float):
    self.kind = kind
    super().__init__()
    self._rate, self._count, self._begin = rate, 0, 0.0

  async def next_due(self) -> int:
    """Sleeps until the next frame is due. Returns its index."""
    if self.readyState != "live":
      raise MediaStreamError
    self._begin = self._begin or time.monotonic()
    await asyncio.sleep(max(0.0, self._begin + self._count / self._rate - time.monotonic()))
    self._count += 1
    return self._count - 1


class AudioTrack(PacedTrack):
  """The audio of a Playout."""

  def __init__(self, playout: Playout):
    super().__init__("audio", 1 / OPUS_SECONDS)
    self._playout = playout

  async def recv(self) -> av.AudioFrame:
    """Called by aiortc."""
    index, rate = await self.next_due(), self._playout.media.sample_rate
    samples = round(OPUS_SECONDS * rate)
    frame = av.AudioFrame.from_ndarray(self._playout.next_audio(samples)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, index * samples, fractions.Fraction(1, rate)
    return frame


class VideoTrack(PacedTrack):
  """The video of a Playout."""

  def __init__(self, playout: Playout):
    super().__init__("video", playout.media.fps)
    self._playout = playout

  async def recv(self) -> av.VideoFrame:
    """Called by aiortc."""
    index, fps = await self.next_due(), self._playout.media.fps
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(self._playout.current_frame()), format="rgb24")
    frame.pts, frame.time_base = index, fractions.Fraction(1, fps)
    return frame


class Peer:
  """One client's peer connection: fills an inbox and plays what the agent answers.

  message_limit, frame_limit: how much the client may send, over WebSocket and WebRTC together; more is dropped.
  """

  def __init__(self, media: MediaConfig, inbox: Inbox, message_limit: RateLimit, frame_limit: RateLimit):
    self.media, self.inbox, self.playout = media, inbox, Playout(media)
    self._message_limit, self._frame_limit = message_limit, frame_limit
    self._connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    self._tasks: list[asyncio.Task[None]] = []

  async def answer(self, offer: str) -> str:
    """The SDP answer, with all candidates, to an SDP offer. Raises DataError for an offer that is not valid."""
    connection = self._connection
    connection.on("track", self._on_track)
    try:
      await connection.setRemoteDescription(aiortc.RTCSessionDescription(offer, "offer"))
      connection.addTrack(AudioTrack(self.playout))
      connection.addTrack(VideoTrack(self.playout))
      await connection.setLocalDescription(await connection.createAnswer())
    except Exception as error:  # aiortc raises many kinds of errors for invalid SDP
      raise DataError("the offer is not SDP for one audio and one video track") from error
    return str(connection.localDescription.sdp)

  def _on_track(self, track: aiortc.MediaStreamTrack) -> None:
    self._tasks.append(asyncio.create_task(self._receive(track)))

  async def _receive(self, track: aiortc.MediaStreamTrack) -> None:
    with contextlib.suppress(MediaStreamError):  # the client closed the track
      await (self._receive_audio(track) if track.kind == "audio" else self._receive_video(track))

  async def _receive_audio(self, track: aiortc.MediaStreamTrack) -> None:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=self.media.sample_rate)
    while True:
      frame = await track.recv()
      assert isinstance(frame, av.AudioFrame)
      if not self._message_limit.take():
        continue
      captured = time.monotonic() - frame.samples / frame.sample_rate
      for part in resampler.resample(frame):
        self.inbox.audio(part.to_ndarray()[0].astype(np.float32), captured)

  async def _receive_video(self, track: aiortc.MediaStreamTrack) -> None:
    while True:
      frame = await track.recv()  # of any size: browsers change it during a session
      assert isinstance(frame, av.VideoFrame)
      if self._frame_limit.take():
        captured = time.monotonic()
        with contextlib.suppress(DataError):  # too large: dropped, since WebRTC has no way to say so
          self.inbox.frame(await asyncio.to_thread(self._fit, frame), captured)

  def _fit(self, frame: av.VideoFrame) -> np.ndarray:
    """uint8 [height, width, 3]. In a worker thread. Raises DataError."""
    height, width = self.media.height, self.media.width
    check_size((frame.width, frame.height), height, width)
    return fit(frame.to_image(), height, width)

  async def close(self) -> None:
    """Stops receiving and closes the connection."""
    for task in self._tasks:
      task.cancel()
    await self._connection.close()
