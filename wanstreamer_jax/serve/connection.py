"""One client's WebSocket, from its hello to its end. It speaks `protocol.py`.

Everything runs in the event loop: `run` receives, a task of the outbox sends, and the scheduler calls `deliver` and
`end`. Only frames are decoded and encoded in worker threads.
"""

import asyncio
import contextlib
import dataclasses
import logging
from typing import Any

import numpy as np
from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from wanstreamer_jax.data.duplex_world.world import WorldConfig
from wanstreamer_jax.data.loudness import is_loud
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import is_one_line
from wanstreamer_jax.engine.interface import PHASES
from wanstreamer_jax.errors import DataError, UserError
from wanstreamer_jax.serve import protocol
from wanstreamer_jax.serve.echo import EchoMeter
from wanstreamer_jax.serve.frame_codec import VP8Decoder, decode_jpeg
from wanstreamer_jax.serve.hello import parse_request
from wanstreamer_jax.serve.inbox import Inbox
from wanstreamer_jax.serve.outbox import Outbox, OutgoingSide
from wanstreamer_jax.serve.prometheus import Metrics
from wanstreamer_jax.serve.rate_limit import RateLimit
from wanstreamer_jax.serve.recording import SessionRecording
from wanstreamer_jax.serve.scheduler import NoFreeSlot, Scheduler, Slot, UnitResult
from wanstreamer_jax.serve.unit_source import MAX_TYPED, UnitSource
from wanstreamer_jax.serve.watched_user import WatchedUser

HELLO_SECONDS = 10.0  # within which the first message must arrive
NOTICE_SECONDS = 3.0  # that a client has to read a last message
BROKEN_CODES = (None, 1006)  # closing codes of a WebSocket that neither side closed on purpose
MAX_CLOSE_REASON = 120  # bytes
MESSAGE_RATE = (250, 2500)  # messages per second, and at once; more are dropped
TEXT_RATE = (1, 5)
log = logging.getLogger("wanstreamer")


@dataclasses.dataclass
class Service:
  """What all connections of a server share.

  world: who the agent is by default; voice: whether it uses a voice sample; simulated: the duplex_world whose users
  talk with the agent while viewers watch (None: this agent cannot be watched).
  """

  scheduler: Scheduler
  metrics: Metrics
  world: World
  voice: bool
  simulated: WorldConfig | None
  recordings: dict[str, SessionRecording] = dataclasses.field(default_factory=dict)  # by session token
  draining: bool = False  # the server is going down: no new sessions
  world_readers: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(2))

  def unit_source(self, watch: bool, seed: int) -> Inbox | WatchedUser:
    """Where a session's user comes from. Raises DataError when there is nobody to watch."""
    if not watch:
      return Inbox(self.scheduler.media)
    if self.simulated is None:
      raise DataError("this agent cannot be watched: it was not trained with simulated users")
    return WatchedUser(self.simulated, seed)


