"""`wanstreamer data`: records are made, counted and exported as the command line says."""

import argparse
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import ROOT
from tests.helpers.fake_sessions import FakeSource, small_config
from wanstreamer_jax.bench.loader import bench_loader
from wanstreamer_jax.cli.data import share
from wanstreamer_jax.cli.main import run
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.source import DuplexSource, world_config
from wanstreamer_jax.data.duplex_world.world import make_session
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.records import session_from_truth
from wanstreamer_jax.data.stats import stats
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import DataError

MAKE = ["data", "make", "--config", "configs/base.py"]


def overrides(units: int) -> list[str]:
  return ["--config.media.height=16", "--config.media.width=16", f"--config.data.session_units={units}"]


def world_of(units: int) -> Config:
  config = Config()
  config.media.height = config.media.width = 16
  config.data.session_units = units
  return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  config = small_config()
  path = tmp_path_factory.mktemp("commands") / "fake"
  make(config, FakeSource(config, 5, 8), path, progress=False)
  return path


def test_stats_count_what_is_there(folder):
  figures = stats(folder, TextTokenizer())
  assert (figures["sessions"], figures["units"], figures["sampled_sessions"]) == (5, 40, 5)
  assert figures["hours"] == pytest.approx(40 * 0.16 / 3600)
  # "red" sounds in unit 2, "circle" in the second half of it; the user types.
  assert figures["speaking"] == {"user": 0, "agent": 4 / 32, "both": 0, "nobody": 28 / 32}
  assert figures["text"]["agent"] | {"words": 10, "spill_rate": 0, "drop_rate": 0} == figures["text"]["agent"]
  assert figures["vocabulary"]["words"] == 3
  assert set(figures["vocabulary"]["most_common"]) == {"hello", "red", "circle"}
  assert figures["events"] == {"user question": 5}


def test_duplex_world_becomes_records(tmp_path, capsys):
  config, out = world_of(25), str(tmp_path / "world")
  run([*MAKE, *overrides(25), "--out", out, "--sessions", "2", "--split", "heldout", "--first-seed", "7"])
  opened = RecordFolder(out)
  session = make_session(8, world_config(config), "heldout")
  back = session_from_truth(opened.read_session(1).truth, opened.read_units(1))
  assert (back.agent.words, back.user.speech, back.events) == (session.agent.words, session.user.speech, session.events)
  assert np.array_equal(back.agent.video, session.agent.video)
  assert "mouth" in back.agent.tracks
  assert {"name": "duplex_world", "split": "heldout", "first_seed": 7}.items() <= opened.manifest["source"].items()
  assert opened.manifest["stats"]["text"]["agent"]["dropped"] == 0
  assert "2 sessions, 50 units" in capsys.readouterr().out


def test_stats_and_bench_are_printed(folder, capsys):
  run(["data", "stats", str(folder), "--verify"])
  bench_loader(small_config(), str(folder), seconds=0.01)
  for seconds in (1000, 1e-6):
    bench_loader(small_config(), str(folder), seconds=0.01, step_seconds=seconds, hosts=2)
  with pytest.raises(DataError, match=r"data\.batch is 4, which does not divide over 3 hosts"):
    bench_loader(small_config(), str(folder), hosts=3)
  printed = capsys.readouterr().out
  assert "sessions" in printed
  assert "all files match the manifest's hashes" in printed
  assert "units/s" in printed
  assert "steps of 1e+03 s need 0 units/s on each of 2 hosts" in printed  # 4 x 4 units
  assert "steps of 1e-06 s need 8000000 units/s on each of 2 hosts: only 0.0" in printed


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--source", "recordings"], "needs --manifest"),
    (["--manifest", "m.jsonl"], "--manifest and --roles go with"),
    (["--skip-bad"], "--skip-bad goes with --source recordings"),
    (["--speech", "folder"], "--speech goes with --source sounds"),
    (["--source", "sounds", "--speech", "no/folder"], "no/folder holds no sound files"),
  ],
)
def test_impossible_sources_are_refused(tmp_path, options, message):
  with pytest.raises(DataError, match=message):
    run([*MAKE, "--out", str(tmp_path / "x"), *options])
  assert not any(tmp_path.iterdir())


