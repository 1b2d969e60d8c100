"""`wanstreamer eval`: which options go together, and what is done with several checkpoints."""

import pytest

from wanstreamer_jax.cli import evaluate
from wanstreamer_jax.cli.main import main


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--robustness", "--minutes", "5"], "--robustness and --minutes are evaluations of their own"),
    (["--records", "x", "--robustness"], "--records and --robustness are evaluations of their own"),
    (["--checkpoint", "a", "b", "--robustness"], "--robustness takes one --checkpoint: got 2"),
    (["--judges", "--minutes", "5"], "--judges goes with the plain evaluation: drop it or --minutes"),
    (["--minutes", "5", "--seconds", "60"], "--minutes and --seconds are both the length of a session"),
    (["--no-stream"], "--no-stream goes with --records DIR"),
  ],
)
def test_options_that_do_not_go_together(options, message, capsys):
  assert main(["eval", *options]) == 2
  assert message in capsys.readouterr().err


def test_sessions_have_60_s_unless_told(monkeypatch):
  seen = []
  monkeypatch.setattr(evaluate, "evaluate_checkpoint", lambda *args: seen.append(args))
  assert not main(["eval", "--checkpoint", "a", "--out", "x"])
  assert not main(["eval", "--checkpoint", "a", "--out", "x", "--seconds", "20", "--sessions", "5", "--judges"])
  assert seen == [
    ("a", "x", {"seconds": 60.0}, False), ("a", "x", {"seconds": 20.0, "sessions": 5}, True),
  ]  # fmt: skip


def test_every_run_has_a_folder_and_all_have_a_table(monkeypatch, tmp_path, capsys):
  state = {"speaking": 0.5, "listening": 0.5, "transitions": 0.5}
  errors = {"audio": state, "video": state, "text": {"tokens": 1.0, "onsets": 2.0}}

  def one(checkpoint, out, changes, judges):
    right = {"mean": 0.5 if checkpoint == "a" else 0.7, "n": 9}
    return {"closed_loop": {"model": {"answer": right, "sessions": 9}}, "teacher_forced": {"model": errors}}

  monkeypatch.setattr(evaluate, "evaluate_checkpoint", one)
  assert not main(["eval", "--checkpoint", "a", "b", "--out", str(tmp_path)])
  assert "60% ± 10" in capsys.readouterr().out
  assert "- run 1: `b`" in (tmp_path / "seeds.md").read_text()
  assert (tmp_path / "seeds.json").exists()
