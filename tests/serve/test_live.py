"""The live service around the engine: seats, recordings, restarts, the client, over a real socket."""

import asyncio
import errno
import os
import time
import types
import zipfile

import aiohttp
import av
import numpy as np
import pytest

from tests.helpers.live import MEDIA, RATE, Echo, hello, running, units, until
from wanstreamer_jax.cli import serve as commands
from wanstreamer_jax.cli.main import build_parser
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.world import WorldConfig
from wanstreamer_jax.data.media import MediaReader
from wanstreamer_jax.data.session import World
from wanstreamer_jax.engine import engine as slots
from wanstreamer_jax.errors import CheckpointError, DataError, UserError
from wanstreamer_jax.parallel import mesh
from wanstreamer_jax.serve import protocol, restart, scheduler
from wanstreamer_jax.serve.picture_codec import VP8Decoder, VP8Encoder, decode_picture
from wanstreamer_jax.serve.session_log import PHASES, throughput
from wanstreamer_jax.weights import agent as agent_weights


def test_a_conversation_over_a_socket():
  async def talk():
    engine = Echo()
    async with running(engine) as (_, address), aiohttp.ClientSession() as session:
      socket, welcome = await hello(session, address, world={"fields": {"name": "ada"}}, seed=5)
      assert welcome["type"] == "welcome"
      assert (welcome["unit_ms"], welcome["height"], welcome["generated"]) == (160, 64, True)
      await socket.send_str(protocol.say("text", text="hello"))
      await socket.send_str(protocol.say("ping", time=1.5))
      found = await units(socket, 3)
      assert [unit["unit"] for unit in found] == [0, 1, 2]
      assert "hello" in "".join(unit["text"] for unit in found)
      assert engine.began == [(0, {"name": "ada"}, 5)]
      metrics = await (await session.get(f"{address}/metrics")).text()
      lines = [line.rpartition(" ") for line in metrics.splitlines() if line[0] != "#"]
      figures = {name: float(value) for name, _, value in lines}
      assert figures["wanstreamer_latency_seconds_count"] >= 3
      assert figures['wanstreamer_phase_seconds_sum{phase="think"}'] >= 0.003
      assert figures["wanstreamer_units_total"] >= 3
      assert figures["wanstreamer_joined_total"] == 1
      assert "# TYPE wanstreamer_joined_total counter" in metrics
      assert (figures["wanstreamer_free_slots"], figures["wanstreamer_busy_ratio"]) == (1, 0.5)
      await socket.send_str(protocol.say("bye"))
      await asyncio.sleep(0.1)
      health = await (await session.get(f"{address}/healthz")).json()
      assert health == {"status": "ok", "slots": 2, "free": 2}

  asyncio.run(talk())


def test_who_comes_too_late_is_told_so_and_a_seat_is_given_back():
  async def talk():
    async with running(Echo(slots=1)) as (_, address), aiohttp.ClientSession() as session:
      first, welcome = await hello(session, address)
      assert welcome["type"] == "welcome"
      _, refused = await hello(session, address)
      assert refused["type"] == "full"
      assert refused["retry_after"] >= 5
      await first.close()
      await asyncio.sleep(0.2)
      _, welcome = await hello(session, address)
      assert welcome["type"] == "welcome"

  asyncio.run(talk())


class Ahead(Echo):
  """Thinks a unit while it still answers the one before, slowly; notes the order."""

  overlaps = True

  def __init__(self):
    super().__init__()
    self.order, self.count = [], 0

  def think(self, users, typed):
    self.count += 1
    self.order.append(("think", self.count))
    return self.count, (users, typed)

  def perform(self, thought):
    count, thought = thought
    time.sleep(0.2)  # longer than a unit: the next one is thought meanwhile
    self.order.append(("answer", count))
    return super().perform(thought)


