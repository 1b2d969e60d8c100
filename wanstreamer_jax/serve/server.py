"""The live service: one HTTP server for page, WebSocket, recordings, health and metrics.

One event loop serves everything; the engine has threads of its own (`scheduler.py`). A conversation is one WebSocket
that speaks `protocol.py` (`connection.py`).
"""

import asyncio
import base64
import dataclasses
import functools
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
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from wanstreamer_jax.data.duplex_world.world import WorldConfig
from wanstreamer_jax.data.session import World
from wanstreamer_jax.engine.interface import SlotEngine
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.serve import protocol, restart
from wanstreamer_jax.serve.connection import Connection, Service
from wanstreamer_jax.serve.frame_codec import encode_jpeg
from wanstreamer_jax.serve.prometheus import Metrics
from wanstreamer_jax.serve.recording import KEEP_SECONDS
from wanstreamer_jax.serve.scheduler import Scheduler

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE = Path(__file__).parent / "page"
log = logging.getLogger("wanstreamer")


@dataclasses.dataclass(frozen=True)
class ServeOptions:
  """How to serve.

  token: what clients must present ("": nothing). origins: pages of other sites that may connect. world: who the agent
  is. voice: whether it uses a voice sample. simulated: the duplex_world whose users viewers watch (None: no watching).
  max_seconds: of a session. state: the folder in which sessions survive a planned restart. drain: seconds that running
  sessions have left once the server was told to end.
  """

  host: str = "127.0.0.1"
  port: int = 8765
  token: str = ""
  origins: tuple[str, ...] = ()
  world: World = dataclasses.field(default_factory=World)
  voice: bool = False
  simulated: WorldConfig | None = None
  max_seconds: float = 3600.0
  state: Path | None = None
  drain: float = 0.0
  certificate: str = ""
  key: str = ""

  def check(self) -> None:
    """Raises UserError for options that are not safe or not complete."""
    if not self.token and self.host not in LOOPBACK:
      raise UserError(f"--host {self.host} is open to others: give --token, which clients must know")
    if bool(self.certificate) != bool(self.key):
      raise UserError("--certificate and --key come together: give both files or none")


