"""The live service: an HTTP server with a page, a WebSocket for conversations, health and metrics.

One event loop, one engine thread (`hall.py`). A conversation is one WebSocket that speaks `protocol.py`.
"""

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import hmac
import json
import logging
import secrets
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data import world_file
from wanstreamer_jax.data.duplex_world.world import WorldConfig
from wanstreamer_jax.data.session import World
from wanstreamer_jax.errors import CheckpointError, DataError, UserError
from wanstreamer_jax.serve import protocol, restart
from wanstreamer_jax.serve.drawn_user import DrawnUser
from wanstreamer_jax.serve.hall import Full, Hall, Seat, Served, SlotEngine
from wanstreamer_jax.serve.inbox import Inbox
from wanstreamer_jax.serve.picture import decode_picture, encode_picture
from wanstreamer_jax.serve.recording import KEPT, Recording
from wanstreamer_jax.serve.report import PHASES
from wanstreamer_jax.serve.request import LARGEST_SEED, Request

PAGE = Path(__file__).parent / "page"
HELLO_WITHIN = 10.0  # seconds
SLOW = 256 * 1024  # bytes that wait for a visitor; above it pictures are dropped
STUCK = 2 * 1024 * 1024  # above it the visitor is sent away
GOODBYE = (1000, 1001)  # how a WebSocket is closed on purpose: by the page, or with its tab
PART = 0.02  # seconds of sound in one message
MOST_MESSAGES = 250  # a second
LONGEST_TYPED = 500
BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.64)
log = logging.getLogger("wanstreamer")


@dataclasses.dataclass(frozen=True)
class ServeOptions:
  """How to serve.

  token: what visitors must know ("": nothing). origins: pages of others that may connect. world: who the agent is.
  voice: whether it heeds a voice sample. drawn: the duplex_world whose users talk for those who only watch (None: there
  are none). longest: seconds of a session. state: the folder where sessions outlast a planned restart.
  """

  host: str = "127.0.0.1"
  port: int = 8765
  token: str = ""
  origins: tuple[str, ...] = ()
  world: World = dataclasses.field(default_factory=World)
  voice: bool = False
  drawn: WorldConfig | None = None
  longest: float = 3600.0
  state: Path | None = None
  certificate: str = ""
  key: str = ""

  def check(self) -> None:
    """Raises UserError for what must not be served."""
    if not self.token and self.host not in ("127.0.0.1", "localhost", "::1"):
      raise UserError(f"--host {self.host} is open to others: give --token, which visitors must know")
    if bool(self.certificate) != bool(self.key):
      raise UserError("--certificate and --key come together: give both files or none")


