"""A real browser talks with the demo weights: headless Chromium with files for camera and microphone.

    bash launch/test.sh --browser

WANSTREAMER_BROWSER_SECONDS=60 says for how long, WANSTREAMER_RECORD=docs/results.md puts the figures there.

Server and browser share the machine. Screenshots are left in `out/browser`; look at them.
"""

import asyncio
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import wave

import av
import numpy as np
import pytest

from tests import ROOT
from tests.helpers.browser import ALLOW, page
from wanstreamer_jax.cli import results
from wanstreamer_jax.parallel import machine

pytestmark = pytest.mark.browser
SECONDS = float(os.environ.get("WANSTREAMER_BROWSER_SECONDS", "30"))
OUT = ROOT / "out" / "browser"


@pytest.fixture(scope="module")
def devices(tmp_path_factory) -> list[str]:
  """Flags that give Chromium the clip of the repository as camera and microphone, in a loop."""
  folder, clip = tmp_path_factory.mktemp("devices"), str(ROOT / "launch/clip.mp4")
  resampler, sound = av.AudioResampler(format="s16", layout="mono", rate=48_000), []
  with av.open(clip) as file:
    for frame in file.decode(audio=0):
      sound += [part.to_ndarray()[0] for part in resampler.resample(frame)]
  with wave.open(str(folder / "voice.wav"), "wb") as out:
    out.setparams((1, 2, 48_000, 0, "NONE", ""))
    out.writeframes(np.concatenate(sound).tobytes())
  with av.open(clip) as file, (folder / "face.y4m").open("wb") as out:
    out.write(b"YUV4MPEG2 W240 H240 F25:1 Ip A1:1 C420jpeg\n")
    for frame in file.decode(video=0):
      out.write(b"FRAME\n" + frame.reformat(240, 240, "yuv420p").to_ndarray().tobytes())
  return [
    f"--use-file-for-fake-audio-capture={folder}/voice.wav",
    f"--use-file-for-fake-video-capture={folder}/face.y4m",
  ]


@pytest.fixture(scope="module")
def address():
  """A server with the demo weights and one slot."""
  command = [sys.executable, "-m", "wanstreamer_jax", "serve", "--port", "0"]
  as_users = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # not the tests' slow ones
  process = subprocess.Popen(
    command, cwd=ROOT, env=as_users, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
  )
  found = next((m for line in process.stdout for m in re.findall(r"open (http\S+)", line)), None)
  assert found, "the server did not start"
  yield found
  process.send_signal(signal.SIGTERM)
  assert process.wait(20) == 0


async def watch(tab, seconds: float) -> list[dict]:
  """What the page measures, four times a second."""
  found = []
  for _ in range(int(4 * seconds)):
    await asyncio.sleep(0.25)
    found.append(await tab.evaluate("window.figures ?? null"))
  return [figures for figures in found if figures]


def about(report: dict) -> str:
  """What is recorded of a conversation: where it was held, and what the page measured."""
  host = machine.describe()
  where = f"headless Chromium and the server on {host['device']}, {host['cores']} cores, load {host['load']:.1f}"
  return "\n".join([f"{where}; {SECONDS} s of the clip as camera and microphone", json.dumps(report)])


