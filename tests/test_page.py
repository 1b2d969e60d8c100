"""The page of the live service in a headless Chromium, with an engine that echoes: `test_browser.py` has a real one."""

import asyncio
import dataclasses

import pytest

from tests.browser import ALLOW, page
from tests.live import MEDIA, Echo, running

pytestmark = pytest.mark.browser


async def talking(tab) -> None:
  await tab.click("button[value=talk]")
  await tab.wait_for_selector("#during:not([hidden])", timeout=10_000)


async def figures(tab, seconds: float) -> dict:
  """What the page measured at the end of some seconds."""
  await asyncio.sleep(seconds)
  return await tab.evaluate("window.figures")


class Slow(Echo):
  """Echoes in units of 320 ms at 16 kHz."""

  media = dataclasses.replace(MEDIA, unit_ms=320, sample_rate=16_000)


def test_the_clock_is_the_servers(tmp_path):
  """The sound of longer units is not dropped as late, and the microphone is heard at the rate of the model."""

  async def talk():
    async with running(Slow(slots=1)) as (server, address), page(address, tmp_path, ALLOW) as tab:
      await talking(tab)
      found = [await figures(tab, 0.6) for _ in range(10)]
      assert 0.3 < max(figures["waiting"] or 0 for figures in found) < 0.32 + 0.12
      (visit,) = server.visits
      assert abs(visit.source.dropped - visit.source.missing) < 16_000  # as much came as was taken

  asyncio.run(talk())
