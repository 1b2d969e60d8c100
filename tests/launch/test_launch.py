"""The scripts under launch/: shellcheck is content, and what they print instead of running is what should be run."""

import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests import ROOT

LAUNCH = ROOT / "launch"
POD = {"ZONE": "us-east5-b", "ACCELERATOR": "v6e-256"}


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
  outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
  return subprocess.run(
    ["bash", str(LAUNCH / script), *arguments], capture_output=True, text=True, env=outside | environment, timeout=60
  )


@pytest.mark.parametrize("script", sorted(file.name for file in LAUNCH.glob("*.sh")))
def test_shellcheck(script):
  checker = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
  if checker is None:
    pytest.skip("shellcheck is not installed")
  found = subprocess.run([checker, "--external-sources", LAUNCH / script], capture_output=True, text=True, cwd=ROOT)
  assert found.returncode == 0, found.stdout


@pytest.fixture
def gcloud(tmp_path):
  """A gcloud that notes how it was called, and knows one pod whose state is in a file; (environment, notes)."""
  (tmp_path / "bin").mkdir()
  (tmp_path / "notes").write_text("")
  script = tmp_path / "bin" / "gcloud"
  script.write_text(
    f"""#!/bin/bash
cd {tmp_path}
printf '%s\\n' "$*" >>notes
case "$*" in
  *describe*) if [ -e state ]; then cat state; else echo 'ERROR: NOT_FOUND' >&2; exit 1; fi ;;
  *'queued-resources create'*) echo ACTIVE >state ;;
  *'queued-resources delete'*) rm state ;;
esac
"""
  )
  script.chmod(0o755)
  environment = POD | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
  return environment, lambda: (tmp_path / "notes").read_text().splitlines()


def test_a_pod_from_nothing_to_training_and_back(gcloud, tmp_path):
  environment, notes = gcloud
  found = run("tpu_pod.sh", "up", "wan1", "--config=a.py", "--config.train.run=gs://b/x y", **environment)
  assert found.returncode == 0, found.stderr
  create, start = notes()[1], notes()[-1]
  assert create == (
    "compute tpus queued-resources create wan1 --zone=us-east5-b --accelerator-type=v6e-256 "
    "--runtime-version=v2-alpha-tpuv6e --node-id=wan1"
  )
  assert "tpu-vm ssh wan1 --zone=us-east5-b --worker=all --command=if kill -0" in start
  assert "-m wanstreamer_jax train --config=a.py --config.train.run=gs://b/x\\ y)" in start
  assert any("scp" in note and "wan1:wanstreamer.tar.gz" in note for note in notes())
  again = run("tpu_pod.sh", "create", "wan1", **environment)
  assert "wan1 is there already: ACTIVE" in again.stderr
  assert sum("queued-resources create" in note for note in notes()) == 1
  (tmp_path / "state").write_text("SUSPENDED\n")  # it was taken away
  assert run("tpu_pod.sh", "resume", "wan1", "--config=a.py", **environment).returncode == 0
  assert sum("queued-resources delete wan1" in note for note in notes()) == 1
  assert sum("queued-resources create" in note for note in notes()) == 2
  for _ in range(2):
    assert run("tpu_pod.sh", "delete", "wan1", **environment).returncode == 0
  assert sum("queued-resources delete" in note for note in notes()) == 2


def test_slices_are_nodes(gcloud):
  environment, notes = gcloud
  found = run("tpu_pod.sh", "--dry-run", "up", "wan1", "--config=a.py", SLICES="2", SPOT="1", **environment)
  lines = found.stdout.splitlines()
  assert found.returncode == 0, found.stderr
  assert notes() == []  # nothing was run
  assert lines[0].endswith("--node-count=2 --node-prefix=wan1 --spot ")
  for node in ("wan1-0", "wan1-1"):
    assert sum(f"tpu-vm ssh {node} " in line for line in lines) == 2  # sets up, starts
  for command in ("status", "follow", "stop", "delete"):
    assert run("tpu_pod.sh", "--dry-run", command, "wan1", **environment).stdout.startswith("gcloud compute tpus ")


@pytest.mark.parametrize(
  ("arguments", "environment", "message"),
  [
    (["create"], POD, "which pod?"),
    (["create", "wan1"], {}, "ZONE is not set"),
    (["create", "wan;1"], POD, "may contain only a-z, 0-9 and -"),
    (["--dry-run", "create", "wan1"], POD | {"ACCELERATOR": "v3-8"}, "expected v5litepod-N, v5p-N or v6e-N"),
    (["--dry-run", "run", "wan1"], POD, "what to train?"),
    (["fly", "wan1"], POD, "unknown command 'fly'"),
  ],
)
def test_what_a_pod_cannot_do(arguments, environment, message):
  found = run("tpu_pod.sh", *arguments, **environment)
  assert found.returncode == 2
  assert message in found.stderr


def test_an_error_of_gcloud_is_not_taken_for_absence(gcloud, tmp_path):
  environment, _ = gcloud
  (tmp_path / "bin" / "gcloud").write_text("#!/bin/bash\necho 'ERROR: you are not logged in' >&2; exit 1\n")
  found = run("tpu_pod.sh", "create", "wan1", **environment)
  assert found.returncode == 2
  assert "error: gcloud: ERROR: you are not logged in" in found.stderr


def test_one_machine_with_gpus_and_a_job_of_slurm():
  alone = run("gpu.sh", "--dry-run", "--config=a b.py").stdout.splitlines()
  assert alone[-1].endswith(r"-m wanstreamer_jax train --config=a\ b.py ")
  assert "launcher 1 --" in alone[-1]
  assert any(line.endswith("launch/setup.sh cuda ") for line in alone)
  slurm = run(
    "gpu.sh", "--dry-run", "--config=a.py", SLURM_JOB_ID="1", SLURM_SUBMIT_DIR="/shared/w"
  ).stdout.splitlines()
  assert slurm[-1].startswith("exec srun --kill-on-bad-exit=1 /shared/w/.venv/bin/python ")


def test_processes_on_this_machine():
  found = run("local.sh", "--dry-run", "2", "--config=a b.py", WANSTREAMER_VENV="/nowhere").stdout.splitlines()
  assert found[0].endswith("launch/setup.sh")
  assert [line.rpartition(" --process ")[2] for line in found[-2:]] == ["0", "1"]
  assert found[-1].startswith("/nowhere/bin/python -m wanstreamer_jax train '--config=a b.py' --coordinator localhost:")
  assert "is not a number of processes" in run("local.sh", "--config=a.py").stderr


def test_the_example_trains_what_is_planned_for_its_pod():
  from wanstreamer_jax.config_files import load_config

  text = (LAUNCH / "tpu_pod.sh").read_text()
  (choice,) = re.findall(r"--config=configs/pods\.py:(\S+)", text)
  (accelerator,) = re.findall(r"ACCELERATOR=(\S+)", text.partition("set -euo")[0])
  config, (chip, chips) = load_config(ROOT / f"configs/pods.py:{choice}"), accelerator.split("-")
  topology = choice.split(",")[1]
  assert (topology.split(":")[0], math.prod(map(int, topology.split(":")[1].split("x")))) == (chip, int(chips))
  planned = f"| {topology}, {chips} chips | {config.train.mesh} | {config.data.batch}, "
  assert planned in (ROOT / "docs/scale.md").read_text()


@pytest.mark.parametrize("script", ["tpu_pod.sh", "gpu.sh", "local.sh"])
def test_help(script):
  found = run(script, "--help")
  assert found.returncode == 0
  assert f"bash launch/{script}" in found.stdout
  assert "set -euo" not in found.stdout