def test_a_conversation(address, devices, tmp_path):
  async def talk():
    async with page(address, tmp_path, ALLOW, *devices) as tab:
      await tab.click("button[value=talk]")
      await tab.click("#figures-button")
      await watch(tab, 4)  # play-out finds its level
      early = await tab.evaluate("window.figures")
      found = await watch(tab, SECONDS)
      OUT.mkdir(parents=True, exist_ok=True)
      await tab.screenshot(path=OUT / "light.png")
      await tab.emulate_media(color_scheme="dark")
      await tab.screenshot(path=OUT / "dark.png")
      assert await tab.inner_text("#state") == "live"
      await tab.click("#stop")
      assert await tab.is_visible("button[value=talk]")
      return early, found

  early, found = asyncio.run(talk())
  last = found[-1]
  units, late = last["units"] - early["units"], last["late"] - early["late"]
  latencies = [figures["latency"] for figures in found if figures["latency"] is not None]
  offsets = [abs(figures["offset"]) for figures in found if figures["offset"] is not None]
  report = {
    "units": units, "late": late, "gaps": last["underruns"] - early["underruns"],
    "latency p50, p95 (ms)": [round(1000 * float(x)) for x in np.percentile(latencies, (50, 95))],
    "offset, most (ms)": round(1000 * max(offsets)), "flush (ms)": last["flush"] and round(1000 * last["flush"], 1),
    "captions": sorted({figures["caption"] for figures in found if figures["caption"]}),
  }  # fmt: skip
  (OUT / "conversation.json").write_text(json.dumps(report, indent=2))
  print(json.dumps(report))
  if document := os.environ.get("WANSTREAMER_RECORD"):
    results.write_block(pathlib.Path(document), "bash launch/test.sh --browser", results.provenance(), about(report))
  assert units >= 0.95 * SECONDS / 0.16
  assert late < 0.01 * units
  assert max(offsets) <= 0.04
  assert report["captions"]
  assert last["flush"] is not None
  assert last["flush"] <= 0.2


def test_webrtc_carries_both_ways(address, devices, tmp_path):
  pytest.importorskip("aiortc")

  async def talk():
    async with page(address + "?webrtc", tmp_path, ALLOW, *devices) as tab:
      await tab.click("button[value=talk]")
      captions = ""
      for _ in range(16):
        await asyncio.sleep(1)
        captions += await tab.inner_text("#caption")
      await tab.screenshot(path=OUT / "webrtc.png")
      shown = await tab.evaluate(
        "[$('remote').videoWidth, $('remote').currentTime]".replace("$(", "document.getElementById(")
      )
      assert shown[0] > 0
      assert shown[1] > 5
      assert captions
      await tab.click("#stop")

  OUT.mkdir(parents=True, exist_ok=True)
  asyncio.run(talk())


def test_watching_needs_no_camera(address, tmp_path):
  async def talk():
    async with page(address, tmp_path, width=390, height=844) as tab:
      await tab.fill("input[name=name]", "eve")
      await tab.check("input[name=record]")
      await tab.click("#watch")
      await tab.fill("#typed", "what is your name")
      await tab.press("#typed", "Enter")
      await watch(tab, 8)
      await tab.screenshot(path=OUT / "watching.png")
      spread = """(id) => { const c = document.getElementById(id);
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        return Math.max(...d.filter((_, i) => i % 4 < 3)) - Math.min(...d.filter((_, i) => i % 4 < 3)); }"""
      assert await tab.evaluate(spread, "agent") > 100
      assert await tab.evaluate(spread, "watched") > 100
      await tab.click("#stop")
      async with tab.expect_download() as download:
        await tab.click("#download a")
      assert (await (await download.value).path()).stat().st_size > 10_000

  OUT.mkdir(parents=True, exist_ok=True)
  asyncio.run(talk())


def test_who_may_not_use_the_camera_is_told_what_to_do(address, tmp_path):
  async def talk():
    async with page(address, tmp_path, "--deny-permission-prompts") as tab:
      await tab.click("button[value=talk]")
      await tab.wait_for_selector("#trouble:not([hidden])", timeout=10_000)
      assert "not allowed" in await tab.inner_text("#trouble")
      assert await tab.inner_text("#state") == "not connected"

  asyncio.run(talk())


def test_a_full_server_says_when_to_come_back(address, tmp_path):
  async def talk():
    async with page(address, tmp_path / "a") as first, page(address, tmp_path / "b") as second:
      await first.click("#watch")
      await first.wait_for_selector("#during:not([hidden])")
      await second.click("#watch")
      await second.wait_for_selector("#trouble:not([hidden])", timeout=10_000)
      assert "try again in" in await second.inner_text("#trouble")

  asyncio.run(talk())