class Visit:
  """One WebSocket: hello, a seat in the hall, media in both directions."""

  def __init__(self, server: "Server", socket: web.WebSocketResponse, transport: asyncio.Transport | None):
    self.server, self.socket, self.transport = server, socket, transport
    self.seat: Seat | None = None
    self.source: Inbox | DrawnUser = Inbox(server.hall.media)
    self.recording: Recording | None = None
    self.outgoing: asyncio.Queue[list[str | bytes] | None] = asyncio.Queue(16)
    self.speaking = False
    self.dropped_pictures = 0

  async def run(self) -> None:
    """Until the visitor or the server ends it."""
    try:
      hello = protocol.hear(await self._first())
      await self._welcome(hello)
    except Full as full:
      await self._say("full", retry_after=full.retry_after, message=str(full))
      return
    except UserError as error:
      await self._say("error", message=str(error))
      return
    assert self.seat is not None
    sender, over = asyncio.create_task(self._send()), False
    try:
      over = await self._receive()
    finally:
      mine = self.seat.deliver == self._deliver  # nobody continues it elsewhere
      if mine and over:
        self.server.hall.leave(self.seat)
      elif mine:
        self.seat.leave_for_now()
      sender.cancel()
      await asyncio.gather(sender, return_exceptions=True)

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
    hall, media = self.server.hall, self.server.hall.media
    if "session" in hello:
      self.seat = hall.come_back(str(hello["session"]), self._deliver, self._failed)
      assert isinstance(self.seat.source, Inbox | DrawnUser)
      self.source = self.seat.source
      self.recording = self.server.recordings.get(self.seat.token)
    else:
      await self._join(hello)
    log.info("joined", extra={"slot": self.seat.slot, "free": hall.free})
    await self._say(
      "welcome", version=protocol.VERSION, session=self.seat.token, unit_ms=media.unit_ms, fps=media.fps,
      sample_rate=media.sample_rate, height=media.height, width=media.width, unit=self.seat.unit, generated=True,
    )  # fmt: skip

  async def _join(self, hello: dict[str, Any]) -> None:
    server, media = self.server, self.server.hall.media
    request = Request(
      await asyncio.to_thread(world_of, hello, server.options.world, media),
      hello.get("seed", secrets.randbelow(LARGEST_SEED)), hello.get("temperature", 0.0), hello.get("pad_bias", 0.0),
    )  # fmt: skip
    self.source = server.source(bool(hello.get("watch", False)), request.seed)
    self.seat = server.hall.join(request, self.source, self._deliver, self._failed)
    if hello.get("record", False):
      self.recording = server.recordings[self.seat.token] = Recording(media)

  async def _receive(self) -> bool:
    """Until it ends. Whether the conversation is over, rather than the connection broken."""
    window, count = time.monotonic(), 0
    async for message in self.socket:
      count += 1
      if time.monotonic() - window > 1.0:
        window, count = time.monotonic(), 0
      if count > MOST_MESSAGES:
        await self._say("error", message=f"more than {MOST_MESSAGES} messages a second")
        return True
      try:
        if message.type is WSMsgType.BINARY:
          self._media(protocol.unpack(message.data))
        elif message.type is WSMsgType.TEXT and not await self._text(protocol.hear(message.data)):
          return True
      except DataError as error:
        await self._say("error", message=str(error))
        return True
    return not self.server.draining and self.socket.close_code in GOODBYE

  def _media(self, media: protocol.Media) -> None:
    if not isinstance(self.source, Inbox):
      raise DataError("who watches may type, but sends no sound and no picture")
    if media.kind == protocol.SOUND:
      self.source.sound(media.samples, media.time)
    elif media.kind == protocol.JPEG:
      size = self.server.hall.media
      self.source.picture(decode_picture(media.payload, size.height, size.width), media.time)
    else:
      raise DataError("this server takes JPEG pictures (kind 2); VP8 is not offered in its welcome")

  async def _text(self, value: dict[str, Any]) -> bool:
    """Whether the conversation goes on."""
    if value["type"] == "text":
      text = value.get("text")
      if not isinstance(text, str) or not 0 < len(text) <= LONGEST_TYPED or not text.isprintable():
        raise DataError(f"a text of 1 to {LONGEST_TYPED} printable characters was expected")
      self.source.text(text)
    elif value["type"] == "ping":
      await self._say("pong", time=value.get("time"))
    elif value["type"] == "bye":
      return False
    return True  # what later versions add is ignored

  def _deliver(self, served: Served) -> None:
    """Called by the hall; must not wait."""
    answer, media = served.answer, self.server.hall.media
    waiting = self.transport.get_write_buffer_size() if self.transport is not None else 0
    self.server.observe(served)
    if self.recording is not None:
      self.recording.add(served)
    if waiting > STUCK or self.outgoing.full():
      self._failed("the connection is too slow for this conversation")
      return
    messages: list[str | bytes] = []
    start = served.unit * media.unit_ms / 1000
    if self.speaking and not answer.speaking:
      messages.append(protocol.say("quiet", unit=served.unit))
    self.speaking = answer.speaking
    times = {f"{phase}_ms": round(answer.times[phase], 3) for phase in PHASES}
    messages.append(
      protocol.say("unit", unit=served.unit, text=answer.text, speaking=answer.speaking, heard=served.heard,
                   waited_ms=round(1000 * served.waited, 3), late=served.late, **times)
    )  # fmt: skip
    sides = [(False, answer.audio, answer.video)]
    if isinstance(self.source, DrawnUser):
      sides.insert(0, (True, served.user.audio, served.user.video))  # who is watched comes first
    size = round(PART * media.sample_rate)
    for first in range(0, media.samples, size):
      for users, audio, _ in sides:
        part = audio[first : first + size]
        messages.append(protocol.sound(part, start + first / media.sample_rate, served.unit, users).pack())
    for users, _, video in sides:
      if waiting > SLOW:
        self.dropped_pictures += len(video)
        continue
      for index, picture in enumerate(video):
        time, jpeg = start + index / media.fps, encode_picture(picture)
        messages.append(protocol.Media(protocol.JPEG, jpeg, time, served.unit, True, users).pack())
    self.outgoing.put_nowait(messages)

  def _failed(self, reason: str) -> None:
    """The hall (or a slow line) ends the conversation."""
    if self.seat is not None:
      self.server.hall.leave(self.seat)
    while self.outgoing.full():
      self.outgoing.get_nowait()
    self.outgoing.put_nowait([protocol.say("ended", message=reason)])
    self.outgoing.put_nowait(None)

  async def _send(self) -> None:
    with contextlib.suppress(ConnectionError):  # the visitor is gone; `_receive` notices
      while (messages := await self.outgoing.get()) is not None:
        for message in messages:
          await (self.socket.send_str(message) if isinstance(message, str) else self.socket.send_bytes(message))
    await self.socket.close()

  async def _say(self, type: str, **values: Any) -> None:
    with contextlib.suppress(ConnectionError):
      await self.socket.send_str(protocol.say(type, **values))


