"""A client of the wire protocol, used by `wanstreamer client` and `bench serve`."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import aiohttp
import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.engine.interface import PHASES
from wanstreamer_jax.errors import DataError, UserError
from wanstreamer_jax.serve import protocol

ANSWER_SECONDS = 5.0  # without a message, after which the server counts as gone
MEDIA_FIELDS = ("unit_ms", "fps", "sample_rate", "height", "width")  # of the welcome


@dataclasses.dataclass
class ReceivedUnit:
  """One unit of the agent. Times `captured` and `arrived` are of `time.perf_counter()`."""

  text: str
  speaking: bool
  late: bool
  times: dict[str, float]  # milliseconds by phase
  captured: float | None  # when the last sample of the user's unit was captured; None if it had no audio
  arrived: float | None = None  # when the last sample of the answer arrived
  audio: list[np.ndarray] = dataclasses.field(default_factory=list)  # float32 parts; together a unit's samples
  frames: list[bytes] = dataclasses.field(default_factory=list)  # JPEG; a slow connection gets fewer than a unit has

  @property
  def latency(self) -> float | None:
    """Seconds from the capture of the user's last sample to the arrival of the answer's last sample."""
    return None if self.captured is None or self.arrived is None else self.arrived - self.captured


class Refused(UserError):
  """The server did not begin a session."""


@contextlib.asynccontextmanager
async def connect(server: str, **hello: Any) -> "AsyncIterator[Client]":
  """Begins a session on the server at an http(s) address, which may contain ?token=...

  hello: fields of the hello message, as `docs/protocol.md` lists them. Raises Refused or UserError; their messages
  never contain the token.
  """
  errors = ServerErrors(server)
  errors.check_address()
  path, mark, query = server.rstrip("/").replace("http", "ws", 1).partition("?")
  live = f"{path.rstrip('/')}/live{mark}{query}"
  async with contextlib.AsyncExitStack() as stack:
    with errors.explained():
      try:
        web = await stack.enter_async_context(aiohttp.ClientSession())
        socket = await stack.enter_async_context(web.ws_connect(live, max_msg_size=protocol.MAX_MESSAGE))
      except aiohttp.WSServerHandshakeError as error:
        reason = await _refusal(live) or error.message
        raise Refused(f"{errors.name} refused the connection: {reason}") from error
      await socket.send_str(protocol.dump("hello", version=protocol.VERSION, **hello))
      welcome = protocol.parse(await socket.receive_str(timeout=ANSWER_SECONDS))
      if welcome["type"] != "welcome":
        raise Refused(f"{errors.name}: {welcome.get('message', welcome['type'])}")
      if welcome.get("version") != protocol.VERSION:
        raise Refused(
          f"{errors.name} speaks protocol version {welcome.get('version')!r}, this client {protocol.VERSION}: "
          "install the same version on both sides"
        )
      media = MediaConfig(**{name: welcome[name] for name in MEDIA_FIELDS})
    yield Client(socket, media, errors)


async def _refusal(live: str) -> str:
  """What the server says to a request that it refuses, on one line; "" if nothing."""
  with contextlib.suppress(aiohttp.ClientError, TimeoutError):
    async with aiohttp.ClientSession() as web, web.get(live.replace("ws", "http", 1)) as response:
      return " ".join((await response.text())[:300].split()) if response.status >= 400 else ""
  return ""


@dataclasses.dataclass
class ServerErrors:
  """Explains what goes wrong with a server, whose address may contain a token."""

  address: str

  @property
  def name(self) -> str:
    """The address without the token."""
    return self.address.partition("?")[0]

  def check_address(self) -> None:
    """Raises UserError unless the address is one of HTTP."""
    if not self.address.startswith(("http://", "https://")):
      raise UserError(f"--server {self.name}: expected an address that begins with http:// or https://")

  @contextlib.contextmanager
  def explained(self) -> Iterator[None]:
    """Turns errors of the connection and of the server's messages into UserErrors."""
    try:
      yield
    except TimeoutError as error:
      raise UserError(f"{self.name} did not answer for {ANSWER_SECONDS:g} s") from error
    except (aiohttp.ClientError, ConnectionError) as error:
      query = self.address.partition("?")[2]
      said = str(error).replace(query, "...") if query else str(error)  # it may contain the whole address
      raise UserError(f"{self.name} cannot be reached: {said or type(error).__name__}") from error
    except (KeyError, TypeError, AttributeError, ValueError, DataError) as error:
      message = f"{self.name} does not speak this protocol ({type(error).__name__}: {error})"
      raise UserError(message) from error


