"""Several processes as one job: the same numbers, one writer, the same end for all, and no wait for the dead."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests import ROOT
from tests.conftest import assert_close
from tests.helpers.toy_stage import toy_config, toy_stage
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel import hosts, launcher
from wanstreamer_jax.train import loop, provenance
from wanstreamer_jax.train.metric_log import MEASURED, read_metrics
from wanstreamer_jax.weights.store import checkpoint_steps, find_weights, read_checkpoint

OPTIONS = ("train.log_every=3", "train.checkpoint_every=7", "train.eval_every=20")


def command(run, steps: int, slow: float = 0.0, options=OPTIONS) -> list[str]:
  return [sys.executable, "tests/helpers/toy_stage.py", str(run), str(steps), str(slow), *options]


def environment() -> dict[str, str]:
  return os.environ | {
    "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
  }  # fmt: skip


class Job:
  """Processes of one job, each with its own command; `end` waits for them."""

  def __init__(self, commands: list[list[str]]):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment()}
    self.processes = [subprocess.Popen(command, **pipes) for command in commands]

  def wait_for_step(self, run, step: int) -> None:
    deadline = time.monotonic() + 300
    while max((line["step"] for line in read_metrics(run)), default=0) < step:
      assert all(process.poll() is None for process in self.processes), self.end()
      assert time.monotonic() < deadline
      time.sleep(0.01)

  def wait_for_checkpoint(self, run, step: int) -> None:
    """Checkpoints are written beside the steps that follow them."""
    self.wait_for_step(run, step)
    while step not in checkpoint_steps(run / "checkpoints"):
      assert all(process.poll() is None for process in self.processes), self.end()
      time.sleep(0.01)

  def end(self) -> list[tuple[int, str, str]]:
    """(status, stdout, stderr) of every process."""
    texts = [process.communicate(timeout=300) for process in self.processes]
    return [(process.returncode, *text) for process, text in zip(self.processes, texts)]


def run_job(run, steps: int, processes: int, slow: float = 0.0, options=OPTIONS) -> Job:
  return Job(launcher.commands_of(command(run, steps, slow, options), processes))


def assert_well(ends) -> None:
  assert [status for status, _, _ in ends] == [0] * len(ends), ends


def without_timing(run) -> list[dict]:
  return [{name: line[name] for name in line if name not in MEASURED} for line in read_metrics(run)]


def saved(run, part: str = "params") -> dict[str, np.ndarray]:
  return read_checkpoint(find_weights(run), part)


# Numbers.


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_loss_and_gradients_are_those_of_one_process_and_one_process_writes(tmp_path, processes):
  """Without clipping Adam's first moment after one update is the gradient times 1 - beta1."""
  one, other = tmp_path / "one", tmp_path / "other"
  config = toy_config(one, steps=1, clip=1e6).freeze()
  loop.train(toy_stage(), config)
  ends = run_job(other, 1, processes, options=("train.clip=1e6",)).end()
  assert_well(ends)
  assert "compiled" in ends[0][1]
  assert not any("step" in out for _, out, _ in ends[1:])
  (mine,), (found,) = ([line for line in read_metrics(run) if "loss" in line] for run in (one, other))
  assert found["loss"] == pytest.approx(mine["loss"], rel=1e-5)
  assert found["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-5)
  moments = [{name: x for name, x in saved(run, "optimizer").items() if ".mu." in name} for run in (one, other)]
  assert len(moments[0]) == 3
  for name, expected in moments[0].items():
    assert_close(moments[1][name], expected, 1e-5)
  assert sorted(file.name for file in other.iterdir()) == [
    "checkpoints", "code.json", "config.json", "lock", "metrics.jsonl", "pictures", "tensorboard", "tokenizer.json",
  ]  # fmt: skip
  code = json.loads((other / "code.json").read_text())
  assert code["revision"] is None or len(code["revision"]) == 40
  assert code["sha256"] == provenance.code()["sha256"]


@pytest.mark.slow
def test_a_checkpoint_goes_from_one_process_to_two_and_back(tmp_path):
  """Bits that are read are those that were written; the continuation is checked by the losses of one process."""
  alone, moving = tmp_path / "alone", tmp_path / "moving"
  shared = {"schedule": "constant", "log_every": 1, "checkpoint_every": 2, "eval_every": 0}
  loop.train(toy_stage(), toy_config(alone, steps=6, **shared).freeze())
  loop.train(toy_stage(), toy_config(moving, steps=2, **shared).freeze())
  options = [f"train.{name}={value}" for name, value in shared.items()] + ["train.mesh=fsdp=2"]
  ends = run_job(moving, 4, 2, options=options).end()
  assert_well(ends)
  assert "from step 2" in ends[0][1]
  loop.train(toy_stage(), toy_config(moving, steps=6, **shared).freeze())
  mine, found = ([line for line in read_metrics(run) if "loss" in line] for run in (alone, moving))
  assert [line["batch_step"] for line in found] == list(range(6))
  assert_close([line["loss"] for line in found], [line["loss"] for line in mine], 1e-5)
  assert_close(saved(moving), saved(alone), 1e-4)


# Ends.


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """A run of two processes that nothing happened to."""
  run = tmp_path_factory.mktemp("undisturbed")
  assert_well(run_job(run, 60, 2).end())
  return run


def assert_equal_runs(found, expected) -> None:
  assert without_timing(found) == without_timing(expected)
  for part in ("params", "ema", "optimizer"):
    before = saved(expected, part)
    assert all(np.array_equal(values, before[name]) for name, values in saved(found, part).items())


@pytest.mark.slow
def test_sigterm_to_one_saves_in_all_at_the_same_step(tmp_path, undisturbed):
  job = run_job(tmp_path, 60, 2, slow=0.1)
  job.wait_for_step(tmp_path, 9)
  job.processes[1].send_signal(signal.SIGTERM)
  ends = job.end()
  assert [status for status, _, _ in ends] == [130, 130], ends
  stopped = checkpoint_steps(tmp_path / "checkpoints")[-1]
  for _, _, err in ends:
    assert f"wanstreamer: stopped at step {stopped} of 60, saved; the same command continues from there" in err
    assert "Traceback" not in err
  assert 9 < stopped < 60
  assert_well(run_job(tmp_path, 60, 2).end())
  assert_equal_runs(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_do_not_wait_for_one_that_was_killed(tmp_path, victim):
  job = run_job(tmp_path, 1000, 2, slow=0.05, options=("train.log_every=3", "train.checkpoint_every=20"))
  job.wait_for_checkpoint(tmp_path, 20)
  job.wait_for_step(tmp_path, 27)  # in the middle of a checkpoint they would wait for a barrier, until the heartbeat
  job.processes[victim].kill()
  begin = time.monotonic()
  status, _, err = job.end()[1 - victim]
  assert time.monotonic() - begin < 20  # the heartbeat
  assert 20 in checkpoint_steps(tmp_path / "checkpoints")
  if victim == 0 and status == -signal.SIGABRT:  # process 0 holds jax's store, and jax may be the first to miss it
    assert "This most likely indicates that another task died" in err
    return
  assert status == 75, err
  assert f"process {1 - victim} of 2 lost another process (" in err
  assert "start the job again to continue from the last one" in err


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_the_launcher_starts_a_killed_job_again_and_it_repeats_the_undisturbed_one(tmp_path, processes, undisturbed):
  run = tmp_path / "run"
  expected = undisturbed
  if processes != 2:
    expected = tmp_path / "expected"
    assert_well(run_job(expected, 60, processes).end())
  module = "wanstreamer_jax.parallel.launcher"
  job = Job([[sys.executable, "-m", module, str(processes), "--restarts", "2", "--", *command(run, 60, slow=0.1)]])
  job.wait_for_checkpoint(run, 7)
  parent = job.processes[0].pid
  children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=True).stdout.split()
  os.kill(int(children[-1]), signal.SIGKILL)
  ((status, out, err),) = job.end()
  assert status == 0, err
  assert f"process {processes - 1} ended by SIGKILL" in err
  assert "restarting (1 of 2)" in err
  assert f"continuing {run} from step " in out
  assert_equal_runs(run, expected)


@pytest.mark.slow
def test_a_truncated_checkpoint_is_left_by_all_processes(tmp_path):
  options = (*OPTIONS, "train.mesh=fsdp=2")
  assert_well(run_job(tmp_path, 14, 2, options=options).end())
  for file in (tmp_path / "checkpoints/14/state").glob("**/d/*"):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  ends = run_job(tmp_path, 21, 2, options=options).end()
  assert_well(ends)
  assert "checkpoints/14 is incomplete or damaged" in ends[0][1]
  assert f"continuing {tmp_path} from step 7" in ends[0][1]
  assert checkpoint_steps(tmp_path / "checkpoints") == [14, 21]
  assert [line["step"] for line in read_metrics(tmp_path) if "loss" in line] == list(range(1, 22))


def test_processes_that_disagree_are_named(tmp_path):
  commands = launcher.commands_of(command(tmp_path, 5), 2)
  commands[1].insert(5, "train.learning_rate=0.5")
  for status, _, err in Job(commands).end():
    assert status == 2
    assert "processes disagree on train.learning_rate: 0.5 in process 1 (" in err
    assert "0.001 in the 1 others, as in process 0 (" in err
    assert "start all with the same command, config and code" in err
    assert "Traceback" not in err
  assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("where", ["the first alone", pytest.param("another alone", marks=pytest.mark.slow)])
def test_what_ends_one_process_for_good_ends_all_launchers(tmp_path, where):
  """One launcher a host, as on a pod. The first: its run is being trained. Another: a config that does not load."""
  commands = launcher.commands_of(command(tmp_path, 5), 2)
  if where == "the first alone":
    holder = (tmp_path / "lock").open("w")
    fcntl.lockf(holder, fcntl.LOCK_EX)
    process, reason = 0, f"{tmp_path} is being trained by another process; wait for it, or set train.run"
  else:
    commands[1].insert(5, "train.steps=-1")
    process, reason = 1, "train.steps is -1: expected at least 1"
  prefix = [sys.executable, "-m", "wanstreamer_jax.parallel.launcher", "1", "--restarts", "3", "--"]
  ends = Job([[*prefix, *mine] for mine in commands]).end()
  host = f" (process {process}, {socket.gethostname()})"
  for number, (status, _, err) in enumerate(ends):
    assert status == 2, err
    assert f"wanstreamer: error: {reason}{'' if number == process else host}\n" in err
    assert "restarting" not in err
    assert "Traceback" not in err


# Without other processes.


def test_differences_in_words():
  tables = [{"units.py": "a", "jax": "1"}, {"units.py": "b", "jax": "1"}, {"jax": "2"}, {"units.py": "a", "jax": "1"}]
  assert hosts.difference(tables, ["h0", "h1", "h2", "h3"]) == (
    "the processes disagree on units.py (and 1 more): 'b' in process 1 (h1); absent in process 2 (h2); 'a' in the 2 "
    "others, as in process 0 (h0); start all with the same command, config and code"
  )


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"coordinator": "localhost:1"}, "belong together: give all three, or none"),
    ({"coordinator": "localhost:1", "processes": 2, "process": 2}, "--process is 2: expected 0 to 1"),
    (
      {"coordinator": "localhost", "processes": 2, "process": 0},
      "expected HOST:PORT of process 0, as in 10",
    ),
  ],
)
def test_flags_that_do_not_fit(flags, message):
  with pytest.raises(ConfigError, match=message):
    hosts.join(**flags)