class Server:
  """The HTTP application around a hall."""

  def __init__(self, engine: SlotEngine, options: ServeOptions):
    options.check()
    self.options, self.hall = options, Hall(engine, options.longest)
    self.sockets: set[web.WebSocketResponse] = set()
    self.latency = [0] * (len(BUCKETS) + 1)
    self.latency_sum = 0.0
    self.recordings: dict[str, Recording] = {}  # by session
    self.draining = False

  def app(self) -> web.Application:
    app = web.Application(client_max_size=protocol.LARGEST_MESSAGE)
    app.cleanup_ctx.append(self._hall)
    app.on_shutdown.append(self._drain)
    app.router.add_get("/", self._page)
    app.router.add_get("/about", self._about)
    app.router.add_get("/live", self._live)
    app.router.add_get("/recordings/{session}", self._recording)
    app.router.add_get("/healthz", self._health)
    app.router.add_get("/metrics", self._metrics)
    app.router.add_static("/page", PAGE)
    return app

  def source(self, watch: bool, seed: int) -> Inbox | DrawnUser:
    """Where a visitor's units come from. Raises DataError when there is nobody to watch."""
    if not watch:
      return Inbox(self.hall.media)
    if self.options.drawn is None:
      raise DataError("nobody can be watched here: this agent was not trained in the drawn world")
    return DrawnUser(self.options.drawn, seed)

  async def _hall(self, app: web.Application) -> Any:
    if self.options.state is not None:
      try:
        log.info("restored", extra={"sessions": restart.restore(self.hall, self.options.state, self.source)})
      except CheckpointError as error:
        log.warning(str(error))
    sweeping = asyncio.create_task(self._sweep())
    async with self.hall:
      yield
    sweeping.cancel()
    for recording in self.recordings.values():
      recording.delete()
    if self.options.state is not None:
      log.info("kept", extra={"sessions": restart.save(self.hall, self.options.state)})

  async def _sweep(self) -> None:
    """Deletes recordings some time after their conversations."""
    ended: dict[str, float] = {}
    while True:
      for session in list(self.recordings):
        if self.hall.seat(session) is None and time.monotonic() - ended.setdefault(session, time.monotonic()) > KEPT:
          self.recordings.pop(session).delete()
          del ended[session]
      await asyncio.sleep(KEPT / 20)

  async def _drain(self, app: web.Application) -> None:
    self.draining = True
    if self.options.state is not None:
      last = protocol.say("restarting", message="the server restarts; one moment, please")
    else:
      last = protocol.say("ended", message="the server is going down; please come back in a minute")

    async def end(socket: web.WebSocketResponse) -> None:
      with contextlib.suppress(ConnectionError):
        await socket.send_str(last)
        await socket.close()

    await asyncio.gather(*map(end, list(self.sockets)))

  async def _page(self, request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

  async def _about(self, request: web.Request) -> web.Response:
    """What the page asks before a conversation."""
    options = self.options
    known = {"fields": options.world.fields, "voice": options.voice, "watch": options.drawn is not None}
    return web.json_response({"version": protocol.VERSION, **known})

  async def _live(self, request: web.Request) -> web.StreamResponse:
    self._admit(request)
    socket = web.WebSocketResponse(max_msg_size=protocol.LARGEST_MESSAGE, compress=False, heartbeat=20.0, timeout=2.0)
    await socket.prepare(request)
    self.sockets.add(socket)
    try:
      await Visit(self, socket, request.transport).run()
    finally:
      self.sockets.discard(socket)
      await socket.close()
    return socket

  async def _recording(self, request: web.Request) -> web.StreamResponse:
    """The ZIP file of a conversation that is over."""
    session = request.match_info["session"]
    recording = self.recordings.get(session)
    if recording is None:
      raise web.HTTPNotFound(text="there is no such recording: it was not asked for, or has been deleted")
    if self.hall.seat(session) is not None:
      raise web.HTTPConflict(text="the conversation goes on: end it first")
    try:
      path = await asyncio.shield(recording.close())
    except UserError as error:
      raise web.HTTPNotFound(text=str(error)) from error
    return web.FileResponse(path, headers={"Content-Disposition": 'attachment; filename="conversation.zip"'})

  def _admit(self, request: web.Request) -> None:
    """Raises 403 for a page of somebody else or without the token, 503 while going down."""
    origin = request.headers.get("Origin")
    own = (f"http://{request.host}", f"https://{request.host}")
    if origin is not None and origin not in (*own, *self.options.origins):
      raise web.HTTPForbidden(text=f"pages of {origin} may not connect: start the server with --origin {origin}")
    given = request.query.get("token", "")
    if self.options.token and not hmac.compare_digest(given.encode(), self.options.token.encode()):
      raise web.HTTPForbidden(text="a token is needed: open the address with ?token=... at its end")
    if self.draining:
      raise web.HTTPServiceUnavailable(text="going down")

  async def _health(self, request: web.Request) -> web.Response:
    state = {"status": "draining" if self.draining else "ok", "slots": self.hall.engine.slots, "free": self.hall.free}
    return web.json_response(state, status=503 if self.draining else 200)

  def observe(self, served: Served) -> None:
    """Counts one unit's latency."""
    index = next((i for i, bound in enumerate(BUCKETS) if served.waited <= bound), len(BUCKETS))
    self.latency[index] += 1
    self.latency_sum += served.waited

  async def _metrics(self, request: web.Request) -> web.Response:
    """Prometheus' text format."""
    hall, figures = self.hall, self.hall.figures
    lines = ["# TYPE wanstreamer_latency_seconds histogram"]
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.latency):
      total += count
      lines.append(f'wanstreamer_latency_seconds_bucket{{le="{bound}"}} {total}')
    lines += [f"wanstreamer_latency_seconds_sum {self.latency_sum:.6f}", f"wanstreamer_latency_seconds_count {total}"]
    for phase in PHASES:
      values = [step[phase] for step in hall.steps]
      for quantile in (0.5, 0.95, 0.99):
        value = np.percentile(values, 100 * quantile) / 1000 if values else 0.0
        lines.append(f'wanstreamer_phase_seconds{{phase="{phase}",quantile="{quantile}"}} {value:.6f}')
    for name, value in dataclasses.asdict(figures).items():
      lines += [f"# TYPE wanstreamer_{name}_total counter", f"wanstreamer_{name}_total {value}"]
    for name, value in {"slots": hall.engine.slots, "free_slots": hall.free}.items():
      lines += [f"# TYPE wanstreamer_{name} gauge", f"wanstreamer_{name} {value}"]
    return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")