class Client:
  """One session. Use it in one event loop: one task sends (`send_unit`), another receives (`units`)."""

  def __init__(self, socket: aiohttp.ClientWebSocketResponse, media: MediaConfig, errors: ServerErrors):
    self.media = media
    self._socket, self._errors = socket, errors
    self._sent, self._begin = 0, 0.0  # units; time.perf_counter() when the first one began

  async def send_unit(self, audio: np.ndarray | None, frames: Sequence[bytes] = ()) -> None:
    """Sends the next unit at the pace of a live user: each part once its last sample would have been captured.

    audio: float32 [samples] or None; frames: a unit's JPEG frames, or none. Raises UserError.
    """
    media = self.media
    if not self._sent:
      self._begin = time.perf_counter()
    start = self._begin + self._sent * media.unit_ms / 1000
    self._sent += 1
    size = round(protocol.PART_SECONDS * media.sample_rate)
    next_frame = 0
    for first in range(0, media.samples, size):
      await asyncio.sleep(max(0.0, start + (first + size) / media.sample_rate - time.perf_counter()))
      if audio is not None:
        captured = start + first / media.sample_rate
        await self._send(protocol.audio_message(audio[first : first + size], captured))
      while next_frame < len(frames) and next_frame * media.sample_rate < (first + size) * media.fps:
        captured = start + next_frame / media.fps
        await self._send(protocol.MediaMessage(protocol.JPEG, frames[next_frame], captured, key_frame=True))
        next_frame += 1

  async def _send(self, message: protocol.MediaMessage) -> None:
    with self._errors.explained():
      await self._socket.send_bytes(message.pack())

  async def units(self) -> AsyncIterator[ReceivedUnit]:
    """The agent's units, each when it is complete, or when the next one begins because frames were left out.

    Raises UserError when the server ends the session, falls silent, or breaks the protocol.
    """
    unit = None
    while True:
      with self._errors.explained():
        message = await self._receive()
        begun = None
        if isinstance(message, protocol.MediaMessage):
          if unit is not None:
            self._add(unit, message)
        elif message["type"] == "unit":
          begun = _parse_unit(message)
        elif message["type"] in ("ended", "error"):
          raise UserError(f"the server ended the conversation: {message.get('message')}")
      if unit is not None and (begun is not None or self._complete(unit)):
        yield unit
        unit = None
      unit = begun or unit

  async def _receive(self) -> protocol.MediaMessage | dict[str, Any]:
    message = await self._socket.receive(ANSWER_SECONDS)
    if message.type is aiohttp.WSMsgType.BINARY:
      return protocol.unpack(message.data)
    if message.type is aiohttp.WSMsgType.TEXT:
      return protocol.parse(message.data)
    raise UserError("the connection was lost")

  def _add(self, unit: ReceivedUnit, message: protocol.MediaMessage) -> None:
    if message.kind == protocol.AUDIO:
      unit.audio.append(message.samples)
      if sum(map(len, unit.audio)) == self.media.samples:
        unit.arrived = time.perf_counter()
    else:
      unit.frames.append(message.payload)

  def _complete(self, unit: ReceivedUnit) -> bool:
    return unit.arrived is not None and len(unit.frames) == self.media.frames


def _parse_unit(message: dict[str, Any]) -> ReceivedUnit:
  times = {phase: message[f"{phase}_ms"] for phase in PHASES}
  return ReceivedUnit(message["text"], message["speaking"], bool(message["late"]), times, message["captured"])
