"""The way from other people's parts to an agent that is talked to, as docs/training.md prints it, at nano size.

The commands are those of the document. Each step that would take long with real parts is killed in its middle and
started again.
"""

import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import ROOT
from tests.helpers.brought_parts import write_everything

pytestmark = pytest.mark.slow
HEADING = "## The whole way, in miniature"
PROGRESS = {  # command -> files under its output that show that it is in its middle
  ("data", "make"): "{out}.partial/*.json",
  ("data", "encode"): "{out}.partial/*.json",
  ("train",): "{run}/checkpoints/[0-9]*/meta/metadata",
}
LIMIT = 1500  # seconds for one command


def commands() -> list[list[str]]:
  """The document's commands, split into words."""
  text = (ROOT / "docs" / "training.md").read_text()
  block = re.search(rf"^{re.escape(HEADING)}$.*?^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
  assert block, f"docs/training.md has no block of commands under {HEADING!r}"
  lines = block[1].replace("\\\n", " ").split("\n")
  return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def start(words: list[str], folder: pathlib.Path) -> subprocess.Popen:
  assert words[0] == "wanstreamer", words
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
  command = [sys.executable, "-m", "wanstreamer_jax", *words[1:]]
  with open(folder / "log.txt", "ab") as log:
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def run(words: list[str], folder: pathlib.Path) -> None:
  process = start(words, folder)
  assert process.wait(LIMIT) == 0, f"{shlex.join(words)}:\n{(folder / 'log.txt').read_text()[-3000:]}"


def progress_of(words: list[str]) -> str | None:
  """A pattern of files that appear while the command works; None for commands that take no time."""
  for name, pattern in PROGRESS.items():
    if tuple(words[1 : 1 + len(name)]) == name:
      values = {"out": option(words, "--out"), "run": option(words, "--config.train.run")}
      return pattern.format(**values)
  return None


def option(words: list[str], name: str) -> str | None:
  for word, after in zip(words, [*words[1:], None]):
    if word == name:
      return after
    if word.startswith(f"{name}="):
      return word.partition("=")[2]
  return None


def kill_in_the_middle(words: list[str], pattern: str, folder: pathlib.Path) -> bool:
  """Starts the command and kills it when files match the pattern. False if it ended before."""
  process, deadline = start(words, folder), time.monotonic() + LIMIT
  while not any(folder.glob(pattern)):
    if process.poll() is not None:
      return False
    assert time.monotonic() < deadline, f"{shlex.join(words)} shows no progress in {pattern}"
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  return True


def free_port() -> int:
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def test_the_way_of_the_document(tmp_path):
  write_everything(tmp_path / "parts")
  (tmp_path / "configs").symlink_to(ROOT / "configs")
  port, server, killed = str(free_port()), None, 0
  try:
    for words in commands():
      words = [word.replace("8080", port) for word in words]
      if words[1] == "serve":
        server = start([word for word in words if word != "&"], tmp_path)
        wait_for_port(int(port), server)
        continue
      pattern = progress_of(words)
      if pattern is not None:
        killed += kill_in_the_middle(words, pattern, tmp_path)
      run(words, tmp_path)
  finally:
    if server is not None:
      server.terminate()
      server.wait(60)
  assert killed >= 3


def wait_for_port(port: int, server: subprocess.Popen) -> None:
  deadline = time.monotonic() + LIMIT
  while time.monotonic() < deadline and server.poll() is None:
    with socket.socket() as tried:
      if tried.connect_ex(("127.0.0.1", port)) == 0:
        return
    time.sleep(0.2)
  raise AssertionError("the server did not open its port")
