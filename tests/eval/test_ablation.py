"""Ablations: every config builds, cells share trainings exactly when they may, the report says what was run."""

import dataclasses
import json
import math
import pathlib

import jax
import pytest
from flax import nnx

from tests.helpers.agents import random_weights
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.cli.evaluate import train_duplex
from wanstreamer_jax.config_files import flat_fields, load_config
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.eval import ablation, ablation_report
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.units import build_layout
from wanstreamer_jax.weights.agent import resolve
from wanstreamer_jax.weights.store import export_weights

FILES = sorted(pathlib.Path(ablation.FOLDER).glob("*.py"))
OPTIONS = ablation.Options(
  configs=None, reference="configs/tiny.py", codecs="demo", init=None, seeds=2, steps=7, train_sessions=4,
  eval_sessions=3, runs="runs/x", data="data_cache/x", out="docs/x.md",
)  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_ablation_is_a_short_diff_that_builds(file):
  source = file.read_text()
  assert source.count("\n") <= 15
  assert "Hypothesis:" in source
  config, reference = load_config(file), load_config("configs/tiny.py")
  mine, theirs = flat_fields(config), flat_fields(reference)
  assert 1 <= sum(mine[name] != theirs[name] for name in mine) <= 2
  build_layout(config)
  jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))


def cells(*names: str) -> dict[tuple[str, int], ablation.AblationCell]:
  files = [OPTIONS.reference, *(f"{ablation.FOLDER}/{name}.py" for name in names)]
  return {(cell.name, cell.seed): cell for cell in ablation.plan(files, OPTIONS)}


def test_configs_that_only_sample_otherwise_share_their_training():
  plan = cells("solver_steps_1", "solver_steps_8", "no_history", "text_lead_2")
  run = {key: cell.training.train.run for key, cell in plan.items()}
  assert run["tiny", 0] == run["solver_steps_1", 0] == run["solver_steps_8", 0]
  assert len({run[key] for key in (("tiny", 0), ("tiny", 1), ("no_history", 0), ("text_lead_2", 0))}) == 4
  assert plan["solver_steps_1", 0].config.flow.steps == 1
  assert plan["solver_steps_1", 0].training.flow.steps == plan["tiny", 0].config.flow.steps
  assert plan["tiny", 1].training.train.seed == plan["tiny", 1].training.data.seed == 1
  assert {cell.training.train.steps for cell in plan.values()} == {7}
  assert len({cell.fingerprint() for cell in plan.values()}) == len(plan)


def test_other_first_weights_are_another_training(tmp_path):
  plan = lambda init: ablation.plan([OPTIONS.reference], dataclasses.replace(OPTIONS, init=init))[0]
  fresh = plan(None)
  abstract = jax.eval_shape(lambda: WanStreamer(fresh.config, rngs=nnx.Rngs(0)))
  export_weights(random_weights(abstract), fresh.config, tmp_path)
  tuned = plan(str(tmp_path))
  assert fresh.training.train.run != tuned.training.train.run
  assert fresh.fingerprint() != tuned.fingerprint()
  abstract = jax.eval_shape(lambda: WanStreamer(tuned.config, rngs=nnx.Rngs(0)))
  begun = get_stage("duplex").load(resolve(tuned.training.train.init), abstract, tuned.config)
  assert begun.tokens.embedding[...].shape[0] == tuned.config.model.vocab
  with pytest.raises(CheckpointError, match="no checkpoint at nowhere"):
    plan("nowhere")


def test_only_what_changes_records_makes_other_records():
  plan = cells("no_history", "window_12", "text_lead_0", "text_lead_2")
  folders = {name: ablation.records_folder(cell.config, OPTIONS) for (name, seed), cell in plan.items() if seed == 0}
  assert folders["tiny"] == folders["no_history"] == folders["window_12"]
  assert len({folders[name] for name in ("tiny", "text_lead_0", "text_lead_2")}) == 3
  other = dataclasses.replace(OPTIONS, codecs="others")
  assert ablation.records_folder(plan["tiny", 0].config, other) != folders["tiny"]