def test_a_process_by_itself_agrees_with_itself():
  hosts.join("localhost:1", 1, 0)
  assert not jax.distributed.is_initialized()
  hosts.check_same({"a": 1})
  assert (hosts.from_first(3), hosts.gather_texts("é")) == (3, ["é"])
  assert hosts.on_first({"x": 1}, lambda tree: tree["x"] + 1) == 2


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ("UNKNOWN: Gloo AllGather failed: [external/gloo/pair.cc:547] Connection closed by peer [127.0.0.1]:6054", True),
    ("FAILED_PRECONDITION: Gloo all-reduce failed: Timed out waiting 30000ms for recv operation", True),
    ("DEADLINE_EXCEEDED: Barrier timed out. Id: b::0.\n\nRPC: /xla.coordination.CoordinationService/Barrier", True),
    ("UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1", True),
    ("NCCL operation ncclAllReduce failed: remote process exited or there was a network error", True),
    ("Gloo AllGather failed: buffers of 4 and of 8 bytes", False),
    ("ALREADY_EXISTS: key\n\nRPC: /xla.coordination.CoordinationService/InsertKeyValue", False),
    ("UNAVAILABLE: Error reading gs://bucket/run: 503 Service Unavailable", False),
    ("[Errno 104] Connection reset by peer", False),
    ("NCCL operation ncclCommInitRank failed: invalid usage", False),
    ("RESOURCE_EXHAUSTED: Out of memory while allocating for peer access", False),
    ("no field 'barrier' in /data/peers", False),
  ],
)
def test_only_a_lost_peer_is_called_one(words, expected, monkeypatch):
  monkeypatch.setattr(hosts, "several", lambda: True)
  assert (hosts.lost(ValueError(words)) is not None) == expected
  assert hosts.lost(ConfigError(words)) is None


