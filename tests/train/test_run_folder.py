"""Runs in object stores, with a bucket in memory: all that a local run leaves is there, and errors are one line."""

import json
import os
import pathlib
import re
import socket
import sys

import fsspec
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from tests.helpers.toy_stage import toy_config, toy_stage
from wanstreamer_jax.errors import LostHostError, TrainingError
from wanstreamer_jax.train import checkpoint, lock, loop, run_folder
from wanstreamer_jax.train.checkpoint import Checkpoints
from wanstreamer_jax.train.run_folder import RunFolder
from wanstreamer_jax.weights.store import checkpoint_steps, export_weights, load_export


class Bucket(MemoryFileSystem):
  protocol = ("gcs", "gs")
  store: dict = {}
  pseudo_dirs = [""]
  broken = ""

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).removeprefix("gs://"))

  def _open(self, path, mode="rb", **options):
    if Bucket.broken:
      raise OSError(Bucket.broken)
    return super()._open(path, mode, **options)


@pytest.fixture
def bucket(monkeypatch):
  """{path: content} of what gs:// holds, without locks, which are quick to be given up."""
  monkeypatch.setattr(lock, "BEAT", 0.05)
  monkeypatch.setattr(lock, "PATIENCE", 1.0)
  monkeypatch.setattr(lock, "SETTLE", 0.01)
  monkeypatch.setattr(Bucket, "store", {})
  monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
  fsspec.register_implementation("gcs", Bucket, clobber=True)
  backend._FileSystemSpecBackend._get_filesystem.cache_clear()
  yield lambda: {path: file.getvalue() for path, file in Bucket.store.items() if not path.endswith("/lock")}
  _registry.pop("gcs")
  backend._FileSystemSpecBackend._get_filesystem.cache_clear()
  Bucket.clear_instance_cache()


def test_a_run_in_a_bucket_and_its_continuation(bucket, tmp_path, monkeypatch):
  """Checkpoints lie elsewhere: TensorStore speaks to stores by itself, not through fsspec."""
  opened = RunFolder.__init__

  def with_local_checkpoints(self, path):
    opened(self, path)
    self.checkpoints = tmp_path / "checkpoints"

  monkeypatch.setattr(RunFolder, "__init__", with_local_checkpoints)
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  for steps in (4, 6):
    loop.train(toy_stage(), toy_config("gs://bucket/run", steps=steps, schedule="constant").freeze())
  found = bucket()
  assert {"/bucket/run/config.json", "/bucket/run/code.json", "/bucket/run/pictures/6.txt"} <= set(found)
  lines = [json.loads(line) for line in found["/bucket/run/metrics.jsonl"].splitlines()]
  assert [line["step"] for line in lines if "loss" in line] == list(range(1, 7))
  assert json.loads(found["/bucket/run/config.json"])["train"]["steps"] == 6
  assert sum("/tensorboard/events" in path for path in found) == 2
  assert not list(pathlib.Path().iterdir())


def test_only_what_changed_is_copied_and_not_too_often(bucket, monkeypatch):
  with RunFolder("gs://bucket/run") as run:
    (run.local / "a.txt").write_text("one")
    run.copy()
    run._copying.result()
    (run.local / "b.txt").write_text("two")
    run.copy()  # too soon
    assert sorted(bucket()) == ["/bucket/run/a.txt"]
    Bucket.store["/bucket/run/a.txt"].truncate(0)
  assert bucket() == {"/bucket/run/a.txt": b"", "/bucket/run/b.txt": b"two"}


def test_a_bucket_that_breaks_is_a_warning_until_the_end(bucket, monkeypatch, capsys):
  monkeypatch.setattr(run_folder, "EVERY", 0.0)
  message = r"cannot reach gs://bucket/run: OSError: Connection refused; check the bucket's name, the network and the"
  with RunFolder("gs://bucket/run") as run:
    (run.local / "a.txt").write_text("one")
    monkeypatch.setattr(Bucket, "broken", "Connection refused")
    run.copy()
    while not run._copying.done():
      pass
    run.copy()  # says what failed the last time
    assert re.search("warning: " + message, capsys.readouterr().out)
    monkeypatch.setattr(Bucket, "broken", "")
  assert bucket() == {"/bucket/run/a.txt": b"one"}
  run = RunFolder("gs://bucket/run").__enter__()
  (run.local / "b.txt").write_text("two")
  monkeypatch.setattr(Bucket, "broken", "Connection refused")
  with pytest.raises(TrainingError, match=message):
    run.__exit__(None, None, None)
  monkeypatch.setattr(Bucket, "broken", "")


