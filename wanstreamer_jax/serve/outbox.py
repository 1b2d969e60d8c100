"""The queue of messages to one client. When a connection is slow, video is left out first; then the session ends."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from aiohttp import web

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.serve import protocol
from wanstreamer_jax.serve.frame_codec import FrameEncoder, JPEGEncoder, VP8Encoder

SLOW = 3  # units that wait to be sent, from which on video is left out
STUCK = 16  # units that wait to be sent, from which on the session is ended


@dataclasses.dataclass(frozen=True)
class OutgoingSide:
  """One side's unit: audio float32 [samples], video uint8 [frames, height, width, 3]."""

  user: bool  # the user's side, which viewers get, or the agent's
  audio: np.ndarray
  video: np.ndarray


@dataclasses.dataclass(frozen=True)
class Outgoing:
  """What one unit sends: messages, and then the frames of `video`, which are still to be encoded."""

  messages: Sequence[str | bytes]
  unit: int = 0
  video: Sequence[OutgoingSide] = ()


class Outbox:
  """A queue to one WebSocket. `put` is called in the event loop and never waits; `run` sends, in a task of its own.

  Frames are encoded in a worker thread, one unit after the other, after the unit's audio was sent. `codec` is
  protocol.JPEG or protocol.VP8, and must be set before the first unit.
  """

  def __init__(self, media: MediaConfig):
    self.media, self.codec = media, protocol.JPEG
    self._encoders: dict[bool, FrameEncoder] = {}  # by `OutgoingSide.user`
    self._queue: asyncio.Queue[Outgoing | None] = asyncio.Queue()  # None: close

  def __len__(self) -> int:
    """How many units wait."""
    return self._queue.qsize()

  @property
  def stuck(self) -> bool:
    """Whether the client is too slow to go on."""
    return len(self) >= STUCK

  def put(self, messages: Sequence[str | bytes]) -> None:
    """Sends messages."""
    self._queue.put_nowait(Outgoing(messages))

  def put_unit(self, unit: int, messages: Sequence[str | bytes], sides: Sequence[OutgoingSide]) -> int:
    """Sends messages, then the audio of all sides, then their video. Returns how many frames were left out."""
    dropped = sum(len(side.video) for side in sides) if len(self) >= SLOW else 0
    audio = self._audio_messages(unit, sides)
    self._queue.put_nowait(Outgoing([*messages, *audio], unit, () if dropped else sides))
    return dropped

  def close(self, last: str) -> None:
    """Sends one last message instead of everything that waits, and then closes the WebSocket."""
    while not self._queue.empty():
      self._queue.get_nowait()
    self.put([last])
    self._queue.put_nowait(None)

  async def run(self, socket: web.WebSocketResponse) -> None:
    """Sends until `close`, or until the connection breaks."""
    with contextlib.suppress(ConnectionError):  # the receiving task notices the same
      while (outgoing := await self._queue.get()) is not None:
        for message in outgoing.messages:
          await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
        for frame in await asyncio.to_thread(self._encode, outgoing) if outgoing.video else []:
          await socket.send_bytes(frame)
    await socket.close()

  def _audio_messages(self, unit: int, sides: Sequence[OutgoingSide]) -> Iterator[bytes]:
    """Short parts, so that playback can begin with the first; of each part the sides in their order."""
    media = self.media
    size = round(protocol.PART_SECONDS * media.sample_rate)
    for first in range(0, media.samples, size):
      time = unit * media.unit_ms / 1000 + first / media.sample_rate
      for side in sides:
        yield protocol.audio_message(side.audio[first : first + size], time, unit, side.user).pack()

  def _encode(self, outgoing: Outgoing) -> list[bytes]:
    """A unit's frames as messages. In a worker thread."""
    media, messages = self.media, []
    for side in outgoing.video:
      encode = self._encoder(side.user)
      for index, frame in enumerate(side.video):
        time = outgoing.unit * media.unit_ms / 1000 + index / media.fps
        data, key_frame = encode(frame)
        message = protocol.MediaMessage(self.codec, data, time, outgoing.unit, key_frame, side.user)
        messages.append(message.pack())
    return messages

  def _encoder(self, user: bool) -> FrameEncoder:
    if user not in self._encoders:
      media = self.media
      vp8 = self.codec == protocol.VP8
      self._encoders[user] = VP8Encoder(media.height, media.width, media.fps) if vp8 else JPEGEncoder()
    return self._encoders[user]