def test_the_next_unit_is_thought_while_this_one_is_answered():
  async def talk():
    engine = Ahead()
    async with running(engine) as (_, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      assert [unit["unit"] for unit in await units(first, 5)] == [0, 1, 2, 3, 4]
      second, _ = await hello(session, address)  # joins in between
      await units(second, 2)
    thought = [engine.order.index(("think", k)) for k in range(1, 5)]
    answered = [engine.order.index(("answer", k)) for k in range(1, 5)]
    assert all(thought[k + 1] < answered[k] for k in range(3))  # ahead
    assert all(answered[k] < thought[k + 2] for k in range(2))  # by one, no more

  asyncio.run(talk())


def test_who_watches_sees_and_hears_both_sides_and_may_type():
  async def talk():
    async with running(Echo(), drawn=WorldConfig()) as (_, address), aiohttp.ClientSession() as session:
      socket, welcome = await hello(session, address, watch=True, seed=3)
      assert welcome["type"] == "welcome"
      await socket.send_str(protocol.say("text", text="hi"))
      sides, text = {True: [], False: []}, ""
      while len(sides[False]) < 3 * MEDIA.frames:
        message = await socket.receive(timeout=3)
        if message.type is aiohttp.WSMsgType.BINARY:
          media = protocol.unpack(message.data)
          if media.kind == protocol.JPEG:
            sides[media.users].append(decode_picture(media.payload, 64, 64))
        else:
          text += protocol.hear(message.data).get("text", "")
      assert len(sides[True]) >= len(sides[False])
      assert sides[True][0].std() > 20  # somebody is drawn
      assert "hi" in text
      await socket.send_bytes(protocol.sound(np.zeros(480), 0.0).pack())
      while message.type is aiohttp.WSMsgType.BINARY or protocol.hear(message.data)["type"] != "error":
        message = await socket.receive(timeout=3)

  asyncio.run(talk())


def test_a_recording_for_who_asked_for_it(tmp_path):
  async def talk():
    async with running(Echo(), drawn=WorldConfig()) as (server, address), aiohttp.ClientSession() as session:
      socket, welcome = await hello(session, address, watch=True, record=True)
      _other, unrecorded = await hello(session, address)
      await units(socket, 3)
      place = f"{address}/recordings/{welcome['session']}"
      assert (await session.get(place)).status == 409
      await socket.send_str(protocol.say("bye"))
      await asyncio.sleep(0.2)
      answer = await session.get(place)
      assert answer.status == 200
      (tmp_path / "all.zip").write_bytes(await answer.read())
      assert (await session.get(f"{address}/recordings/{unrecorded['session']}")).status == 404
      folder = server.recordings[welcome["session"]].folder
    while folder.exists():
      await asyncio.sleep(0.05)

  asyncio.run(asyncio.wait_for(talk(), 20))
  with zipfile.ZipFile(tmp_path / "all.zip") as archive:
    assert archive.testzip() is None
    archive.extractall(tmp_path)
  reader = MediaReader(tmp_path / "conversation.mp4", MEDIA)
  rows = (tmp_path / "units.jsonl").read_text().splitlines()
  assert len(reader) == len(rows) >= 3
  assert len(MediaReader(tmp_path / "user.mp4", MEDIA)) == len(rows)
  with av.open(str(tmp_path / "agent.mp4")) as film:
    assert "generated" in film.metadata["comment"]


def test_pictures_as_vp8_in_both_directions():
  async def talk():
    async with running(Echo()) as (_, address), aiohttp.ClientSession() as session:
      socket, welcome = await hello(session, address, pictures=["vp8"])
      assert welcome["pictures"] == "vp8"
      encode, decode, shown = VP8Encoder(64, 64, 25), VP8Decoder(64, 64), []
      for index in range(8):
        data, key = encode(np.full((64, 64, 3), 200, np.uint8))
        await socket.send_bytes(protocol.Media(protocol.VP8, data, 0.04 * index, key_frame=key).pack())
      while len(shown) < 3 * MEDIA.frames:
        message = await socket.receive(timeout=3)
        if message.type is aiohttp.WSMsgType.BINARY:
          media = protocol.unpack(message.data)
          if media.kind != protocol.SOUND:
            assert media.kind == protocol.VP8
            assert media.key_frame == (not shown)
            shown.append(decode(media.payload).mean())
      assert max(shown) > 190  # what was sent is what the echo shows
      _, other = await hello(session, address)
      assert other["pictures"] == "jpeg"

  asyncio.run(talk())


def test_nobody_to_watch():
  async def talk():
    async with running(Echo()) as (_, address), aiohttp.ClientSession() as session:
      _, refused = await hello(session, address, watch=True)
      assert "nobody can be watched" in refused["message"]

  asyncio.run(talk())


def test_sound_and_pictures_over_webrtc_that_loses_packets(monkeypatch):
  aiortc = pytest.importorskip("aiortc")
  import aioice

  from wanstreamer_jax.serve.webrtc import Pictures, Playout, Sound

  monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
  send, random = aiortc.RTCDtlsTransport._send_rtp, np.random.default_rng(0)

  async def lossy(self, data):
    if random.random() >= 0.03:
      await send(self, data)

  monkeypatch.setattr(aiortc.RTCDtlsTransport, "_send_rtp", lossy)

  async def talk():
    async with running(Echo()) as (_, address), aiohttp.ClientSession() as session:
      socket, _ = await hello(session, address)
      await socket.send_str(protocol.say("offer", sdp="nonsense"))
      assert "not SDP" in (await until(socket, "error"))["message"]
      socket, _ = await hello(session, address)
      peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
      said, tracks = Playout(MEDIA), {}
      peer.on("track", lambda track: tracks.update({track.kind: track}))
      peer.addTrack(Sound(said))
      peer.addTrack(Pictures(said))
      await peer.setLocalDescription(await peer.createOffer())
      await socket.send_str(protocol.say("offer", sdp=peer.localDescription.sdp))
      answer = await until(socket, "answer")
      await peer.setRemoteDescription(aiortc.RTCSessionDescription(answer["sdp"], "answer"))
      wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(MEDIA.samples) / RATE)
      heard, seen = [], []
      while len(seen) < 60:
        said.play(wave, np.full((MEDIA.frames, 64, 64, 3), 200, np.uint8))
        for _ in range(MEDIA.frames):
          seen.append((await asyncio.wait_for(tracks["video"].recv(), 5)).to_ndarray(format="rgb24").mean())
          for _ in range(2):
            heard.append(np.abs((await asyncio.wait_for(tracks["audio"].recv(), 5)).to_ndarray()).max())
      await peer.close()
      assert max(seen) > 190  # the echo engine shows and says what it is shown and told
      assert max(heard) > 8000
      await socket.send_str(protocol.say("bye"))

  asyncio.run(talk())