def test_one_task_of_slurm_on_a_node_owns_its_gpus(monkeypatch):
  monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x4)")
  monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
  assert hosts._devices_of_one_task() == list(range(8))
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
  assert hosts._devices_of_one_task() == [0, 1]
  monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "8(x4)")
  assert hosts._devices_of_one_task() is None


def test_the_git_revision_says_whether_files_were_changed(tmp_path, monkeypatch):
  git = lambda *arguments: subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)
  package = tmp_path / "wanstreamer_jax"
  package.mkdir()
  (package / "units.py").write_text("x = 1\n")
  monkeypatch.setattr(provenance, "PACKAGE", package)
  found = provenance.git_revision.__wrapped__
  assert found() == {"revision": None, "dirty": None}
  for arguments in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c"]):
    git(*arguments)
  assert (len(found()["revision"]), found()["dirty"]) == (40, False)
  (package / "units.py").write_text("x = 2\n")
  assert found()["dirty"]
  monkeypatch.setenv(provenance.REVISION, "abc")
  assert found() == {"revision": "abc", "dirty": False}


# The launcher, with processes that are quick.


def launch(program: str, processes: int, restarts: int = 1) -> subprocess.CompletedProcess:
  command = [sys.executable, "-m", "wanstreamer_jax.parallel.launcher", str(processes), "--restarts", str(restarts)]
  command += ["--", sys.executable, "-c", f"import os, sys, time; me = int(sys.argv[-1]); {program}"]
  return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_the_launcher_gives_up_after_its_restarts():
  found = launch("print('hello', flush=True); os.kill(os.getpid(), 9) if me else time.sleep(.5)", 2)
  assert found.returncode == 1
  assert found.stderr.count("process 1 ended by SIGKILL") == 2
  assert "restarting (1 of 1)" in found.stderr
  assert "giving up after 1 restarts" in found.stderr
  assert (found.stdout.count("hello"), found.stderr.count("[1] hello")) == (2, 2)


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (2, 2), (130, 130)])
def test_the_launcher_does_not_repeat_what_cannot_change(status, expected):
  found = launch(f"sys.exit({status} if me else {75 if status == 2 else status})", 2)
  assert found.returncode == expected
  assert "again" not in found.stderr


def test_the_launcher_shows_what_it_would_start(capsys):
  assert launcher.main(["2", "--dry-run", "--", "wanstreamer", "train", "--config=a b.py"]) == 0
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith("wanstreamer train '--config=a b.py' --coordinator localhost:")
  assert second == first.removesuffix("0") + "1"
  assert launcher.main(["1", "--dry-run", "--", "wanstreamer", "train"]) == 0
  assert capsys.readouterr().out == "wanstreamer train\n"
