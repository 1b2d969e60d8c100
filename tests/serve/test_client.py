"""`wanstreamer client`: a media file streamed to a server, and how it reports servers that are away or full."""

import asyncio
import itertools
import json
import time

import numpy as np
import pytest
from aiohttp import WSMessage, WSMsgType, web

from tests.helpers.live import MEDIA, RATE, Echo, running
from tests.helpers.media_files import halves, tone, write_video
from wanstreamer_jax.data.media import MediaReader
from wanstreamer_jax.engine.interface import PHASES
from wanstreamer_jax.errors import MediaError, UserError
from wanstreamer_jax.serve import client, protocol, stream_live
from wanstreamer_jax.serve.client import Client, ServerErrors
from wanstreamer_jax.serve.frame_codec import encode_jpeg
from wanstreamer_jax.serve.stream_live import stream_to


def test_the_client_saves_what_it_is_answered(tmp_path):
  clip = write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 24, sound=tone(0.96, RATE))

  async def talk():
    async with running(Echo()) as (_, address):
      return await asyncio.to_thread(stream_to, address, clip, tmp_path / "out", False)

  figures = asyncio.run(talk())
  assert {path.name for path in (tmp_path / "out").iterdir()} == {"agent.mp4", "agent.vtt", "units.jsonl"}
  rows = [json.loads(line) for line in (tmp_path / "out/units.jsonl").read_text().splitlines()]
  assert len(rows) == 6
  assert any(row["state"] == "speaking" for row in rows)
  assert 0 < figures["p50_ms"] < 1000


@pytest.mark.parametrize(
  ("said", "reason"),
  [
    ('{"type": "welcome"}', "speaks protocol version None, this client 2: install the same version"),
    ('{"type": "welcome", "version": 2}', "does not speak this protocol"),
    ('{"type": "welcome", "version": 1}', "speaks protocol version 1, this client 2"),
    ("<html>", "does not speak this protocol"),
    ('{"type": "full", "message": "all slots are taken"}', "all slots are taken"),
    (None, "did not answer for 0.2 s"),
  ],
)
def test_a_server_that_is_not_ours(tmp_path, monkeypatch, said, reason):
  monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)
  clip = write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 24)

  async def live(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    if said is not None:
      await socket.send_str(said)
    await asyncio.sleep(0.5)
    return socket

  async def talk():
    app = web.Application()
    app.router.add_get("/live", live)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
      with pytest.raises(UserError, match=reason):
        await asyncio.to_thread(stream_to, f"http://127.0.0.1:{runner.addresses[0][1]}", clip, tmp_path / "out", False)
    finally:
      await runner.cleanup()

  asyncio.run(talk())
  assert not (tmp_path / "out").exists()


class Breaking(MediaReader):
  """Its file cannot be read on after two units."""

  def __iter__(self):
    yield from itertools.islice(super().__iter__(), 2)
    raise MediaError("the file is damaged from here on")


def test_a_file_that_breaks_in_the_middle_is_no_answer_to_silence(tmp_path, monkeypatch):
  monkeypatch.setattr(stream_live, "MediaReader", Breaking)
  clip = write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 24, sound=tone(0.96, RATE))

  async def talk():
    async with running(Echo()) as (_, address):
      with pytest.raises(MediaError, match="damaged from here on"):
        await asyncio.to_thread(stream_to, address, clip, tmp_path / "out", False)

  asyncio.run(talk())
  assert not (tmp_path / "out").exists()


def test_a_latency_belongs_to_the_unit_that_answers_audio():
  """Also when frames of the unit before were left out, so that it is complete only when the next one begins."""
  phases = {f"{phase}_ms": 1.0 for phase in PHASES}
  begin = lambda captured: protocol.dump("unit", text="", speaking=False, late=False, captured=captured, **phases)
  sound = protocol.audio_message(np.zeros(MEDIA.samples), 0.0).pack()
  jpeg = encode_jpeg(np.zeros((MEDIA.height, MEDIA.width, 3), np.uint8))
  pictures = [protocol.MediaMessage(protocol.JPEG, jpeg, 0.0).pack()] * MEDIA.frames
  coming = [begin(time.perf_counter() - 0.06), sound, begin(None), sound, *pictures]

  class Socket:
    async def receive(self, _):
      data = coming.pop(0)
      return WSMessage(WSMsgType.TEXT if isinstance(data, str) else WSMsgType.BINARY, data, None)

  async def receive():
    units = Client(Socket(), MEDIA, ServerErrors("http://here")).units()
    return [await anext(units), await anext(units)]

  first, second = asyncio.run(receive())
  assert first.latency >= 0.06
  assert (len(first.frames), len(second.frames)) == (0, MEDIA.frames)
  assert second.latency is None


def test_a_client_without_the_token_is_told_so(tmp_path):
  clip = write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 24)

  async def talk():
    async with running(Echo(), token="secret") as (_, address):
      with pytest.raises(UserError, match="a token is needed") as caught:
        await asyncio.to_thread(stream_to, f"{address}?token=mine", clip, tmp_path / "out", False)
      assert "mine" not in str(caught.value)

  asyncio.run(talk())


def test_a_server_that_is_away(tmp_path):
  clip = write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 24)
  with pytest.raises(UserError, match="cannot be reached"):
    stream_to("http://127.0.0.1:9", clip, tmp_path / "out", False)
  for wrong in ("http://127.0.0.1:9?token=mine", "http://127.0.0.1:nine?token=mine", "ftp://127.0.0.1?token=mine"):
    with pytest.raises(UserError) as caught:
      stream_to(wrong, clip, tmp_path / "out", False)
    assert "mine" not in str(caught.value)
