"""Everything that clients, lines and machines do wrong: the server says so where it can, and serves the others."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import sys
import threading

import aiohttp
import numpy as np
import pytest

from tests.helpers.live import RATE, Echo, hello, running, units, until
from tests.helpers.media_files import halves, tone, write_video
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.serve import connection, outbox, protocol
from wanstreamer_jax.serve.frame_codec import VP8Encoder, decode_jpeg, encode_jpeg
from wanstreamer_jax.serve.server import ServeOptions
from wanstreamer_jax.serve.stream_live import stream_to


async def raw_client(address, buffer=None):
  """A client without a WebSocket library: (reader, writer, session), after the welcome.

  buffer: bytes that the line holds; the client reads no more than that by itself.
  """
  line = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
  if buffer is not None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
  reader, writer = await asyncio.open_connection(sock=line, limit=buffer or 1 << 16)
  writer.write(
    b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    + frame(1, b'{"type":"hello","version":2}')
  )  # fmt: skip
  await reader.readuntil(b"\r\n\r\n")
  await reader.readuntil(b'"session": "')
  return reader, writer, (await reader.readuntil(b'"'))[:-1].decode()


def frame(kind: int, payload: bytes, length: int | None = None) -> bytes:
  """A masked WebSocket frame, which may promise more than it holds."""
  size = len(payload) if length is None else length
  head = bytes([0x80 | kind, 0x80 | size]) if size < 126 else bytes([0x80 | kind, 0xFE]) + size.to_bytes(2, "big")
  return head + bytes(4) + payload


@pytest.mark.parametrize("how", ["reset", "closed", "silent"])
def test_a_client_that_vanishes_in_the_middle_of_a_message(how):
  """The others are served; the place is kept for who comes back."""

  async def talk():
    async with running(Echo()) as (server, address), aiohttp.ClientSession() as session:
      _, writer, token = await raw_client(address)
      sound = protocol.audio_message(np.zeros(480), 0.0).pack()
      writer.write(frame(2, sound) + frame(2, sound[:100], len(sound)))  # half a message
      await writer.drain()
      await asyncio.sleep(0.1)
      if how == "reset":
        writer.transport.abort()
      elif how == "closed":
        writer.close()
      other, _ = await hello(session, address)
      assert len(await units(other, 2)) == 2
      assert server.scheduler.free == 0
      _, again = await hello(session, address, session=token)
      assert again["type"] == "welcome"
      writer.transport.abort()

  asyncio.run(talk())


@pytest.mark.parametrize(
  ("message", "code", "reason"),
  [
    (b"\xff" * 40, 1008, "of kind 255"),
    (b"abc", 1008, "expected a header of 16"),
    (protocol.MediaMessage(protocol.JPEG, b"no picture", 0.0).pack(), 1008, "cannot be decoded"),
    ("{", 1008, "not JSON"),
    ('{"type": "text", "text": "' + "a" * 501 + '"}', 1008, "a text of 1 to 500"),
    (bytes(protocol.MAX_MESSAGE + 1), 1009, ""),
  ],
)
def test_who_breaks_the_rules_is_told_and_the_others_go_on(message, code, reason):
  async def talk():
    async with running(Echo()) as (server, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      other, _ = await hello(session, address)
      await (first.send_bytes(message) if isinstance(message, bytes) else first.send_str(message))
      if reason:
        assert reason in (await until(first, "error"))["message"]
      async for _ in first:  # units that were on the way
        pass
      assert first.close_code == code
      assert len(await units(other, 2)) == 2
      assert server.scheduler.free == 1

  asyncio.run(talk())


def test_sound_out_of_order_and_pictures_that_change_their_size():
  async def talk():
    async with running(Echo(slots=1)) as (_, address), aiohttp.ClientSession() as session:
      socket, _ = await hello(session, address, video=["vp8"])
      part, encoders = np.zeros(480, np.float32), [VP8Encoder(*size, 25) for size in ((64, 64), (96, 160), (64, 64))]
      for index in (3, 1, 2, 0, 9, 8, 7, 6, 5, 4):
        await socket.send_bytes(protocol.audio_message(part, 100.0 - 0.02 * index).pack())
      for index, encode in enumerate(encoders):
        data, key = encode(np.full((96, 160, 3), 60 * index, np.uint8))
        await socket.send_bytes(protocol.MediaMessage(protocol.VP8, data, 0.04 * index, key_frame=key).pack())
      for size in ((48, 48), (360, 640)):
        jpeg = encode_jpeg(np.zeros((*size, 3), np.uint8))
        await socket.send_bytes(protocol.MediaMessage(protocol.JPEG, jpeg, 1.0).pack())
      for unit in range(3):
        assert (await until(socket, "unit"))["unit"] == unit

  asyncio.run(talk())


async def lossy(address, loss):
  """A line on which each chunk is lost with that probability and so comes 200 ms later, as TCP has it; and which stands
  still for half a second now and then. -> (server, its address)."""
  random = np.random.default_rng(0)

  async def carry(reader, writer):
    with contextlib.suppress(ConnectionError):
      while data := await reader.read(1 << 14):
        fate = random.random()
        await asyncio.sleep(0.5 if fate < loss / 3 else 0.2 if fate < loss else 0)
        writer.write(data)
    writer.close()

  async def carry_both(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

  server = await asyncio.start_server(carry_both, "127.0.0.1", 0)
  return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_a_line_that_loses_and_stalls(tmp_path):
  clip = write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 64, sound=tone(2.56, RATE))

  async def talk():
    async with running(Echo()) as (server, address), aiohttp.ClientSession() as session:
      line, bad = await lossy(address, 0.03)
      other, _ = await hello(session, address)
      async with line:
        figures, found = await asyncio.gather(
          asyncio.to_thread(stream_to, bad, clip, tmp_path / "out", False), units(other, 16)
        )
      assert [unit["unit"] for unit in found] == list(range(16))
      assert not any(unit["late"] for unit in found)
      assert server.scheduler.counts.evicted == 0
      return figures

  figures = asyncio.run(talk())
  assert len((tmp_path / "out/units.jsonl").read_text().splitlines()) == 16
  assert figures["late"] == 0  # the server was in time, whatever the line did


def test_names_that_lead_elsewhere():
  async def talk():
    async with running(Echo()) as (_, address), aiohttp.ClientSession() as session:
      for path in ("/page/../server.py", "/page/..%2fserver.py", "/page//etc/passwd", "/page/%00",
                   "/recordings/..%2f..%2fetc%2fpasswd", "/recordings/%2fetc%2fpasswd"):  # fmt: skip
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.split()[1] in (b"403", b"404", b"400"), path
        assert b"import" not in answer
        assert b"root:" not in answer
      world = {"portrait": "Li4vLi4vZXRjL3Bhc3N3ZA==", "fields": {"portrait": "../../etc/passwd"}}
      _, refused = await hello(session, address, world=world)
      assert "not an image" in refused["message"]
      assert "/" not in refused["message"].split(":")[0]

  asyncio.run(talk())


def test_going_down_under_load():
  """What SIGTERM starts (`serve`): nobody new, a notice, those who talk end it, and are told at the end."""

  async def talk():
    async with running(Echo(), drain=0.5) as (server, address), aiohttp.ClientSession() as session:
      talking, _ = await hello(session, address)
      leaving, _ = await hello(session, address)
      down = asyncio.create_task(server.drain())
      assert (await until(talking, "draining"))["seconds"] == 0.5
      assert (await session.get(f"{address}/healthz")).status == 503
      _, refused = await hello(session, address)
      assert "going down" in refused["message"]
      await leaving.send_str(protocol.dump("bye"))
      assert len(await units(talking, 1)) == 1  # still served
      await down
      await server._shut_down(None)
      assert "going down" in (await until(talking, "ended"))["message"]

  asyncio.run(talk())


SERVER = """
import sys, pathlib
from tests.helpers.live import Echo
from wanstreamer_jax.serve.server import ServeOptions, listen, serve
state = pathlib.Path(sys.argv[1]) if sys.argv[1:] else None
options = ServeOptions(port=0, drain=0.5, state=state, token="secret")
serve(Echo(), options, *listen(options))
"""


@pytest.mark.parametrize("keep", [False, True])
def test_sigterm_under_load(keep, tmp_path):
  """A process of its own: clients are told, sessions are kept where they should be, and it ends by itself with 0."""
  state = tmp_path / "state"

  async def talk():
    process = await asyncio.create_subprocess_exec(
      sys.executable, "-c", SERVER, *([state] if keep else []), stdout=asyncio.subprocess.PIPE
    )
    line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().split()[-1]
    address, _, query = line.partition("/?")
    assert query == "token=..."  # a log does not hold it
    async with aiohttp.ClientSession() as session:
      socket = await session.ws_connect(f"{address}/live?token=secret")
      await socket.send_str(protocol.dump("hello", version=protocol.VERSION))
      assert len(await units(socket, 2)) == 2
      process.terminate()
      if not keep:
        assert (await until(socket, "draining"))["seconds"] == 0.5
      assert await until(socket, "restarting" if keep else "ended")
      assert await asyncio.wait_for(process.wait(), 20) == 0
    assert (state / "sessions.json").exists() == keep

  asyncio.run(talk())


@pytest.mark.parametrize(("name", "reason"), [("too long", "has 99 tokens"), ("unforeseen", "was not foreseen")])
def test_a_world_that_the_model_does_not_take_ends_nobody_else(name, reason):
  async def talk():
    async with running(Echo()) as (server, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      second, said = await hello(session, address, world={"fields": {"name": name}})
      if said["type"] == "welcome":
        said = await until(second, "ended")
      assert reason in said["message"]
      assert len(await units(first, 2)) == 2
      assert server.scheduler.free == 1

  asyncio.run(talk())


class Noisy(Echo):
  """Shows and says what cannot be compressed: lines are full soon."""

  def echo(self, slot, user, texts):
    answer, random = super().echo(slot, user, texts), np.random.default_rng(0)
    return answer and dataclasses.replace(answer, video=random.integers(0, 255, answer.video.shape, np.uint8))


def test_a_client_that_does_not_read_is_cut_off_and_the_others_go_on(monkeypatch):
  """But goes on talking, so that the line looks alive."""
  monkeypatch.setattr(outbox, "STUCK", 4)
  monkeypatch.setattr(connection, "NOTICE_SECONDS", 0.2)

  async def talk():
    async with running(Noisy()) as (server, address), aiohttp.ClientSession() as session:
      _, writer, _ = await raw_client(address, buffer=4096)
      (deaf,) = server.connections
      deaf.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
      other, _ = await hello(session, address)
      async with asyncio.timeout(10):
        while deaf in server.connections:
          with contextlib.suppress(ConnectionError):
            writer.write(frame(2, protocol.audio_message(np.zeros(480), 0.0).pack()))
            await writer.drain()
          await units(other, 1)
      assert server.scheduler.free == 1
      assert len(await units(other, 2)) == 2

  asyncio.run(talk())


def test_pictures_are_decoded_beside_the_event_loop(monkeypatch):
  threads = []
  jpeg = lambda *size: protocol.MediaMessage(protocol.JPEG, encode_jpeg(np.zeros((*size, 3), np.uint8)), 0.0).pack()
  decode = lambda *given: threads.append(threading.current_thread()) or decode_jpeg(*given)
  monkeypatch.setattr(connection, "decode_jpeg", decode)

  async def talk():
    async with running(Echo()) as (_, address), aiohttp.ClientSession() as session:
      socket, _ = await hello(session, address)
      await socket.send_bytes(jpeg(64, 64))
      await units(socket, 1)
      await socket.send_bytes(jpeg(64, 641))
      assert "641 x 64 pixels: at most 640 a side" in (await until(socket, "error"))["message"]

  asyncio.run(talk())
  assert len(threads) == 2
  assert threading.main_thread() not in threads


def test_a_broken_session_is_ended_and_the_other_goes_on():
  async def talk():
    async with running(Echo(broken=0)) as (server, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      second, _ = await hello(session, address)
      await first.send_str(protocol.dump("text", text="break"))
      while True:
        message = await first.receive(timeout=3)
        if message.type is aiohttp.WSMsgType.TEXT and protocol.parse(message.data)["type"] == "ended":
          break
      assert len(await units(second, 3)) == 3
      assert server.scheduler.counts.evicted == 1

  asyncio.run(talk())


def test_damaged_sessions_do_not_keep_the_server_from_starting(tmp_path, caplog):
  state = tmp_path / "state"
  state.mkdir()
  (state / "sessions.json").write_text("[{}]")

  async def talk():
    async with running(Echo(), state=state) as (server, _):
      assert server.scheduler.free == 2

  asyncio.run(talk())
  assert "cannot be continued" in caplog.text or "does not hold" in caplog.text


@pytest.mark.parametrize(
  ("first", "reason"),
  [
    ("{", "not JSON"),
    (
      json.dumps({"type": "hello", "version": 1}),
      "protocol version 2, but the client sent version 1: reload",
    ),
    (json.dumps({"type": "hello", "version": 2, "seed": -1}), "seed is -1"),
    (json.dumps({"type": "hello", "version": 2, "temperature": "hot"}), "temperature is 'hot'"),
    (json.dumps({"type": "hello", "version": 2, "steps": 0}), "steps is 0"),
    (json.dumps({"type": "hello", "version": 2, "guidance": None, "pad_bias": None}), "pad_bias is None"),
    (
      json.dumps({"type": "hello", "version": 2, "guidance": 1e9}),
      "guidance is 1000000000.0: expected a number from 0",
    ),
    (json.dumps({"type": "hello", "version": 2, "world": {"fields": {"name": 3}}}), "'name' must be text"),
    (json.dumps({"type": "hello", "version": 2, "world": {"portrait": "%%%"}}), '"portrait" must be base64'),
    (
      json.dumps({"type": "hello", "version": 2, "world": {"portrait": "AAAA"}}),
      "portrait sent.portrait is not an image",
    ),
    (json.dumps({"type": "hello", "version": 2, "world": {"voice": "AAAA"}}), "does not use a voice sample"),
  ],
)
def test_a_bad_hello_is_answered(first, reason):
  async def talk():
    async with running(Echo()) as (server, address), aiohttp.ClientSession() as session:
      socket = await session.ws_connect(f"{address}/live")
      await socket.send_str(first)
      value = protocol.parse(await socket.receive_str(timeout=3))
      assert value["type"] == "error"
      assert reason in value["message"]
      assert server.scheduler.free == 2

  asyncio.run(talk())


def test_strangers_are_kept_out():
  async def talk():
    async with running(Echo(), token="secret") as (_, address), aiohttp.ClientSession() as session:
      for query, headers, status in (
        ("", {}, 403), ("?token=wrong", {}, 403), ("?token=secret", {"Origin": "https://evil.example"}, 403),
      ):  # fmt: skip
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
          await session.ws_connect(f"{address}/live{query}", headers=headers)
        assert caught.value.status == status
        assert (await session.get(f"{address}/about{query}", headers=headers)).status == status
      own = await session.ws_connect(f"{address}/live?token=secret", headers={"Origin": address})
      await own.close()

  asyncio.run(talk())
  with pytest.raises(UserError, match="give --token"):
    ServeOptions(host="0.0.0.0").check()
