"""`wanstreamer client`: a media file as the visitor, and what it says of servers that are away, full or not ours."""

import asyncio
import json

import pytest
from aiohttp import web

from tests.live import RATE, Echo, running
from tests.media_files import halves, tone, write_video
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.serve import client
from wanstreamer_jax.serve.client import stream_to


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
    ('{"type": "welcome"}', "does not speak this protocol"),
    ("<html>", "does not speak this protocol"),
    ('{"type": "full", "message": "all places are taken"}', "all places are taken"),
    (None, "did not answer for 0.2 s"),
  ],
)
def test_a_server_that_is_not_ours(tmp_path, monkeypatch, said, reason):
  monkeypatch.setattr(client, "ANSWER_WITHIN", 0.2)
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


def test_a_client_without_the_token_is_told_so(tmp_path):
  clip = write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 24)

  async def talk():
    async with running(Echo(), token="secret") as (_, address):
      with pytest.raises(UserError, match="a token is needed"):
        await asyncio.to_thread(stream_to, address, clip, tmp_path / "out", False)

  asyncio.run(talk())


def test_a_server_that_is_away(tmp_path):
  clip = write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 24)
  with pytest.raises(UserError, match="cannot be talked to"):
    stream_to("http://127.0.0.1:9", clip, tmp_path / "out", False)
