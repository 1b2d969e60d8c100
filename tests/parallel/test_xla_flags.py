"""jaxlib's crash in YNN fusions: the flag that avoids it, and the commands that crashed, as a user starts them.

That no product has the rank that crashes is tested in test_product_ranks.py.
"""

import logging
import os
import subprocess
import sys

import jax
import pytest

from tests import ROOT
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.eval import ablation
from wanstreamer_jax.parallel import xla_flags
from wanstreamer_jax.parallel.xla_flags import FLAG, avoid_ynn_crash
from wanstreamer_jax.weights import agent

OFF = f"{FLAG}="


@pytest.fixture
def fresh(monkeypatch):
  """A machine with the fault, on which jax has started nothing."""
  monkeypatch.delenv("XLA_FLAGS")
  monkeypatch.setattr(xla_flags, "jaxlib_version", lambda: "0.10.2")
  monkeypatch.setattr(xla_flags, "backend_exists", lambda: False)
  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6", "1", "x86_64")))
  return monkeypatch


def flags_after() -> str | None:
  avoid_ynn_crash()
  return os.environ.get("XLA_FLAGS")


@pytest.mark.parametrize(
  ("version", "expected"),
  [("0.10.1", None), ("0.10.2", OFF), ("0.11.0", OFF), ("0.11.1", None), ("0.11.2", None), (None, None)],
)
def test_only_faulty_versions_get_the_flag(fresh, version, expected):
  fresh.setattr(xla_flags, "jaxlib_version", lambda: version)
  assert flags_after() == expected


@pytest.mark.parametrize(("system", "processor"), [("darwin", "x86_64"), ("linux", "aarch64")])
def test_other_machines_have_no_fault(fresh, system, processor):
  fresh.setattr(sys, "platform", system)
  fresh.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", processor)))
  assert flags_after() is None


def test_other_flags_stay_and_are_added_to_once(fresh):
  fresh.setenv("XLA_FLAGS", "--xla_a=1")
  assert flags_after() == f"--xla_a=1 {OFF}"
  assert flags_after() == f"--xla_a=1 {OFF}"


def test_a_choice_in_xla_flags_stands(fresh):
  chosen = f"{FLAG}=-reduce --xla_a=1"
  fresh.setenv("XLA_FLAGS", chosen)
  assert flags_after() == chosen


def test_setting_the_flag_is_logged(fresh, caplog):
  with caplog.at_level(logging.INFO, "wanstreamer"):
    flags_after()
  assert [record.levelname for record in caplog.records] == ["INFO"]
  assert f"added {OFF}" in caplog.text


@pytest.mark.parametrize(("flags", "started", "words"), [("", True, "already read"), ("flags.txt", False, "flags.txt")])
def test_what_cannot_be_set_is_said_and_left_alone(fresh, caplog, flags, started, words):
  """jax has started a backend, or XLA_FLAGS names a file."""
  fresh.setenv("XLA_FLAGS", flags)
  fresh.setattr(xla_flags, "backend_exists", lambda: started)
  assert flags_after() == flags
  assert [record.levelname for record in caplog.records] == ["WARNING"]
  assert words in caplog.text


def test_a_backend_is_seen():
  jax.devices()
  assert xla_flags.backend_exists()


STARTED = "import jax; jax.devices(); "
SEEN = "import os; print(os.environ.get('XLA_FLAGS'))"


@pytest.mark.skipif(not xla_flags.is_faulty(xla_flags.jaxlib_version()), reason="this jaxlib has no fault")
@pytest.mark.parametrize(
  ("before", "module", "expected"),
  [
    ("", "wanstreamer_jax", OFF),
    ("", "wanstreamer_jax.errors", OFF),
    ("import jax; ", "wanstreamer_jax", OFF),  # imported, but not started: jax reads the flags later
    (STARTED, "wanstreamer_jax", "None"),
  ],
)
def test_importing_any_module_sets_the_flag(before, module, expected):
  done = python("-c", f"{before}import {module}; {SEEN}")
  assert done.stdout.strip() == expected
  assert ("already read" in done.stderr) == (before == STARTED)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
  """As a user starts it: the flags that conftest.py sets are taken away, and with them the eight devices."""
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  environment |= {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
  done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {done.stderr[-2000:]}"
  return done


def wanstreamer(*arguments: object) -> str:
  return python("-m", "wanstreamer_jax", *map(str, arguments)).stdout


CONFIG = '''"""Nano. Hypothesis: none."""
from configs import nano

def get_config():
  config = nano.get_config()
  config.data.session_units, config.data.units, config.eval.seconds = 25, 4, 4.0
  config.flow.steps = {steps}
  return config
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two config files and an exported nano agent."""
  folder = tmp_path_factory.mktemp("default_flags")
  for name, steps in (("plain", 2), ("one_step", 1)):
    (folder / f"{name}.py").write_text(CONFIG.format(steps=steps))
  agent.export_agent(nano_agent(), folder / "agent")
  return folder


def test_a_training_step_at_default_flags(folder):
  options = ablation.Options(
    configs=None, reference="", codecs="nano", init=None, seeds=1, steps=1, train_sessions=2, eval_sessions=2,
    runs="", data=str(folder / "records"), out="",
  )  # fmt: skip
  config = load_config(folder / "plain.py")
  ablation.make_records(config, nano_agent(), options)
  latents = ablation.records_folder(config, options) / "latents"
  changes = {"data.path": latents, "train.run": folder / "run", "train.steps": 1}
  overrides = [f"--config.{name}={value}" for name, value in changes.items()]
  assert "compiled the duplex step" in wanstreamer("train", "--config", folder / "plain.py", *overrides)
  assert (folder / "run").is_dir()


def test_an_eval_at_default_flags(folder):
  sizes = ("--sessions", 2, "--baseline-sessions", 2, "--batch", 2, "--seconds", 4)
  assert "eval.json" in wanstreamer("eval", "--checkpoint", folder / "agent", "--out", folder / "eval", *sizes)


@pytest.mark.slow
def test_an_ablation_cell_at_default_flags(folder):
  files = ("--reference", folder / "plain.py", "--configs", folder / "one_step.py", "--codecs", folder / "agent")
  sizes = ("--seeds", 1, "--steps", 1, "--train-sessions", 2, "--eval-sessions", 2)
  places = ("--runs", folder / "runs", "--data", folder / "data", "--out", folder / "table.md")
  wanstreamer("ablate", *files, *sizes, *places)
  assert "one_step" in (folder / "table.md").read_text()