def test_pictures_over_webrtc_have_the_same_limits():
  pytest.importorskip("aiortc")
  from wanstreamer_jax.serve.inbox import Inbox
  from wanstreamer_jax.serve.rate_limit import Bucket
  from wanstreamer_jax.serve.webrtc import Peer

  class Track:
    sizes = [(480, 640), (720, 1280), (64, 64), (64, 64)]

    async def recv(self):
      if not self.sizes:
        raise EOFError
      return av.VideoFrame.from_ndarray(np.zeros((*self.sizes.pop(0), 3), np.uint8), format="rgb24")

  async def look():
    inbox = Inbox(MEDIA)
    peer = Peer(MEDIA, inbox, Bucket(0, 9), Bucket(0, 3))
    with pytest.raises(EOFError):
      await peer._see(Track())
    assert len(inbox._pictures) == 2  # one was too large, one was one too many
    await peer.close()

  asyncio.run(look())


def test_a_broken_connection_comes_back_into_its_session():
  async def talk():
    engine = Echo(slots=1)
    async with running(engine) as (server, address), aiohttp.ClientSession() as session:
      first, welcome = await hello(session, address)
      await units(first, 2)
      first._response.connection.transport.abort()  # no goodbye
      await asyncio.sleep(0.2)
      _, refused = await hello(session, address)
      assert refused["type"] == "full"
      _, refused = await hello(session, address, session="somebody else's é")
      assert "is over" in refused["message"]
      second, again = await hello(session, address, session=welcome["session"])
      assert again["unit"] >= 2
      assert (await until(second, "unit"))["unit"] >= again["unit"]
      assert len(engine.began) == 1
      third, _ = await hello(session, address, session=welcome["session"])  # another window takes over
      assert "another window" in (await until(second, "ended"))["message"]
      assert await until(third, "unit")
      assert server.hall.free == 0

  asyncio.run(talk())


