"""What the tests of the page share: a headless Chromium."""

import contextlib
import pathlib
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
  "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run",
  "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream",
  "--allow-loopback-in-peer-connection",
)  # fmt: skip
ALLOW = "--use-fake-ui-for-media-stream"  # camera and microphone, without being asked


@contextlib.asynccontextmanager
async def page(address: str, tmp_path: pathlib.Path, *flags: str, width: int = 900, height: int = 900):
  """A tab that shows `address`; nothing in it may go wrong unseen."""
  async_api = pytest.importorskip("playwright.async_api")
  if CHROMIUM is None:
    pytest.skip("no Chromium here: bash launch/test.sh --browser installs one")
  async with async_api.async_playwright() as playwright:
    context = await playwright.chromium.launch_persistent_context(
      str(tmp_path / "profile"), executable_path=CHROMIUM, headless=True, args=[*FLAGS, *flags],
      viewport={"width": width, "height": height},
    )  # fmt: skip
    tab, errors = context.pages[0], []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    await tab.goto(address)
    try:
      yield tab
    finally:
      await context.close()
    assert errors == []
