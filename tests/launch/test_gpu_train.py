"""launch/gpu_train.sh: renders, trains and exports where media libraries and record readers are missing."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import ROOT
from tests.bench.test_gpu import BLOCK
from wanstreamer_jax.data.duplex_world import flite
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.train.metric_log import read_metrics
from wanstreamer_jax.weights.agent import load_agent

SCRIPT = ROOT / "launch/gpu_train.sh"


def script(*arguments, **environment):
  return subprocess.run(
    ["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=os.environ | environment
  )  # fmt: skip


def test_a_bare_image_has_all_that_is_imported():
  code = f"""{BLOCK}
from wanstreamer_jax.cli import main
from wanstreamer_jax.data import render
from wanstreamer_jax.train import loop, metric_log, prefetch, stages
from wanstreamer_jax.weights import agent
stages.get_stage("duplex")
assert metric_log._tensorboard(None, 0) is None
assert list(prefetch._by_grain(lambda step: step, range(3), 1)) == [0, 1, 2]
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_script_runs_whole_on_a_bare_image(tmp_path):
  (tmp_path / "sitecustomize.py").write_text(BLOCK)
  done = script(
    "--small", "--minutes=1", "--config.data.units=4", OUT=str(tmp_path / "out"), PYTHON=sys.executable,
    PYTHONPATH=str(tmp_path), JAX_PLATFORMS="cpu",
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  assert load_agent(tmp_path / "out/agent").config.name == "nano"
  assert read_metrics(tmp_path / "out")
  log = (tmp_path / "out/log").read_text()
  assert "of them; each unit was used" in log
  files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
  assert len(files) <= 8  # what comes back from the device
  assert max(file.stat().st_size for file in files) < 16e6


def test_a_detached_run_outlives_the_call_that_starts_it(tmp_path):
  """The first call returns while it goes on; the second waits, takes its results, and fails as it failed."""
  copy = tmp_path / "checkout"
  for name in ("launch", "wanstreamer_jax/weights/demo"):
    (copy / name).mkdir(parents=True)
  shutil.copy(SCRIPT, copy / "launch")
  slow = tmp_path / "python"  # stands for a Python whose training takes a while and fails
  slow.write_text('#!/bin/sh\ncase "$*" in *" train "*) sleep 4; exit 3 ;; esac\n')
  slow.chmod(0o755)
  environment = os.environ | {"PYTHON": str(slow), "OUT": str(tmp_path / "out")}
  call = lambda *arguments: subprocess.run(
    ["bash", str(copy / "launch/gpu_train.sh"), "--minutes=1", f"--detach={tmp_path / 'run'}", *arguments],
    capture_output=True, text=True, env=environment,
  )  # fmt: skip
  first = call("--wait=1")
  assert first.returncode == 0
  assert "the same command again waits" in first.stderr
  assert not (tmp_path / "out").exists()
  assert "has a run with other options: --minutes 1" in call("--seed=5").stderr
  second = call("--wait=30")
  assert second.returncode != 0
  assert "training ended with status 3" in (tmp_path / "out/log").read_text()
  (tmp_path / "other").mkdir()
  (tmp_path / "other/file").touch()
  assert "is not empty" in script("--detach", str(tmp_path / "other")).stderr
  assert "--wait is soon: expected" in script("--wait=soon").stderr


@pytest.mark.skipif(shutil.which("flite") is None, reason="the program flite is not installed")
def test_packed_flite_speaks_without_the_machines_libraries(tmp_path, monkeypatch):
  installed = flite.version()
  done = script("--pack", str(tmp_path / "flite"))
  assert done.returncode == 0, done.stderr
  monkeypatch.setenv(flite.FOLDER, str(tmp_path / "flite"))
  program = flite.command()
  assert all(pathlib.Path(part).parent == tmp_path / "flite" for part in (program[0], program[-1]))
  listed = subprocess.run([program[0], "--list", *program[1:]], capture_output=True, text=True).stdout
  outside = [line for line in listed.splitlines() if "=>" in line and str(tmp_path) not in line]
  assert outside == []
  said = subprocess.run([*program, "--version"], capture_output=True, text=True).stdout
  assert installed in said


def test_a_folder_without_flite_is_refused(tmp_path, monkeypatch):
  monkeypatch.setenv(flite.FOLDER, str(tmp_path))
  with pytest.raises(ConfigError, match="--pack FOLDER"):
    flite.require()


def test_it_says_what_it_does_not_know():
  done = script("--minute", "8")
  assert done.returncode == 2
  assert "--minute: unknown" in done.stderr
  assert script("--minutes", "soon").returncode == 2


def test_the_script_is_clean_shell():
  shellcheck = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
  if shellcheck is None:
    pytest.skip("shellcheck is not installed (extra `dev`)")
  done = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