class Server:
  """The HTTP application around a scheduler."""

  def __init__(self, engine: SlotEngine, options: ServeOptions):
    options.check()
    self.options, self.scheduler = options, Scheduler(engine, options.max_seconds)
    self.connections: set[Connection] = set()
    metrics = Metrics(self.scheduler, self._queued_units)
    self.service = Service(self.scheduler, metrics, options.world, options.voice, options.simulated)

  def app(self) -> web.Application:
    """The application, for `web.run_app` or a runner."""
    app = web.Application(client_max_size=protocol.MAX_MESSAGE)
    app.cleanup_ctx.append(self._lifetime)
    app.on_shutdown.append(self._shut_down)
    app.router.add_get("/", self._page)
    app.router.add_get("/about", self._about)
    app.router.add_get("/live", self._live)
    app.router.add_get("/recordings/{session}", self._recording)
    app.router.add_get("/healthz", self._health)
    app.router.add_get("/metrics", self._metrics)
    app.router.add_static("/page", PAGE)
    app.on_response_prepare.append(_revalidate)
    return app

  # From start to end

  async def _lifetime(self, app: web.Application) -> AsyncIterator[None]:
    """Restores sessions, runs the clock until the server goes down, and saves sessions."""
    state, service = self.options.state, self.service
    if state is not None:
      try:
        log.info("restored", extra={"sessions": restart.restore(self.scheduler, state, service.unit_source)})
      except UserError as error:
        log.warning(str(error))
    cleaner = asyncio.create_task(self._delete_old_recordings())
    async with self.scheduler:
      yield
    cleaner.cancel()
    for recording in service.recordings.values():
      recording.delete()
    if state is not None:
      log.info("saved", extra={"sessions": restart.save(self.scheduler, state)})

  async def _delete_old_recordings(self) -> None:
    recordings, ended = self.service.recordings, dict[str, float]()
    while True:
      for session in list(recordings):
        running = self.scheduler.find(session) is not None
        if not running and time.monotonic() - ended.setdefault(session, time.monotonic()) > KEEP_SECONDS:
          recordings.pop(session).delete()
          del ended[session]
      await asyncio.sleep(KEEP_SECONDS / 20)

  async def drain(self) -> None:
    """Refuses new sessions and gives running ones time to end. With `state` they continue after the restart instead."""
    self.service.draining = True
    if self.options.state is None and self.options.drain:
      await self._broadcast(protocol.dump("draining", seconds=self.options.drain))
      deadline = time.monotonic() + self.options.drain
      while self.scheduler.free < self.scheduler.engine.slots and time.monotonic() < deadline:
        await asyncio.sleep(0.1)

  async def _shut_down(self, app: web.Application) -> None:
    """Tells all clients why, and closes their connections."""
    self.service.draining = True
    if self.options.state is not None:
      last = protocol.dump("restarting", message="the server restarts; one moment, please")
    else:
      last = protocol.dump("ended", message="the server is going down; please come back in a minute")
    await self._broadcast(last, close=True)

  async def _broadcast(self, message: str, close: bool = False) -> None:
    await asyncio.gather(*(connection.notify(message, close) for connection in self.connections))

  def _queued_units(self) -> int:
    return sum(len(connection.outbox) for connection in self.connections)

  # Routes

  async def _page(self, request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE / "index.html")

  async def _about(self, request: web.Request) -> web.Response:
    """What the page shows before a conversation."""
    self._admit(request)
    options = self.options
    portrait = options.world.portrait
    return web.json_response(
      {
        "version": protocol.VERSION,
        "fields": options.world.fields,
        "portrait": None if portrait is None else base64.b64encode(encode_jpeg(portrait)).decode(),
        "voice": options.voice,
        "watch": options.simulated is not None,
      }
    )

  async def _live(self, request: web.Request) -> web.StreamResponse:
    self._admit(request)
    socket = web.WebSocketResponse(max_msg_size=protocol.MAX_MESSAGE, compress=False, heartbeat=20.0, timeout=2.0)
    await socket.prepare(request)
    connection = Connection(self.service, socket, request.transport)
    self.connections.add(connection)
    try:
      await connection.run()
    finally:
      self.connections.discard(connection)
      await socket.close()
    return socket

  async def _recording(self, request: web.Request) -> web.StreamResponse:
    """The ZIP file of a finished session."""
    session = request.match_info["session"]
    recording = self.service.recordings.get(session)
    if recording is None:
      raise web.HTTPNotFound(text="there is no such recording: it was not asked for, or has been deleted")
    if self.scheduler.find(session) is not None:
      raise web.HTTPConflict(text="the conversation is still running: end it first")
    try:
      path = await asyncio.shield(recording.close())
    except UserError as error:
      raise web.HTTPNotFound(text=str(error)) from error
    return web.FileResponse(path, headers={"Content-Disposition": 'attachment; filename="conversation.zip"'})

  def _admit(self, request: web.Request) -> None:
    """Raises 403 for a foreign page, host name or token."""
    if not self.options.token and request.url.host not in LOOPBACK:  # a foreign name that leads here (DNS rebinding)
      raise web.HTTPForbidden(text=f"{request.url.host} is not this machine's own name: open http://127.0.0.1")
    origin = request.headers.get("Origin")
    own = (f"http://{request.host}", f"https://{request.host}")
    if origin is not None and origin not in (*own, *self.options.origins):
      raise web.HTTPForbidden(text=f"pages of {origin} may not connect: start the server with --origin {origin}")
    given = request.query.get("token", "")
    if self.options.token and not hmac.compare_digest(given.encode(), self.options.token.encode()):
      raise web.HTTPForbidden(text="a token is needed: open the address with ?token=... at its end")

  async def _health(self, request: web.Request) -> web.Response:
    status = "broken" if self.scheduler.broken else "draining" if self.service.draining else "ok"
    state = {"status": status, "slots": self.scheduler.engine.slots, "free": self.scheduler.free}
    return web.json_response(state, status=200 if status == "ok" else 503)

  async def _metrics(self, request: web.Request) -> web.Response:
    return web.Response(body=self.service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _revalidate(request: web.Request, response: web.StreamResponse) -> None:
  """Browsers must ask for the page again: yesterday's page must not talk to today's server."""
  response.headers.setdefault("Cache-Control", "no-cache")


def listen(options: ServeOptions) -> tuple[socket.socket, ssl.SSLContext | None]:
  """The socket to serve on and its TLS context. Raises UserError, before anything expensive was done."""
  options.check()
  context = _tls_context(options) if options.certificate else None
  family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
  try:
    listening = socket.create_server((options.host, options.port), family=family)
  except OSError as error:
    raise UserError(f"--host {options.host} --port {options.port}: {error.strerror or error}; give another") from error
  return listening, context


def _tls_context(options: ServeOptions) -> ssl.SSLContext:
  files = f"--certificate {options.certificate} --key {options.key}"
  context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
  try:
    context.load_cert_chain(options.certificate, options.key)
  except ssl.SSLError as error:
    raise UserError(f"{files}: not a PEM certificate with its key") from error
  except OSError as error:
    raise UserError(f"{files}: {error.strerror or error}") from error
  return context


def serve(engine: SlotEngine, options: ServeOptions, listening: socket.socket, context: ssl.SSLContext | None) -> None:
  """Serves on what `listen` returned, until Ctrl-C or SIGTERM."""
  server = Server(engine, options)
  print(f"open {_address(options, listening.getsockname()[1])}", flush=True)
  app = server.app()
  app.on_startup.append(functools.partial(_drain_on_sigterm, server))
  web.run_app(app, sock=listening, ssl_context=context, print=None, access_log=None)


def _address(options: ServeOptions, port: int) -> str:
  """What to open in a browser. The token is shown on a terminal only: otherwise stdout may be a log."""
  scheme = "https" if options.certificate else "http"
  host = f"[{options.host}]" if ":" in options.host else options.host
  query = ""
  if options.token:
    query = f"?token={urllib.parse.quote(options.token, safe='') if sys.stdout.isatty() else '...'}"
  return f"{scheme}://{host}:{port}/{query}"


async def _drain_on_sigterm(server: Server, app: web.Application) -> None:
  """Replaces aiohttp's handler: SIGTERM drains while the server still answers, and then stops it as Ctrl-C does."""
  loop = asyncio.get_running_loop()

  def stop(_: asyncio.Task[None]) -> None:
    raise web.GracefulExit

  def terminate() -> None:
    asyncio.ensure_future(server.drain()).add_done_callback(stop)

  loop.add_signal_handler(signal.SIGTERM, terminate)


class JSONLines(logging.Formatter):
  """One JSON object per line, without anything that users said, showed or wrote."""

  def format(self, record: logging.LogRecord) -> str:
    value = {"time": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
    value |= {name: getattr(record, name) for name in ("slot", "free", "sessions") if hasattr(record, name)}
    if record.exc_info:
      value["error"] = self.formatException(record.exc_info)
    return json.dumps(value)


def structured_logs() -> None:
  """Writes the package's log to stderr as JSON lines."""
  handler = logging.StreamHandler()
  handler.setFormatter(JSONLines())
  log.addHandler(handler)
  log.setLevel(logging.INFO)
  if "XLA_FLAGS" in os.environ:  # the package may have added to them before there was a handler
    log.info(f"XLA_FLAGS={os.environ['XLA_FLAGS']}")
