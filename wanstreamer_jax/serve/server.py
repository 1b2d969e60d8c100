"""The live service: an HTTP server with a page, a WebSocket for conversations, health and metrics.

One event loop, one engine thread (`hall.py`). A conversation is one WebSocket that speaks `protocol.py`.
"""

import asyncio
import base64
import dataclasses
import hmac
import json
import logging
import os
import signal
import socket
import ssl
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from wanstreamer_jax.data.duplex_world.world import WorldConfig
from wanstreamer_jax.data.session import World
from wanstreamer_jax.errors import DataError, UserError
from wanstreamer_jax.serve import protocol, restart
from wanstreamer_jax.serve.drawn_user import DrawnUser
from wanstreamer_jax.serve.hall import Hall, SlotEngine
from wanstreamer_jax.serve.inbox import Inbox
from wanstreamer_jax.serve.metrics import Metrics
from wanstreamer_jax.serve.picture import encode_picture
from wanstreamer_jax.serve.recording import KEPT, Recording
from wanstreamer_jax.serve.visit import NOTICE, Visit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE = Path(__file__).parent / "page"
log = logging.getLogger("wanstreamer")


@dataclasses.dataclass(frozen=True)
class ServeOptions:
  """How to serve.

  token: what visitors must know ("": nothing). origins: pages of others that may connect. world: who the agent is.
  voice: whether it heeds a voice sample. drawn: the duplex_world whose users talk for those who only watch (None: there
  are none). longest: seconds of a session. state: the folder where sessions outlast a planned restart. drain: seconds
  that those who talk have left once the server was told to end.
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
  drain: float = 0.0
  certificate: str = ""
  key: str = ""

  def check(self) -> None:
    """Raises UserError for what must not be served."""
    if not self.token and self.host not in LOOPBACK:
      raise UserError(f"--host {self.host} is open to others: give --token, which visitors must know")
    if bool(self.certificate) != bool(self.key):
      raise UserError("--certificate and --key come together: give both files or none")


class Server:
  """The HTTP application around a hall."""

  def __init__(self, engine: SlotEngine, options: ServeOptions):
    options.check()
    self.options, self.hall, self.world = options, Hall(engine, options.longest), options.world
    self.visits: set[Visit] = set()
    self.metrics = Metrics(self.hall, lambda: sum(visit.outgoing.qsize() for visit in self.visits))
    self.recordings: dict[str, Recording] = {}  # by session
    self.draining = False
    self.voice, self.reading = options.voice, asyncio.Semaphore(2)

  def app(self) -> web.Application:
    app = web.Application(client_max_size=protocol.LARGEST_MESSAGE)
    app.cleanup_ctx.append(self._hall)
    app.on_shutdown.append(self._end)
    app.router.add_get("/", self._page)
    app.router.add_get("/about", self._about)
    app.router.add_get("/live", self._live)
    app.router.add_get("/recordings/{session}", self._recording)
    app.router.add_get("/healthz", self._health)
    app.router.add_get("/metrics", self._metrics)
    app.router.add_static("/page", PAGE)
    app.on_response_prepare.append(_always_asked_for)
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
      except UserError as error:
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

  async def drain(self) -> None:
    """Nobody new; those who are here may end what they say. With `state` their sessions go on after the restart."""
    self.draining = True
    if self.options.state is None and self.options.drain:
      notice = protocol.say("draining", seconds=self.options.drain)
      await self._tell(notice)
      deadline = time.monotonic() + self.options.drain
      while self.hall.free < self.hall.engine.slots and time.monotonic() < deadline:
        await asyncio.sleep(0.1)

  async def _end(self, app: web.Application) -> None:
    """Tells everybody, and closes."""
    self.draining = True
    if self.options.state is not None:
      last = protocol.say("restarting", message="the server restarts; one moment, please")
    else:
      last = protocol.say("ended", message="the server is going down; please come back in a minute")
    await self._tell(last, close=True)

  async def _tell(self, message: str, close: bool = False) -> None:
    """Says something to all; who does not read is not waited for."""

    async def one(visit: Visit) -> None:
      try:
        async with asyncio.timeout(NOTICE):
          await visit.socket.send_str(message)
          if close:
            await visit.socket.close()
      except (ConnectionError, TimeoutError):
        if close and visit.transport is not None:
          visit.transport.abort()

    await asyncio.gather(*map(one, list(self.visits)))

  async def _page(self, request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE / "index.html")

  async def _about(self, request: web.Request) -> web.Response:
    """What the page asks before a conversation."""
    self._admit(request)
    options = self.options
    picture = options.world.portrait
    known = {
      "fields": options.world.fields,
      "portrait": None if picture is None else base64.b64encode(encode_picture(picture)).decode(),
      "voice": options.voice,
      "watch": options.drawn is not None,
    }
    return web.json_response({"version": protocol.VERSION, **known})

  async def _live(self, request: web.Request) -> web.StreamResponse:
    self._admit(request)
    socket = web.WebSocketResponse(max_msg_size=protocol.LARGEST_MESSAGE, compress=False, heartbeat=20.0, timeout=2.0)
    await socket.prepare(request)
    visit = Visit(self, socket, request.transport)
    self.visits.add(visit)
    try:
      await visit.run()
    finally:
      self.visits.discard(visit)
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
    if not self.options.token and request.url.host not in LOOPBACK:  # a foreign name that leads here
      raise web.HTTPForbidden(text=f"{request.url.host} is not this machine's own name: open http://127.0.0.1")
    origin = request.headers.get("Origin")
    own = (f"http://{request.host}", f"https://{request.host}")
    if origin is not None and origin not in (*own, *self.options.origins):
      raise web.HTTPForbidden(text=f"pages of {origin} may not connect: start the server with --origin {origin}")
    given = request.query.get("token", "")
    if self.options.token and not hmac.compare_digest(given.encode(), self.options.token.encode()):
      raise web.HTTPForbidden(text="a token is needed: open the address with ?token=... at its end")

  async def _health(self, request: web.Request) -> web.Response:
    status = "broken" if self.hall.broken else "draining" if self.draining else "ok"
    state = {"status": status, "slots": self.hall.engine.slots, "free": self.hall.free}
    return web.json_response(state, status=200 if status == "ok" else 503)

  async def _metrics(self, request: web.Request) -> web.Response:
    return web.Response(body=self.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _always_asked_for(request: web.Request, response: web.StreamResponse) -> None:
  """A page of yesterday must not talk to the server of today."""
  response.headers.setdefault("Cache-Control", "no-cache")


def listen(options: ServeOptions) -> tuple[socket.socket, ssl.SSLContext | None]:
  """The socket to serve on, and what makes it safe. Raises UserError before anything expensive was done."""
  options.check()
  context = None
  if options.certificate:
    files = f"--certificate {options.certificate} --key {options.key}"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
      context.load_cert_chain(options.certificate, options.key)
    except ssl.SSLError as error:
      raise UserError(f"{files}: not a PEM certificate with its key") from error
    except OSError as error:
      raise UserError(f"{files}: {error.strerror or error}") from error
  try:
    listening = socket.create_server(
      (options.host, options.port), family=socket.AF_INET6 if ":" in options.host else socket.AF_INET
    )
  except OSError as error:
    raise UserError(f"--host {options.host} --port {options.port}: {error.strerror or error}; give another") from error
  return listening, context


def serve(engine: SlotEngine, options: ServeOptions, listening: socket.socket, context: ssl.SSLContext | None) -> None:
  """Serves on what `listen` gave until Ctrl-C or SIGTERM."""
  server = Server(engine, options)
  host = f"[{options.host}]" if ":" in options.host else options.host
  ending = "/?token=..." if options.token else "/"
  if options.token and sys.stdout.isatty():  # what is no terminal is a log
    ending = f"/?token={urllib.parse.quote(options.token, safe='')}"
  print(f"open {'https' if context else 'http'}://{host}:{listening.getsockname()[1]}{ending}", flush=True)
  app = server.app()

  async def on_terminate(app: web.Application) -> None:
    """SIGTERM waits for conversations while the server still answers; then aiohttp goes down as for Ctrl-C."""
    loop = asyncio.get_running_loop()

    def go() -> None:
      raise web.GracefulExit

    def terminate() -> None:
      task = asyncio.ensure_future(server.drain())
      task.add_done_callback(lambda _: loop.call_soon(go))

    loop.call_soon(lambda: loop.add_signal_handler(signal.SIGTERM, terminate))

  app.on_startup.append(on_terminate)
  web.run_app(app, sock=listening, ssl_context=context, print=None, access_log=None)


def structured_logs() -> None:
  """One JSON object a line on stderr, without anything that visitors said, showed or wrote."""

  class Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
      value = {"time": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
      value |= {name: getattr(record, name) for name in ("slot", "free", "sessions") if hasattr(record, name)}
      if record.exc_info:
        value["error"] = self.formatException(record.exc_info)
      return json.dumps(value)

  handler = logging.StreamHandler()
  handler.setFormatter(Lines())
  log.addHandler(handler)
  log.setLevel(logging.INFO)
  if "XLA_FLAGS" in os.environ:  # the package may have added to them before there was a handler
    log.info(f"XLA_FLAGS={os.environ['XLA_FLAGS']}")