def result(name: str, seed: int, answer: float | None, error: float) -> dict:
  loop = {"right_answers": {"mean": answer, "n": 9}, "sessions": 20}
  forced = {"audio": {"speaking": error}, "video": {"speaking": error}, "text": {"tokens": None}}
  variants = ("model", "shuffled_user", "text_only", "copy_previous")
  return {
    "name": name, "seed": seed, "parameters": 1_200_000, "trained_units": 320_000, "fingerprint": "x",
    "figures": {
      "options": {"sessions": 20, "seconds": 20.0},
      "closed_loop": dict.fromkeys(("truth", *variants), loop),
      "teacher_forced": dict.fromkeys(variants, forced),
    },
  }  # fmt: skip


def test_report_has_means_spreads_and_baselines(tmp_path):
  results = [result("tiny", 0, 0.8, 0.5), result("tiny", 1, 0.6, 0.7), result("no_history", 0, None, 0.9)]
  out = tmp_path / "docs" / "ablations.md"
  ablation_report.write(out, results, {"no_history": "No past.\nHypothesis: worse."})
  text = out.read_text()
  assert "# Ablations at tiny size" in text
  assert "| **tiny** | 2 | 0.70 ± 0.10 |" in text
  assert "| no_history | 1 | - |" in text
  assert "_tiny: shuffled_user_" in text
  assert "- **no_history**: No past. Hypothesis: worse." in text
  assert (tmp_path / "docs" / "ablations.png").stat().st_size > 10_000
  assert not list(out.parent.glob("*.tmp"))


def test_cell_of_one_seed_has_no_spread():
  assert ablation_report.cell([0.123], 2) == "0.12"
  assert ablation_report.cell([math.nan, 1.0], 1) == "1.0"
  assert ablation_report.cell([math.nan], 1) == "-"


def test_a_finished_cell_is_not_run_again(tmp_path, monkeypatch):
  options = dataclasses.replace(OPTIONS, runs=str(tmp_path))
  cell = ablation.plan([OPTIONS.reference], options)[0]
  file = ablation.result_file(cell, options)
  file.parent.mkdir(parents=True)
  file.write_text(json.dumps({"fingerprint": cell.fingerprint()}))
  monkeypatch.setattr(ablation, "make_records", lambda *_: (_ for _ in ()).throw(RuntimeError("ran")))
  ablation.run_cell(cell, None, options, None)  # calling the training function would fail
  moved = ablation.plan([OPTIONS.reference], dataclasses.replace(OPTIONS, runs="elsewhere", data="elsewhere"))[0]
  assert moved.fingerprint() == cell.fingerprint()
  stale = dataclasses.replace(cell, sessions=99)
  with pytest.raises(RuntimeError, match="ran"):
    ablation.run_cell(stale, None, options, None)


CONFIG_FILE = '''"""Nano. Hypothesis: none."""
from configs import nano
from wanstreamer_jax.config import Config

def get_config() -> Config:
  config = nano.get_config()
  config.data.session_units, config.data.units, config.data.batch = 25, 4, 2
  config.eval.seconds, config.train.checkpoint_every, config.train.mesh = 4.0, 2, "data=1"
  config.{change}
  return config
'''


@pytest.mark.slow
def test_ablate_from_nothing_to_the_table(tmp_path, monkeypatch):
  changes = {"plain": "train.log_every = 1", "one_step": "flow.steps = 1", "deaf": "layout.committed_history = False"}
  for name, change in changes.items():
    (tmp_path / f"{name}.py").write_text(CONFIG_FILE.format(change=change))
  files = {name: str(tmp_path / f"{name}.py") for name in changes}
  options = ablation.Options(
    configs=[files["one_step"], files["deaf"]], reference=files["plain"], codecs="nano", init=None, seeds=1, steps=2,
    train_sessions=2, eval_sessions=2, runs=str(tmp_path / "runs"), data=str(tmp_path / "data"),
    out=str(tmp_path / "out.md"),
  )  # fmt: skip
  monkeypatch.setattr(ablation, "load_agent", lambda path: nano_agent())
  ablation.ablate(options, train_duplex)
  text = (tmp_path / "out.md").read_text()
  assert all(f"{name}" in text for name in changes)
  assert len([run for run in (tmp_path / "runs").iterdir() if run.name != "results"]) == 2
  ablation.ablate(options, None)  # everything is there: nothing trains
  assert (tmp_path / "out.md").read_text() == text