def test_an_unknown_split_is_refused():
  with pytest.raises(DataError, match="split is 'best': expected one of train, heldout"):
    DuplexSource.of(small_config(), "best", 0, 1)


def test_shares_are_counted_from_zero():
  assert (share("0/1"), share("3/8")) == ((0, 1), (3, 8))
  for text in ("8/8", "-1/8", "1", "1/", "a/b", "0/0"):
    with pytest.raises(argparse.ArgumentTypeError, match="is not I/N with I from 0 to N - 1"):
      share(text)


def test_a_share_says_that_others_go_on(tmp_path, capsys):
  out = str(tmp_path / "world")
  command = [*MAKE, *overrides(13), "--out", out, "--sessions", "2", "--shard"]
  run([*command, "1/2"])
  assert "share 1/2 is done; the last of the other shares finishes the folder" in capsys.readouterr().out
  run([*command, "0/2"])
  assert "2 sessions, 26 units" in capsys.readouterr().out
  assert RecordFolder(out).manifest["skipped"] == 0


TFDS = """
import sys
from wanstreamer_jax.data.tfds_builder import export
units = export(sys.argv[1], sys.argv[2]).as_data_source(split="train")
import numpy as np
unit = units[13]
np.savez(sys.argv[3], **{name: value for name, value in unit.items() if name != "world"})
assert len(units) == 40 and unit["world"] == b"name: Ada. likes: tea."
assert "tensorflow" not in sys.modules
"""


def test_tfds_export_holds_the_records_without_tensorflow(folder, tmp_path):
  unit = tmp_path / "unit.npz"
  subprocess.run([sys.executable, "-c", TFDS, folder, tmp_path / "tfds", unit], check=True, capture_output=True)
  record, exported = RecordFolder(folder).read_units(1, 5, 1)[0], np.load(unit)
  assert (exported["session"], exported["unit"]) == (1, 5)
  assert all(np.array_equal(exported[name], record[name]) for name in record.dtype.names)


BEAM = """
import sys
import numpy as np
from wanstreamer_jax.data.tfds_builder import export
if __name__ == "__main__":
  records, out = sys.argv[1:]
  runs = ("", ()), ("DirectRunner", ["--direct_num_workers=1"]), (
    "DirectRunner", ["--direct_num_workers=2", "--direct_running_mode=multi_processing"])
  first, *others = [export(records, f"{out}/{i}", *run).as_data_source(split="train") for i, run in enumerate(runs)]
  for other in others:
    assert len(first) == len(other) == 40
    for i in range(40):
      assert all(np.array_equal(first[i][name], other[i][name]) for name in first[i])
"""


def test_beam_gives_the_same_dataset_for_any_number_of_workers(folder, tmp_path):
  pytest.importorskip("apache_beam")
  script = tmp_path / "export.py"
  script.write_text(BEAM)
  run = subprocess.run([sys.executable, script, folder, tmp_path], capture_output=True, text=True, env=at_root())
  assert run.returncode == 0, run.stderr


def at_root():
  root = str(ROOT)
  return {**os.environ, "PYTHONPATH": root}


def test_a_runner_that_is_not_there(folder, tmp_path):
  message = "is not a runner" if importlib.util.find_spec("apache_beam") else "needs Apache Beam: pip install"
  command = [sys.executable, "-m", "wanstreamer_jax", "data", "tfds", folder, "--out", tmp_path, "--runner", "Snail"]
  done = subprocess.run(command, capture_output=True, text=True, env=at_root())
  assert message in done.stderr.splitlines()[-1]
