"""The page of the live service in a headless Chromium, with an engine that echoes: `test_browser.py` has a real one."""

import asyncio
import dataclasses

import pytest

from tests.helpers.browser import ALLOW, page
from tests.helpers.live import MEDIA, Echo, running

pytestmark = pytest.mark.browser


async def talking(tab) -> None:
  await tab.click("button[value=talk]")
  await tab.wait_for_selector("#during:not([hidden])", timeout=10_000)


class Slow(Echo):
  """Echoes in units of 320 ms at 16 kHz."""

  media = dataclasses.replace(MEDIA, unit_ms=320, sample_rate=16_000)


RING = """async ([unit, parts]) => {
  const text = await (await fetch("/page/worklets.js")).text(), found = {};
  const globals = ["AudioWorkletProcessor", "registerProcessor", "sampleRate", "currentTime"];
  new Function(...globals, text)(class { port = {}; }, (name, kind) => { found[name] = kind; }, 16000, 0);
  const ring = new found.playout({processorOptions: {unit}});
  for (let i = 0; i < parts; i++) ring.push({samples: new Float32Array(320), time: 0});
  return ring.waiting / 16000;
}"""


def test_the_clock_is_the_servers(tmp_path):
  """The microphone is recorded at the rate of the model, and longer units than the shipped ones are not late."""

  async def talk():
    async with running(Slow(slots=1)) as (server, address), page(address, tmp_path, ALLOW) as tab:
      assert await tab.evaluate(RING, [0.32, 19]) == pytest.approx(0.38)  # a unit on a full rest
      assert await tab.evaluate(RING, [0.16, 19]) < 0.16 + 2 * 0.06
      await talking(tab)
      (connection,) = server.connections
      connection.source.audio, sizes = lambda samples, time: sizes.add(len(samples)), set()
      await asyncio.sleep(2)
      assert sizes == {16_000 // 50}
      assert (await tab.evaluate("window.figures"))["waiting"] > 0  # it plays

  asyncio.run(talk())


async def soon(condition, seconds: float = 10.0) -> None:
  async with asyncio.timeout(seconds):
    while not await condition():
      await asyncio.sleep(0.1)


class Listening(Echo):
  """Remembers whether it hears and sees somebody."""

  heard = seen = False

  def think(self, users, typed):
    self.heard, self.seen = (
      users[0] is not None and users[0].audio is not None,
      users[0] is not None and users[0].video is not None,
    )
    return users, typed


def test_who_comes_back_over_webrtc_is_heard_and_answered(tmp_path):
  pytest.importorskip("aiortc")

  async def talk():
    engine = Listening(slots=1)
    async with running(engine) as (server, address), page(f"{address}/?webrtc", tmp_path, ALLOW) as tab:
      heard_and_seen = lambda: asyncio.sleep(0, engine.heard and engine.seen)
      back = lambda: asyncio.sleep(0, any(other is not first and other.peer for other in server.connections))
      await talking(tab)
      await soon(heard_and_seen)
      (first,) = server.connections
      first.transport.abort()
      await soon(back)
      await asyncio.sleep(2)  # what the first one brought is used up
      await soon(heard_and_seen)
      assert await tab.inner_text("#state") == "live"
      assert not await tab.is_visible("#trouble")
      shown = lambda: tab.evaluate("document.getElementById('remote').currentTime")
      before = await shown()
      await asyncio.sleep(2)
      assert await shown() > before

  asyncio.run(talk())


def test_a_page_that_is_not_safe_says_so(tmp_path):
  """Away from https and this machine's own names, browsers have no camera, microphone or worklets."""

  async def talk():
    async with running(Echo(slots=1)) as (_, address):
      foreign = address.replace("127.0.0.1", "agent.example")
      async with page(foreign, tmp_path, "--host-resolver-rules=MAP agent.example 127.0.0.1") as tab:
        for button in ("talk", "watch"):
          await tab.evaluate("document.getElementById('watch').hidden = false")
          await tab.click(f"button[value={button}]")
          assert "https" in await tab.inner_text("#trouble")
          assert await tab.inner_text("#state") == "not connected"

  asyncio.run(talk())


def test_an_echo_is_told_once_it_is_loud_and_forgotten_when_it_is_gone(tmp_path):
  levels = iter([-40.0, -20.0])

  async def talk():
    async with running(Echo(slots=1)) as (server, address), page(address, tmp_path, ALLOW) as tab:
      shown = lambda: tab.evaluate("document.getElementById('figures').textContent")
      await talking(tab)
      (connection,) = server.connections
      connection.echo = lambda agent, user: next(levels, None)
      await soon(lambda: tab.is_visible("#trouble"))
      assert "headphones" in await tab.inner_text("#trouble")
      await asyncio.sleep(0.6)
      assert "-20 dB" in await shown()
      await asyncio.sleep(5)
      assert "echonone" in await shown()

  asyncio.run(talk())


class Story(Echo):
  """Tells a tale of which every unit brings some words, one of them in two pieces."""

  told = 0

  def echo(self, slot, user, texts):
    self.told += 1
    unit = super().echo(slot, user, texts)
    return unit and dataclasses.replace(unit, text=f" word{self.told} (nods) half" if self.told % 2 else "way")


def test_words_are_added_and_never_written_again(tmp_path):
  """What a screen reader hears: every node once; and who speaks and what to do next is told without colours."""
  watching = """window.added = [];
    new MutationObserver((found) => found.forEach((change) => window.added.push(
      ...[...change.addedNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data))))
      .observe(document.getElementById("caption"), {childList: true, subtree: true});"""

  async def talk():
    async with running(Story(slots=1)) as (_, address), page(address, tmp_path, ALLOW) as tab:
      await tab.evaluate(watching)
      await talking(tab)
      await soon(lambda: tab.evaluate("window.added.length > 45"), 20)
      assert await tab.inner_text("#turn") in ("speaking", "listening")
      assert await tab.evaluate("document.getElementById('caption').childElementCount") <= 12
      assert " halfway" in await tab.evaluate("document.getElementById('caption').textContent")
      await tab.click("#stop")
      assert await tab.evaluate("document.activeElement.id") == "talk"
      added = await tab.evaluate("window.added")
      words = [text for text in added if text.startswith(" word")]
      assert len(words) == len(set(words)) > 10

  asyncio.run(talk())


def test_a_full_pod_is_not_the_only_one(tmp_path):
  """A balancer that hashes `affinity` leads elsewhere at the next try, and back to the pod when the line broke."""
  keys = []

  async def talk():
    async with running(Echo(slots=1)) as (server, address), page(address, tmp_path, ALLOW) as tab:
      admit = server._admit

      def admitted(request):
        keys.extend([request.query["affinity"]] if request.path == "/live" else [])
        return admit(request)

      server._admit = admitted
      await talking(tab)
      (connection,) = server.connections
      connection.transport.abort()
      await soon(lambda: asyncio.sleep(0, len(keys) == 2))
      assert keys[0] == keys[1]
      async with page(address, tmp_path / "other", ALLOW) as second:
        await second.click("button[value=talk]")
        await second.wait_for_selector("#trouble:not([hidden])", timeout=10_000)
        assert "try again in" in await second.inner_text("#trouble")
      assert len(keys) == 5
      assert len(set(keys)) == 4

  asyncio.run(talk())
