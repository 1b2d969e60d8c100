"""bench gpu: parts in order within the budget, partial results kept, and nothing that a bare GPU image lacks."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest

from tests import ROOT
from tests.conftest import assert_close
from wanstreamer_jax.bench import gpu

SMALL, LARGE = gpu.Scale(True, "xla", 2), gpu.Scale(False, "cudnn", 2)
ABSENT = ("av", "grain", "array_record", "portpicker", "ml_collections", "tensorboardX", "tensorflow_datasets")
BLOCK = f"""
import sys
class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in {ABSENT}:
      raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_every_part_leaves_its_figures_at_once(tmp_path, monkeypatch):
  out, seen = tmp_path / "results.json", []

  def part(scale):
    seen.append(list(json.loads(out.read_text())["parts"]) if out.exists() else [])
    return {"ms": 1.0}, ["one line"]

  def broken(scale):
    raise ValueError("no such kernel\nat all")

  monkeypatch.setattr(gpu, "PARTS", {"a": (1, part), "b": (1, broken), "c": (99, part), "d": (1, part)})
  lines = []
  result = gpu.bench_gpu(out, 50, LARGE, lines.append)
  assert seen == [[], ["a", "b", "c"]]
  assert json.loads(out.read_text()) == result
  assert result["parts"]["a"]["figures"] == {"ms": 1.0}
  assert result["parts"]["b"]["failed"] == "ValueError: no such kernel at all"
  assert result["parts"]["c"]["skipped"].startswith("needs about 99 s, and ")
  assert [line.partition(":")[0] for line in lines] == ["one line", "a", "b", "c", "one line", "d"]


def test_parts_stand_in_the_order_of_their_worth_and_fit_into_nine_minutes():
  assert list(gpu.PARTS) == ["step", "step_patch2", "attention", "train", "train_demo"]
  assert sum(seconds for seconds, _ in gpu.PARTS.values()) <= 540


def test_the_large_configs_are_valid():
  step = LARGE.config(gpu.LARGE, gpu.FULL_HISTORY)
  assert (step.layout.window, step.media.height, step.flow.steps) == (None, 192, 4)
  shape = gpu.Shape.of(step)
  assert shape.queries == 256
  assert shape.keys > 100_000  # a minute
  assert LARGE.config(gpu.LARGE, f"model.attention={LARGE.attention}").model.attention == "cudnn"


def test_the_variants_of_attention_give_the_same_numbers():
  arrays = gpu.attention_inputs(gpu.Shape.of(SMALL.config(gpu.LARGE, gpu.FULL_HISTORY)))
  expected, *others = [jax.jit(f)(*arrays) for name, f in gpu.ATTENTION_VARIANTS.items() if "cudnn" not in name]
  assert len(others) == 2
  for found in others:
    assert_close(found, expected)


def test_a_bare_image_has_all_that_is_imported(tmp_path):
  names = "gpu.Scale(True, 'xla', 2).config(gpu.LARGE), train_step.get_stage('duplex')"
  code = f"{BLOCK}\nfrom wanstreamer_jax.bench import gpu, train_step\nprint({names})"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_script_runs_whole_on_a_bare_image(tmp_path):
  (tmp_path / "sitecustomize.py").write_text(BLOCK)
  environment = os.environ | {"OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
  command = ["bash", str(ROOT / "launch/gpu_bench.sh"), "--small", "--attention", "xla"]
  done = subprocess.run(command, capture_output=True, text=True, env=environment)
  assert done.returncode == 0, done.stdout + done.stderr
  parts = json.loads((tmp_path / "out/results.json").read_text())["parts"]
  assert list(parts) == list(gpu.PARTS)
  assert all("figures" in part for part in parts.values()), parts
  assert parts["step"]["figures"]["step"]["median_ms"] > 0
  assert (tmp_path / "out/log").read_text().count("done after") == len(parts)


def test_the_script_is_clean_shell():
  shellcheck = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
  if shellcheck is None:
    pytest.skip("shellcheck is not installed (extra `dev`)")
  done = subprocess.run([shellcheck, str(ROOT / "launch/gpu_bench.sh")], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