def serve(engine: SlotEngine, options: ServeOptions) -> None:
  """Serves until Ctrl-C or SIGTERM."""
  server, context = Server(engine, options), None
  if options.certificate:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
      context.load_cert_chain(options.certificate, options.key)
    except OSError as error:
      raise UserError(f"--certificate {options.certificate}: {error.strerror or error}") from error
  scheme = "https" if context else "http"
  ending = f"/?token={options.token}" if options.token else "/"
  print(f"open {scheme}://{options.host}:{options.port}{ending}", flush=True)
  web.run_app(server.app(), host=options.host, port=options.port, ssl_context=context, print=None, access_log=None)


def world_of(hello: dict[str, Any], default: World, media: MediaConfig) -> World:
  """What a visitor asks the agent to be; what it does not say is the server's own. Raises UserError."""
  asked = hello.get("world") or {}
  if not isinstance(asked, dict):
    raise DataError('"world" must be an object')
  with tempfile.TemporaryDirectory(prefix="wanstreamer-") as folder:
    value = {"fields": asked.get("fields") or default.fields}
    for name in ("portrait", "voice"):
      if asked.get(name):
        value[name] = f"sent.{name}"
        (Path(folder) / value[name]).write_bytes(from_base64(asked[name], name))
    try:
      world = world_file.world_of(Path(folder) / "hello", value, media)
    except UserError as error:
      raise DataError(str(error).replace(f"{folder}/", "")) from error
  given = {name: getattr(world, name) for name in value}
  return dataclasses.replace(default, **given)


def from_base64(text: Any, what: str) -> bytes:
  try:
    return base64.b64decode(text, validate=True)
  except (binascii.Error, TypeError, ValueError) as error:
    raise DataError(f'"{what}" must be base64') from error


def structured_logs() -> None:
  """One JSON object a line on stderr, without anything that visitors said, showed or wrote."""

  class Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
      value = {"time": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
      value |= {name: getattr(record, name) for name in ("slot", "free", "sessions") if hasattr(record, name)}
      return json.dumps(value)

  handler = logging.StreamHandler()
  handler.setFormatter(Lines())
  log.addHandler(handler)
  log.setLevel(logging.INFO)
