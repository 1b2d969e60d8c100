"""The whole evaluation on duplex_world with random weights: plumbing, files, and what must hold by construction."""

import dataclasses
import json

import numpy as np
import pytest

from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.config import EvalConfig
from wanstreamer_jax.data.duplex_world.source import world_config
from wanstreamer_jax.data.duplex_world.world import make_session
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import ConfigError, UserError
from wanstreamer_jax.eval import duplex_world, evaluate, report, scores
from wanstreamer_jax.eval.baselines import PUPPETS, VARIANTS
from wanstreamer_jax.eval.duplex_world import SimulatedUser

TOKENIZER = TextTokenizer()
OPTIONS = EvalConfig(sessions=2, baseline_sessions=2, batch=2, seconds=4.0)


@pytest.fixture(scope="module")
def agent():
  return nano_agent("layout.window=3", "layout.world_text=16", "data.units=4")


@pytest.fixture(scope="module")
def evaluation(agent):
  return evaluate.evaluate_agent(agent, OPTIONS, progress=False)


def test_every_variant_stands_beside_the_truth(evaluation):
  loop = evaluation.figures["closed_loop"]
  assert list(loop) == ["truth", *VARIANTS, *PUPPETS]
  for name, figures in loop.items():
    assert figures["sessions"] == 2, name
    assert figures["lip_correlation"]["n"] <= 2
  assert evaluation.figures["teacher_forced"]["units"]["all"] == 2 * 24  # 25 units are six crops of 4
  codecs = evaluation.figures["codecs"]
  assert set(codecs["codec"]) == set(codecs["copy_previous"]) == set(codecs["shuffled"])
  assert codecs["copy_previous"]["psnr"]["mean"] > codecs["shuffled"]["psnr"]["mean"]


def test_report_files(evaluation, agent, tmp_path):
  files = report.write_report(evaluation, tmp_path / "out", agent.config.media, TOKENIZER)
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["eval.json", "eval.md", "eval.png"]
  text = files["eval.json"].read_text()
  assert "NaN" not in text
  assert json.loads(text)["options"]["sessions"] == 2
  assert files["eval.png"].stat().st_size > 50_000
  table = report.lines(evaluation.figures)
  first = next(index for index, line in enumerate(table) if line.startswith("Turn-taking  "))
  assert table[first + 1].startswith("turn-taking")
  assert "| turn-taking |" in files["eval.md"].read_text()
  assert any(line.startswith("Codecs") and "copy_previous" in line for line in table)


def test_report_into_a_file_fails_with_one_line(evaluation, agent, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write into"):
    report.write_report(evaluation, tmp_path / "file", agent.config.media, TOKENIZER)


@pytest.mark.parametrize("change", [{"sessions": 1}, {"batch": 1}, {"seconds": 1.0}])
def test_options_that_cannot_work(agent, change):
  with pytest.raises(ConfigError, match="expected at least"):
    evaluate.check(dataclasses.replace(OPTIONS, **change))


def test_the_scripted_agent_is_right_about_everything(agent):
  """The formulas, on sessions whose agent answers perfectly: nothing but the truth gets full marks."""
  world = dataclasses.replace(world_config(agent.config), units=125)
  parts = []
  for seed in (0, 5):
    c = duplex_world.scripted_conversation(make_session(seed, world, "heldout"), agent.config, TOKENIZER)
    parts.append(scores.score(c, agent.config.media, TOKENIZER))
  found = scores.summarise(scores.join(parts))
  assert found["answer"]["n"] >= 6
  for name in ("answer", "turn_taking", "responds"):
    assert found[name]["mean"] == 1.0, name
  assert found["false_take_over"]["mean"] in (0.0, pytest.approx(np.nan, nan_ok=True))
  assert found["response_latency"]["mean"] < 0.5
  assert found["lip_lag_ms"]["mean"] == pytest.approx(0.0, abs=40)
  assert found["lip_correlation"]["mean"] > 0.5
  assert found["drift_face/15s"]["mean"] < 0.05


def live(agent, seed: int, units: int, loud: set[int]) -> SimulatedUser:
  """A user who hears a tone in the units `loud`, else silence."""
  world = dataclasses.replace(world_config(agent.config), units=units)
  user, media = SimulatedUser(seed, world, "heldout"), agent.config.media
  tone = (0.3 * np.sin(0.05 * np.arange(media.samples))).astype(np.float32)
  for unit in range(units):
    sound, picture, _ = user.step(tone if unit - 1 in loud else 0 * tone)
    assert sound.shape == (media.samples,)
    assert picture.shape == (media.frames, media.height, media.width, 3)
  return user


def test_the_user_reacts_to_what_it_hears(agent):
  """Whoever is answered goes on sooner: 15 s of a user who hears an answer behind every question, or never one."""
  ignored = live(agent, 6, 94, set()).script(94)
  ends = [round(question.end / 0.16) for question in ignored.questions]
  answered = live(agent, 6, 94, {end + 2 for end in ends} | {end + 3 for end in ends}).script(94)
  assert ignored.questions[0] == dataclasses.replace(answered.questions[0], until=ignored.questions[0].until)
  assert answered.questions[1].end < ignored.questions[1].end - 1.0


@pytest.mark.slow
def test_ten_sessions_of_the_shipped_weights():
  """The demo agent beats its baselines in what law 10 asks for."""
  from wanstreamer_jax.weights.agent import load_agent

  shipped = load_agent("demo")
  options = dataclasses.replace(shipped.config.eval, sessions=10, baseline_sessions=10, batch=10)
  figures = evaluate.evaluate_agent(shipped, options).figures
  forced, loop = figures["teacher_forced"], figures["closed_loop"]
  for kind in ("audio", "video"):
    for baseline in ("copy_previous", "shuffled_user", "text_only"):
      assert forced["model"][kind]["all"] < forced[baseline][kind]["all"], (kind, baseline)
  assert forced["model"]["text"]["tokens"] < forced["shuffled_user"]["text"]["tokens"]
  for baseline in ("shuffled_user", "text_only", "copy_previous"):
    assert loop["model"]["answer"]["mean"] > loop[baseline]["answer"]["mean"]
    assert loop["model"]["turn_taking"]["mean"] > loop[baseline]["turn_taking"]["mean"]
