"""One visitor of the live service: a WebSocket that speaks `protocol.py`, from its hello to its end."""

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import logging
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data import world_file
from wanstreamer_jax.data.loudness import is_loud
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import is_one_line
from wanstreamer_jax.engine.request import LARGEST_SEED, Request
from wanstreamer_jax.errors import DataError, UserError
from wanstreamer_jax.serve import protocol
from wanstreamer_jax.serve.drawn_user import DrawnUser
from wanstreamer_jax.serve.echo import EchoMeter
from wanstreamer_jax.serve.inbox import Inbox
from wanstreamer_jax.serve.picture_codec import JPEGEncoder, PictureEncoder, VP8Decoder, VP8Encoder, decode_picture
from wanstreamer_jax.serve.prometheus import Metrics
from wanstreamer_jax.serve.rate_limit import Bucket
from wanstreamer_jax.serve.recording import Recording
from wanstreamer_jax.serve.scheduler import Full, Hall, Seat, Served
from wanstreamer_jax.serve.session_log import PHASES

HELLO_WITHIN = 10.0  # seconds
SLOW = 3  # units that wait for a visitor; from there on pictures are left out
STUCK = 16  # from there on the visitor is sent away
NOTICE = 3.0  # seconds for a last message
BROKEN = (None, 1006)  # how a WebSocket ends that nobody closed: all others were closed on purpose, by either side
LONGEST_REASON = 120  # bytes of a closing frame
PART = 0.02  # seconds of sound in one message
MESSAGES = (250, 2500)  # a second, and at once; more are dropped
TEXTS = (1, 5)
MOST_PIXELS = 4_000_000  # of a visitor's portrait
LONGEST_TYPED = 500
log = logging.getLogger("wanstreamer")


@dataclasses.dataclass(frozen=True)
class Outgoing:
  """What one unit sends: words and sound, and then pictures of (whether the user's side) still to be encoded."""

  messages: list[str | bytes]
  unit: int = 0
  pictures: Sequence[tuple[bool, np.ndarray]] = ()


class House(Protocol):
  """What a visitor meets: the server, as far as visits need to know it."""

  hall: Hall
  world: World
  recordings: dict[str, Recording]
  draining: bool
  metrics: Metrics
  voice: bool
  reading: asyncio.Semaphore

  def source(self, watch: bool, seed: int) -> Inbox | DrawnUser: ...