class Connection:
  """One WebSocket: hello, a slot of the scheduler, media in both directions. Implements `scheduler.Listener`."""

  def __init__(self, service: Service, socket: web.WebSocketResponse, transport: asyncio.Transport | None):
    media = service.scheduler.media
    self.service, self.socket, self.transport = service, socket, transport
    self.slot: Slot | None = None
    self.source: UnitSource = Inbox(media)
    self.recording: SessionRecording | None = None
    self.outbox = Outbox(media)
    self.decoder: VP8Decoder | None = None  # of a client that sends VP8
    self.message_limit, self.text_limit = RateLimit(*MESSAGE_RATE), RateLimit(*TEXT_RATE)
    self.frame_limit = RateLimit(2 * media.fps, 2 * media.fps)
    self.agent_speaking = False
    self.echo = EchoMeter(media)
    self.peer: Any = None  # a `webrtc.Peer`, once audio and video go over WebRTC

  async def run(self) -> None:
    """Serves until the client or the server ends the session."""
    try:
      await self._welcome(protocol.parse(await self._first_message()))
    except NoFreeSlot as full:
      await self._send("full", retry_after=full.retry_after, message=str(full))
      await self._close(WSCloseCode.TRY_AGAIN_LATER, str(full))
      return
    except (UserError, ValueError, OverflowError) as error:
      await self._refuse(error)
      return
    sender, over = asyncio.create_task(self.outbox.run(self.socket)), False
    try:
      over = await self._receive()
    finally:
      self._release_slot(over)
      sender.cancel()
      await asyncio.gather(sender, return_exceptions=True)
      if self.peer is not None:
        await self.peer.close()

  def _release_slot(self, over: bool) -> None:
    """Frees the slot, or keeps it for a client whose connection broke."""
    slot = self.slot
    if slot is None or slot.listener is not self:  # another connection continues the session
      return
    if over:
      self.service.scheduler.leave(slot)
    else:
      slot.disconnect()

  # The hello

  async def _first_message(self) -> str:
    try:
      message = await self.socket.receive(HELLO_SECONDS)
    except TimeoutError:
      raise DataError(f"no hello within {HELLO_SECONDS:g} s") from None
    if message.type is not WSMsgType.TEXT:
      raise DataError(f'the first message must be {{"type": "hello", "version": {protocol.VERSION}, ...}}')
    return str(message.data)

  async def _welcome(self, hello: dict[str, Any]) -> None:
    """Begins or continues a session. Raises UserError."""
    protocol.check_hello(hello)
    offered = hello.get("video", [])
    self.outbox.codec = protocol.VP8 if isinstance(offered, list) and "vp8" in offered else protocol.JPEG
    slot = self.slot = self._reconnect(str(hello["session"])) if "session" in hello else await self._join(hello)
    log.info("joined", extra={"slot": slot.index, "free": self.service.scheduler.free})
    media = self.service.scheduler.media
    await self._send(
      "welcome", version=protocol.VERSION, session=slot.token, unit_ms=media.unit_ms, fps=media.fps,
      sample_rate=media.sample_rate, height=media.height, width=media.width, unit=slot.unit, generated=True,
      recording=self.recording is not None, video="vp8" if self.outbox.codec == protocol.VP8 else "jpeg",
    )  # fmt: skip

  def _reconnect(self, token: str) -> Slot:
    slot = self.service.scheduler.reconnect(token, self)
    self.source, self.recording = slot.source, self.service.recordings.get(token)
    return slot

  async def _join(self, hello: dict[str, Any]) -> Slot:
    service, scheduler = self.service, self.service.scheduler
    if service.draining:
      raise DataError("the server is going down; please come back in a minute")
    scheduler.find_free()  # before anything is decoded
    async with service.world_readers:  # each portrait takes memory
      request = await asyncio.to_thread(parse_request, hello, service.world, scheduler.media, service.voice)
    await asyncio.to_thread(scheduler.engine.check, request)
    self.source = service.unit_source(bool(hello.get("watch", False)), request.seed)
    recording = SessionRecording(scheduler.media) if hello.get("record", False) else None
    try:
      slot = scheduler.join(request, self.source, self)
    except UserError:
      if recording is not None:
        recording.delete()
      raise
    if recording is not None:
      self.recording = service.recordings[slot.token] = recording
    return slot

  # From the client

  async def _receive(self) -> bool:
    """Receives until the end. Returns whether the session is over, rather than the connection broken."""
    async for message in self.socket:
      if message.type is WSMsgType.ERROR:  # a message that is too large or malformed ends it; otherwise it broke
        return isinstance(message.data, WebSocketError)
      if not self.message_limit.take():
        continue
      try:
        if message.type is WSMsgType.BINARY:
          await self._receive_media(protocol.unpack(message.data))
        elif message.type is WSMsgType.TEXT and not await self._receive_json(protocol.parse(message.data)):
          return True
      except (DataError, ValueError, OverflowError) as error:
        await self._refuse(error)
        return True
    return not self.service.draining and self.socket.close_code not in BROKEN_CODES

  async def _receive_media(self, message: protocol.MediaMessage) -> None:
    """This client's next message waits until a frame is decoded; other clients do not."""
    if not isinstance(self.source, Inbox):
      raise DataError("viewers may type but send no audio or video")
    if message.kind == protocol.AUDIO:
      self.source.audio(message.samples, message.time)
    elif self.frame_limit.take():
      frame = await asyncio.to_thread(self._decode, message)
      if frame is not None:
        self.source.frame(frame, message.time)

  def _decode(self, message: protocol.MediaMessage) -> np.ndarray | None:
    """uint8 [height, width, 3], or None before a key frame. In a worker thread, one frame after the other."""
    media = self.service.scheduler.media
    if message.kind == protocol.JPEG:
      return decode_jpeg(message.payload, media.height, media.width)
    self.decoder = self.decoder or VP8Decoder(media.height, media.width)
    return self.decoder(message.payload)

  async def _receive_json(self, value: dict[str, Any]) -> bool:
    """Returns whether the session goes on. Unknown types are ignored: later versions may add some."""
    if value["type"] == "text":
      self._receive_text(value.get("text"))
    elif value["type"] == "ping":
      await self._send("pong", time=value.get("time"))
    elif value["type"] == "offer":
      await self._send("answer", sdp=await self._connect_webrtc(value.get("sdp")))
    return value["type"] != "bye"

  def _receive_text(self, text: Any) -> None:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TYPED or not is_one_line(text):
      raise DataError(f"a text of 1 to {MAX_TYPED} printable characters was expected")
    if self.text_limit.take():
      self.source.text(text)

  async def _connect_webrtc(self, offer: Any) -> str:
    """Moves audio and video to WebRTC. Returns the SDP answer."""
    try:
      from wanstreamer_jax.serve import webrtc
    except ImportError:
      raise DataError("this server has no WebRTC: pip install 'wanstreamer-jax[webrtc]', or use this socket") from None
    if not isinstance(offer, str) or not isinstance(self.source, Inbox) or self.peer is not None:
      raise DataError("an offer must contain its sdp, may be sent once, and not by a viewer")
    peer = webrtc.Peer(self.service.scheduler.media, self.source, self.message_limit, self.frame_limit)
    try:
      sdp = await peer.answer(offer)
    except DataError:
      await peer.close()
      raise
    self.peer = peer
    return sdp

  # From the scheduler

  def deliver(self, result: UnitResult) -> None:
    """Sends one unit to the client."""
    self.service.metrics.count_unit(result)
    if self.recording is not None:
      self.recording.add(result)
    if self.outbox.stuck:
      self.end("the connection is too slow for this conversation")
      return
    messages = [*self._interruption(result), *self._echo_level(result), unit_message(result)]
    if self.peer is not None:
      self.peer.playout.play(result.output.audio, result.output.video)
      self.outbox.put(messages)
    else:
      dropped = self.outbox.put_unit(result.unit, messages, self._sides(result))
      self.service.metrics.count_dropped_frames(dropped)

  def _interruption(self, result: UnitResult) -> list[str]:
    """Tells the client to drop audio that it has not played yet: the agent fell silent while the user was loud.

    A convenience for the client, by a fixed threshold on the user's level (`loudness.LOUD`); the model neither sees it
    nor depends on it.
    """
    user_loud = result.user.audio is not None and is_loud(result.user.audio)
    stopped = self.agent_speaking and not result.output.speaking
    self.agent_speaking = result.output.speaking
    if not (stopped and user_loud):
      return []
    if self.peer is not None:
      self.peer.playout.flush()
    return [protocol.dump("interrupted", unit=result.unit)]

  def _echo_level(self, result: UnitResult) -> list[str]:
    """Tells the client, from time to time, how much of the agent comes back through the microphone."""
    if not isinstance(self.source, Inbox):
      return []
    level = self.echo(result.output.audio, result.user.audio)
    return [] if level is None else [protocol.dump("echo", level_db=round(level, 1))]

  def _sides(self, result: UnitResult) -> list[OutgoingSide]:
    """Whose audio and video are sent: the agent's, and before it the user's to viewers."""
    sides, user = [OutgoingSide(False, result.output.audio, result.output.video)], result.user
    if isinstance(self.source, WatchedUser) and user.audio is not None and user.video is not None:
      sides.insert(0, OutgoingSide(True, user.audio, user.video))
    return sides

  def end(self, reason: str) -> None:
    """Ends the session, and cuts the connection off when the client does not read why in time."""
    if self.slot is not None:
      self.service.scheduler.leave(self.slot)
    self.outbox.close(protocol.dump("ended", message=reason))
    if self.transport is not None:  # aborting a closed transport does nothing
      asyncio.get_running_loop().call_later(NOTICE_SECONDS, self.transport.abort)

  # Direct messages

  async def notify(self, message: str, close: bool = False) -> None:
    """Sends a message at once, before what waits; a client that does not read is not waited for."""
    try:
      async with asyncio.timeout(NOTICE_SECONDS):
        await self.socket.send_str(message)
        if close:
          await self.socket.close()
    except (ConnectionError, TimeoutError):
      if close and self.transport is not None:
        self.transport.abort()

  async def _refuse(self, error: Exception) -> None:
    """The client broke the protocol: says how, and closes."""
    await self._send("error", message=str(error))
    await self._close(WSCloseCode.POLICY_VIOLATION, str(error))

  async def _close(self, code: int, reason: str) -> None:
    shortened = reason.encode()[:MAX_CLOSE_REASON].decode(errors="ignore")
    await self.socket.close(code=code, message=shortened.encode())

  async def _send(self, type: str, **values: Any) -> None:
    with contextlib.suppress(ConnectionError):
      await self.socket.send_str(protocol.dump(type, **values))


def unit_message(result: UnitResult) -> str:
  """What precedes the audio and video of a unit."""
  output = result.output
  return protocol.dump(
    "unit", unit=result.unit, text=output.text, speaking=output.speaking, captured=result.captured,
    waited_ms=round(1000 * result.waited, 3), late=result.late,
    **{f"{phase}_ms": round(output.times[phase], 3) for phase in PHASES},
  )  # fmt: skip