def test_a_checkpoint_that_a_bucket_refuses_may_be_tried_again(bucket, monkeypatch):
  """The launcher starts the job again: the store's bad minutes are nobody's bad input."""
  checkpoints = object.__new__(Checkpoints)
  checkpoints.folder, checkpoints._saving = epath.Path("gs://bucket/run/checkpoints"), 3

  def unreachable(folder):
    raise OSError("Connection refused")

  monkeypatch.setattr(checkpoint, "checkpoint_steps", unreachable)
  failure = checkpoints._failed(OSError("Service unavailable"))
  assert "cannot write the checkpoint of step 3 to gs://bucket/run/checkpoints: Service unavailable" in str(failure)
  assert failure.status == LostHostError.status


def test_a_bucket_without_its_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  backend._FileSystemSpecBackend._get_filesystem.cache_clear()
  with pytest.raises(TrainingError, match=r"gs://bucket/run needs a package: .*; pip install gcsfs"):
    loop.train(toy_stage(), toy_config("gs://bucket/run").freeze())


LOCK = "/bucket/run/lock"


def test_a_second_job_is_refused_and_the_first_goes_on(bucket):
  message = rf"gs://bucket/run is being trained by process {os.getpid()} on {socket.gethostname()}; wait for it, or set"
  with RunFolder("gs://bucket/run") as run:
    with pytest.raises(TrainingError, match=message):
      RunFolder("gs://bucket/run").__enter__()
    (run.local / "a.txt").write_text("one")
  assert bucket() == {"/bucket/run/a.txt": b"one"}
  assert LOCK not in Bucket.store


def test_a_run_whose_job_was_killed_goes_on(bucket, capsys):
  Bucket().pipe(f"gs:/{LOCK}", b'{"host": "gone", "process": 7, "id": "x", "beats": 3}')
  with RunFolder("gs://bucket/run") as run:
    run.copy()
    assert "gs://bucket/run/lock is held by process 7 on gone: waiting 1 s to see whether" in capsys.readouterr().out


def test_who_lost_the_run_to_another_job_ends_and_leaves_its_lock(bucket):
  taken = b'{"host": "other", "process": 8, "id": "y", "beats": 1}'
  run = RunFolder("gs://bucket/run").__enter__()
  (run.local / "a.txt").write_text("one")
  Bucket().pipe(f"gs:/{LOCK}", taken)
  run._lease._beating.join()  # it looks, and ends
  for stop in (run.copy, lambda: run.__exit__(None, None, None)):
    with pytest.raises(TrainingError, match=r"gs://bucket/run was taken over by process 8 on other while this job"):
      stop()
  assert Bucket.store[LOCK].getvalue() == taken
  assert bucket() == {}


def test_of_two_jobs_that_come_at_once_one_is_refused(bucket, monkeypatch):
  def wait(seconds):  # meanwhile the other one writes
    Bucket().pipe(f"gs:/{LOCK}", b'{"host": "other", "process": 8, "id": "y", "beats": 1}')

  monkeypatch.setattr(lock.time, "sleep", wait)
  with pytest.raises(TrainingError, match="is being trained by process 8 on other"):
    RunFolder("gs://bucket/run").__enter__()


def test_exports_and_unfinished_checkpoints_in_a_bucket(bucket):
  config = toy_config("unused").freeze()
  export_weights({"w": np.array([[1.0, 2.0]])}, config, "gs://bucket/agent", "f32")
  found, values = load_export("gs://bucket/agent")
  assert (found, values["w"].tolist()) == (config, [[1.0, 2.0]])
  for step in (1, 2):
    Bucket().pipe(f"gs://bucket/run/checkpoints/{step}/meta/metadata", b"{}")
  Bucket().pipe("gs://bucket/run/checkpoints/1/commit_success.txt", b"")
  assert checkpoint_steps("gs://bucket/run/checkpoints") == [1]