class Visit:
  """One WebSocket: hello, a seat in the hall, media in both directions."""

  def __init__(self, house: House, socket: web.WebSocketResponse, transport: asyncio.Transport | None):
    self.house, self.socket, self.transport = house, socket, transport
    self.seat: Seat | None = None
    self.source: Inbox | DrawnUser = Inbox(house.hall.media)
    self.recording: Recording | None = None
    self.kind = protocol.JPEG  # of pictures to the visitor
    self.encoders: dict[bool, PictureEncoder] = {}  # of the agent's side, and (True) of the user's who is watched
    self.decoder: VP8Decoder | None = None  # of a visitor who sends VP8
    self.outgoing: asyncio.Queue[Outgoing | None] = asyncio.Queue()
    self.messages, self.texts = Bucket(*MESSAGES), Bucket(*TEXTS)
    self.pictures = Bucket(2 * house.hall.media.fps, 2 * house.hall.media.fps)
    self.speaking = False
    self.echo = EchoMeter(house.hall.media)
    self.peer: Any = None  # a webrtc.Peer: sound and pictures take that way

  async def run(self) -> None:
    """Until the visitor or the server ends it."""
    try:
      hello = protocol.hear(await self._first())
      await self._welcome(hello)
    except Full as full:
      await self._say("full", retry_after=full.retry_after, message=str(full))
      await self._close(WSCloseCode.TRY_AGAIN_LATER, str(full))
      return
    except (UserError, ValueError, OverflowError) as error:
      await self._refuse(error)
      return
    assert self.seat is not None
    sender, over = asyncio.create_task(self._send()), False
    try:
      over = await self._receive()
    finally:
      mine = self.seat.deliver == self._deliver  # nobody continues it elsewhere
      if mine and over:
        self.house.hall.leave(self.seat)
      elif mine:
        self.seat.leave_for_now()
      sender.cancel()
      await asyncio.gather(sender, return_exceptions=True)
      if self.peer is not None:
        await self.peer.close()

  async def _first(self) -> str:
    try:
      message = await self.socket.receive(HELLO_WITHIN)
    except TimeoutError:
      raise DataError(f"no hello within {HELLO_WITHIN:g} s") from None
    if message.type is not WSMsgType.TEXT:
      raise DataError('the first message must be {"type": "hello", "version": 1, ...}')
    return str(message.data)

  async def _welcome(self, hello: dict[str, Any]) -> None:
    if hello["type"] != "hello" or hello.get("version") != protocol.VERSION:
      raise DataError(
        f'the first message must be {{"type": "hello", "version": {protocol.VERSION}}}: this server speaks version '
        f"{protocol.VERSION} only"
      )
    hall, media = self.house.hall, self.house.hall.media
    if self.house.draining and "session" not in hello:
      raise DataError("the server is going down; please come back in a minute")
    if "session" in hello:
      seat = hall.come_back(str(hello["session"]), self._deliver, self._failed)
      assert isinstance(seat.source, Inbox | DrawnUser)
      self.source, self.recording = seat.source, self.house.recordings.get(seat.token)
    else:
      seat = await self._join(hello)
    self.seat = seat
    offered = hello.get("pictures", [])
    self.kind = protocol.VP8 if isinstance(offered, list) and "vp8" in offered else protocol.JPEG
    log.info("joined", extra={"slot": seat.slot, "free": hall.free})
    await self._say(
      "welcome", version=protocol.VERSION, session=seat.token, unit_ms=media.unit_ms, fps=media.fps,
      sample_rate=media.sample_rate, height=media.height, width=media.width, unit=seat.unit, generated=True,
      recording=self.recording is not None,
      pictures="vp8" if self.kind == protocol.VP8 else "jpeg",
    )  # fmt: skip

  async def _join(self, hello: dict[str, Any]) -> Seat:
    house, media = self.house, self.house.hall.media
    house.hall.check_room()
    async with house.reading:  # portraits take memory
      world = await asyncio.to_thread(world_of, hello, house.world, media, house.voice)
    asked = {name: hello[name] for name in ("seed", "temperature", "pad_bias", "steps", "guidance") if name in hello}
    request = Request(world, **{"seed": secrets.randbelow(LARGEST_SEED)} | asked)
    await asyncio.to_thread(house.hall.engine.check, request)
    self.source = house.source(bool(hello.get("watch", False)), request.seed)
    self.recording = Recording(media) if hello.get("record", False) else None
    try:
      seat = house.hall.join(request, self.source, self._deliver, self._failed)
    except UserError:
      if self.recording is not None:
        self.recording.delete()
      raise
    if self.recording is not None:
      house.recordings[seat.token] = self.recording
    return seat

  async def _receive(self) -> bool:
    """Until it ends. Whether the conversation is over, rather than the connection broken."""
    async for message in self.socket:
      if message.type is WSMsgType.ERROR:  # too large, or no frame of a WebSocket; else the line broke
        return isinstance(message.data, WebSocketError)
      if not self.messages.take():
        continue
      try:
        if message.type is WSMsgType.BINARY:
          await self._media(protocol.unpack(message.data))
        elif message.type is WSMsgType.TEXT and not await self._text(protocol.hear(message.data)):
          return True
      except (DataError, ValueError, OverflowError) as error:
        await self._refuse(error)
        return True
    return not self.house.draining and self.socket.close_code not in BROKEN

  async def _media(self, media: protocol.Media) -> None:
    """Sound or a picture; the next message waits until a picture is decoded, and nobody else does."""
    if not isinstance(self.source, Inbox):
      raise DataError("who watches may type, but sends no sound and no picture")
    if media.kind == protocol.SOUND:
      self.source.sound(media.samples, media.time)
    elif self.pictures.take():
      picture = await asyncio.to_thread(self._decode, media)
      if picture is not None:
        self.source.picture(picture, media.time)

  def _decode(self, media: protocol.Media) -> np.ndarray | None:
    """In a thread, one picture after the other."""
    size = self.house.hall.media
    if media.kind == protocol.JPEG:
      return decode_picture(media.payload, size.height, size.width)
    self.decoder = self.decoder or VP8Decoder(size.height, size.width)
    return self.decoder(media.payload)

  async def _text(self, value: dict[str, Any]) -> bool:
    """Whether the conversation goes on."""
    if value["type"] == "text":
      text = value.get("text")
      if not isinstance(text, str) or not 0 < len(text) <= LONGEST_TYPED or not is_one_line(text):
        raise DataError(f"a text of 1 to {LONGEST_TYPED} printable characters was expected")
      if not self.texts.take():
        return True
      self.source.text(text)
    elif value["type"] == "ping":
      await self._say("pong", time=value.get("time"))
    elif value["type"] == "offer":
      await self._say("answer", sdp=await self._connect(value.get("sdp")))
    elif value["type"] == "bye":
      return False
    return True  # what later versions add is ignored

  async def _connect(self, offer: Any) -> str:
    """Sound and pictures over WebRTC from now on."""
    try:
      from wanstreamer_jax.serve import webrtc
    except ImportError:
      raise DataError("this server has no WebRTC: pip install 'wanstreamer-jax[webrtc]', or use this socket") from None
    if not isinstance(offer, str) or not isinstance(self.source, Inbox) or self.peer is not None:
      raise DataError("an offer needs its sdp, comes once, and from who talks")
    peer = webrtc.Peer(self.house.hall.media, self.source, self.messages, self.pictures)
    try:
      sdp = await peer.answer(offer)
    except DataError:
      await peer.close()
      raise
    self.peer = peer
    return sdp

  def _deliver(self, served: Served) -> None:
    """Called by the hall; must not wait."""
    answer, media = served.answer, self.house.hall.media
    self.house.metrics.unit(served)
    if self.recording is not None:
      self.recording.add(served)
    waiting = self.outgoing.qsize()
    if waiting >= STUCK:
      self._failed("the connection is too slow for this conversation")
      return
    messages: list[str | bytes] = []
    start = served.unit * media.unit_ms / 1000
    user = served.user
    interrupted = user.audio is not None and is_loud(user.audio)
    if self.speaking and not answer.speaking and interrupted:
      messages.append(protocol.say("quiet", unit=served.unit))
      if self.peer is not None:
        self.peer.playout.hush()
    self.speaking = answer.speaking
    if isinstance(self.source, Inbox) and (echo := self.echo(answer.audio, served.user.audio)) is not None:
      messages.append(protocol.say("echo", level_db=round(echo, 1)))
    times = {f"{phase}_ms": round(answer.times[phase], 3) for phase in PHASES}
    messages.append(
      protocol.say("unit", unit=served.unit, text=answer.text, speaking=answer.speaking, heard=served.heard,
                   waited_ms=round(1000 * served.waited, 3), late=served.late, **times)
    )  # fmt: skip
    if self.peer is not None:
      self.peer.playout.play(answer.audio, answer.video)
      self.outgoing.put_nowait(Outgoing(messages))
      return
    sides = [(False, answer.audio, answer.video)]
    if isinstance(self.source, DrawnUser) and user.audio is not None and user.video is not None:
      sides.insert(0, (True, user.audio, user.video))  # who is watched comes first
    size = round(PART * media.sample_rate)
    for first in range(0, media.samples, size):
      for users, audio, _ in sides:
        part = audio[first : first + size]
        messages.append(protocol.sound(part, start + first / media.sample_rate, served.unit, users).pack())
    pictures = [(users, video) for users, _, video in sides]
    if waiting >= SLOW:
      self.house.metrics.pictures_dropped(sum(len(video) for _, video in pictures))
      pictures = []
    self.outgoing.put_nowait(Outgoing(messages, served.unit, pictures))

  def _encode(self, unit: int, pictures: Sequence[tuple[bool, np.ndarray]]) -> list[bytes]:
    """Pictures as messages. In a thread, one unit after the other: sound does not wait for them."""
    media, messages = self.house.hall.media, []
    for users, video in pictures:
      encode = self._encoder(users)
      for index, picture in enumerate(video):
        time, (data, key) = unit * media.unit_ms / 1000 + index / media.fps, encode(picture)
        messages.append(protocol.Media(self.kind, data, time, unit, key, users).pack())
    return messages

  def _encoder(self, users: bool) -> PictureEncoder:
    if users not in self.encoders:
      media = self.house.hall.media
      vp8 = self.kind == protocol.VP8
      self.encoders[users] = VP8Encoder(media.height, media.width, media.fps) if vp8 else JPEGEncoder()
    return self.encoders[users]

  def _failed(self, reason: str) -> None:
    """The hall (or a slow line) ends the conversation."""
    if self.seat is not None:
      self.house.hall.leave(self.seat)
    while not self.outgoing.empty():
      self.outgoing.get_nowait()
    self.outgoing.put_nowait(Outgoing([protocol.say("ended", message=reason)]))
    self.outgoing.put_nowait(None)
    if self.transport is not None:  # whoever does not even read that is cut off; aborting what is closed does nothing
      asyncio.get_running_loop().call_later(NOTICE, self.transport.abort)

  async def _send(self) -> None:
    with contextlib.suppress(ConnectionError):  # the visitor is gone; `_receive` notices
      while (out := await self.outgoing.get()) is not None:
        for message in out.messages:
          await (self.socket.send_str(message) if isinstance(message, str) else self.socket.send_bytes(message))
        for picture in await asyncio.to_thread(self._encode, out.unit, out.pictures) if out.pictures else []:
          await self.socket.send_bytes(picture)
    await self.socket.close()

  async def _refuse(self, error: Exception) -> None:
    """The rules were broken: says which, and closes."""
    await self._say("error", message=str(error))
    await self._close(WSCloseCode.POLICY_VIOLATION, str(error))

  async def _close(self, code: int, reason: str) -> None:
    await self.socket.close(code=code, message=reason.encode()[:LONGEST_REASON].decode(errors="ignore").encode())

  async def _say(self, type: str, **values: Any) -> None:
    with contextlib.suppress(ConnectionError):
      await self.socket.send_str(protocol.say(type, **values))