def test_a_seat_is_not_kept_for_ever(monkeypatch):
  monkeypatch.setattr(scheduler, "BACK_WITHIN", 0.2)

  async def talk():
    async with running(Echo(slots=1)) as (server, address), aiohttp.ClientSession() as session:
      first, _ = await hello(session, address)
      await units(first, 1)
      first._response.connection.transport.abort()
      await asyncio.sleep(0.8)
      assert server.hall.free == 1

  asyncio.run(talk())


def test_sessions_outlast_a_restart(tmp_path):
  state, drawn = tmp_path / "state", WorldConfig()

  async def talk():
    async with aiohttp.ClientSession() as session:
      async with running(Echo(), state=state, drawn=drawn) as (server, address):
        talking, one = await hello(session, address)
        watching, other = await hello(session, address, watch=True, seed=77, record=True)
        assert (one["recording"], other["recording"]) == (False, True)
        await units(talking, 2)
        await server._end(None)
        assert (await until(talking, "restarting"))["message"]
      assert {path.name for path in state.iterdir()} == {"sessions.json", "engine.json"}
      modes = {path.stat().st_mode & 0o777 for path in state.iterdir()}
      assert (state.stat().st_mode & 0o777, modes) == (0o700, {0o600})  # what was said, and tokens
      engine = Echo()
      async with running(engine, state=state, drawn=drawn) as (server, address):
        assert engine.began == [None, None]
        assert server.hall.free == 0
        assert not state.exists()
        talking, again = await hello(session, address, session=one["session"])
        assert again["unit"] >= 2
        assert (await until(talking, "unit"))["unit"] >= again["unit"]
        watching, again = await hello(session, address, session=other["session"])
        assert again["type"] == "welcome"
        assert not again["recording"]  # that does not outlast it, and the page is told
        assert server.hall.seat(other["session"]).source.person == 77
        await talking.send_str(protocol.say("bye"))
        await watching.send_str(protocol.say("bye"))
        await asyncio.sleep(0.1)
        assert server.hall.free == 2

  asyncio.run(talk())


async def marked(session, address, hertz, seconds):
  """A visitor who says one tone. -> what it was answered: float32 [samples], or None when there was no place."""
  socket, welcome = await hello(session, address)
  if welcome["type"] == "full":
    return None
  heard, begin, loop = [], time.monotonic(), asyncio.get_running_loop()

  async def say():
    for index in range(int(50 * seconds)):
      await asyncio.sleep(max(0.0, begin + 0.02 * index - time.monotonic()))
      times = (480 * index + np.arange(480)) / RATE
      await socket.send_bytes(protocol.sound(0.5 * np.sin(2 * np.pi * hertz * times), times[0]).pack())
    await socket.send_str(protocol.say("bye"))

  saying = loop.create_task(say())
  async for message in socket:
    if message.type is aiohttp.WSMsgType.BINARY and (media := protocol.unpack(message.data)).kind == protocol.SOUND:
      heard.append(media.samples)
  await saying
  return np.concatenate(heard)


