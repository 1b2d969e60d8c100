"""What the tests of the live service share: an engine that echoes, a server on a real socket, and its visitors."""

import asyncio
import contextlib
import json

import aiohttp
import numpy as np
from aiohttp import web

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.engine.interface import UnitOutput
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.serve import protocol
from wanstreamer_jax.serve.server import ServeOptions, Server
from wanstreamer_jax.serve.session_log import PHASES

MEDIA = MediaConfig()
RATE = MEDIA.sample_rate


class Echo:
  """Says and shows what it hears and sees, one unit later, in every slot; writes what is typed. `broken`: a slot."""

  media = MEDIA
  overlaps = False

  def __init__(self, slots: int = 2, broken: int | None = None):
    self.slots, self.broken, self.began, self.resets = slots, broken, [], 0

  def check(self, request):
    if request.world.fields.get("name") == "too long":
      raise DataError("the world text has 99 tokens")

  def reset(self):
    self.resets += 1

  def join(self, slot, request):
    if request.world.fields.get("name") == "unforeseen":
      raise DataError("this was not foreseen")
    if request.world.fields.get("name") == "unexpected":
      raise RuntimeError("the device is lost")
    self.began.append((slot, request.world.fields, request.seed))

  def commit(self):
    pass

  def save(self, folder):
    (folder / "engine.json").write_text(json.dumps(len(self.began)))

  def restore(self, folder):
    self.began = [None] * json.loads((folder / "engine.json").read_text())

  def think(self, users, typed):
    return users, typed

  def perform(self, thought):
    return [self.echo(slot, user, texts) for slot, (user, texts) in enumerate(zip(*thought))]

  def echo(self, slot, user, texts):
    if user is None or (slot == self.broken and texts):
      return None
    video = np.full((4, 64, 64, 3), 100, np.uint8) if user.video is None else user.video
    audio = np.zeros(MEDIA.samples, np.float32) if user.audio is None else user.audio
    return UnitOutput(video, audio, " ".join(texts), bool(np.abs(audio).max() > 0.1), dict.fromkeys(PHASES, 1.0))


@contextlib.asynccontextmanager
async def running(engine, **options):
  server = Server(engine, ServeOptions(port=0, **options))
  runner = web.AppRunner(server.app())
  await runner.setup()
  site = web.TCPSite(runner, "127.0.0.1", 0)
  await site.start()
  port = site._server.sockets[0].getsockname()[1]
  try:
    yield server, f"http://127.0.0.1:{port}"
  finally:
    await runner.cleanup()


async def hello(web_session, address, **values):
  socket = await web_session.ws_connect(f"{address}/live", max_msg_size=1 << 20)
  await socket.send_str(protocol.say("hello", version=1, **values))
  return socket, protocol.hear(await socket.receive_str(timeout=3))


async def units(socket, count):
  """The "unit" messages of `count` units, with how many sound samples and pictures came with them."""
  found, samples, pictures = [], 0, 0
  while len(found) < count or samples < count * MEDIA.samples or pictures < count * MEDIA.frames:
    message = await socket.receive(timeout=3)
    if message.type is aiohttp.WSMsgType.BINARY:
      media = protocol.unpack(message.data)
      samples += len(media.samples) if media.kind == protocol.SOUND else 0
      pictures += media.kind == protocol.JPEG
    else:
      value = protocol.hear(message.data)
      if value["type"] == "unit":
        found.append(value)
  return found


async def until(socket, *types):
  """The next JSON message of one of these types."""
  async with asyncio.timeout(20):
    while True:
      message = await socket.receive(timeout=3)
      assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
      if message.type is aiohttp.WSMsgType.TEXT and protocol.hear(message.data)["type"] in types:
        return protocol.hear(message.data)