def world_of(hello: dict[str, Any], default: World, media: MediaConfig, voice: bool = True) -> World:
  """What a visitor asks the agent to be; what it does not say is the server's own. Raises UserError."""
  asked = hello.get("world") or {}
  if not isinstance(asked, dict):
    raise DataError('"world" must be an object')
  with tempfile.TemporaryDirectory(prefix="wanstreamer-") as folder:
    fields = asked.get("fields") or {}
    value: dict[str, Any] = {"fields": {**default.fields, **fields} if isinstance(fields, dict) else fields}
    if asked.get("voice") and not voice:
      raise DataError("this agent heeds no voice sample: leave it out")
    for name in ("portrait", "voice"):
      if asked.get(name):
        value[name] = f"sent.{name}"
        (Path(folder) / value[name]).write_bytes(from_base64(asked[name], name))
    try:
      world = world_file.world_of(Path(folder) / "hello", value, media, MOST_PIXELS)
    except UserError as error:
      raise DataError(str(error).replace(f"{folder}/", "")) from error
  given = {name: getattr(world, name) for name in value}
  return dataclasses.replace(default, **given)


def from_base64(text: Any, what: str) -> bytes:
  try:
    return base64.b64decode(text, validate=True)
  except (binascii.Error, TypeError, ValueError) as error:
    raise DataError(f'"{what}" must be base64') from error