@pytest.mark.slow
def test_eight_visitors_and_four_places():
  """Four are served in real time, and hear nothing but themselves; four are told that there is no place."""
  tones, seconds = [300 + 200 * k for k in range(8)], 20

  async def talk():
    async with running(Echo(slots=4)) as (server, address), aiohttp.ClientSession() as session:
      answers = await asyncio.gather(*(marked(session, address, hertz, seconds) for hertz in tones))
      assert (server.hall.figures.joined, server.hall.figures.refused) == (4, 4)
      assert (server.hall.figures.evicted, server.hall.figures.clock_restarts) == (0, 0)
      return answers

  answers = asyncio.run(talk())
  assert sum(answer is None for answer in answers) == 4
  for own, answer in zip(tones, answers):
    if answer is not None:
      assert len(answer) > 0.9 * seconds * RATE
      spectrum = np.abs(np.fft.rfft(answer))
      power = {hertz: spectrum[round(hertz * len(answer) / RATE) + np.arange(-3, 4)].max() for hertz in tones}
      assert all(power[hertz] < 0.01 * power[own] for hertz in tones if hertz != own)


class FullDisk(Echo):
  def save(self, folder):
    super().save(folder)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_nothing_behind(tmp_path):
  async def talk():
    async with running(FullDisk()) as (server, address), aiohttp.ClientSession() as session:
      socket, _ = await hello(session, address)
      await units(socket, 1)
      with pytest.raises(CheckpointError, match="No space left"):
        restart.save(server.hall, tmp_path / "state")

  asyncio.run(talk())
  assert list(tmp_path.iterdir()) == []


def test_whether_units_are_done_in_time():
  step = dict.fromkeys(PHASES, 10.0)
  assert "takes 50 ms (p95 50) of 160: holds; answers after 40 ms" in throughput([step] * 20, 160, 2)
  assert "takes 30 ms (p95 30) of 160: holds; answers after 40 ms" in throughput([step] * 20, 160, 2, overlaps=True)
  slow = [step] * 17 + [dict.fromkeys(PHASES, 40.0)] * 3
  assert "does NOT always hold" in throughput(slow, 160, 1)
  with pytest.raises(UserError, match="a unit of 8 slots takes 200 ms here, but a new one comes every 160 ms"):
    throughput([dict.fromkeys(PHASES, 40.0)] * 20, 160, 8)


def test_what_the_page_asks_first():
  async def talk():
    async with running(Echo(), world=World(fields={"name": "ada"})) as (_, address), aiohttp.ClientSession() as session:
      about = await (await session.get(f"{address}/about")).json()
      assert about == {"version": 1, "fields": {"name": "ada"}, "portrait": None, "voice": False, "watch": False}
      assert "wanstreamer" in await (await session.get(address)).text()

  asyncio.run(talk())


def test_a_voice_sample_is_read_where_it_is_heeded():
  async def talk():
    async with running(Echo(), voice=True) as (_, address), aiohttp.ClientSession() as session:
      _, refused = await hello(session, address, world={"voice": "AAAA"})
      assert "sent.voice" in refused["message"]

  asyncio.run(talk())


def test_a_world_that_the_model_does_not_take_is_refused_before_anything_is_compiled(monkeypatch):
  class Narrow(Echo):
    def __init__(self, agent, *_):
      super().__init__()
      self.agent = agent

    def check(self, request):
      assert request.world.fields == {"name": "too long"}
      super().check(request)

    def prepare(self, tell):
      raise AssertionError("compiled")

  agent = types.SimpleNamespace(config=Config())
  monkeypatch.setattr(slots, "Engine", Narrow)
  monkeypatch.setattr(mesh, "enable_compilation_cache", lambda: None)
  monkeypatch.setattr(agent_weights, "load_agent", lambda *_: agent)
  monkeypatch.setattr(agent_weights, "load_session_world", lambda *_: World(fields={"name": "too long"}))
  with pytest.raises(DataError, match="has 99 tokens"):
    commands.serve(build_parser().parse_args(["serve", "--port", "0"]))
