"""`wanstreamer data check` and `data make` on recordings: what is wrong is said before anything is made."""

import json

import pytest

from tests.helpers.brought_parts import write_recordings
from wanstreamer_jax.cli.main import main
from wanstreamer_jax.data.record_writer import read_report

SMALL = ["--config", "configs/nano.py", "--config.data.session_units=30", "--config.data.units=10"]


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
  """Two good recordings, the second with a silent user, and one whose words are in milliseconds."""
  folder = tmp_path_factory.mktemp("calls")
  manifest = write_recordings(folder, count=2)
  lines = [json.loads(line) for line in manifest.read_text().splitlines()]
  words = [{"text": "late", "start": 1200.0, "end": 1500.0}]
  bad = {**lines[0], "id": "bad", "agent": {**lines[0]["agent"], "words": words}}
  manifest.write_text("".join(json.dumps(line) + "\n" for line in (*lines, bad)))
  return manifest


def make(manifest, out, *options):
  return main(
    ["data", "make", "--source", "recordings", "--manifest", str(manifest), "--out", str(out), *SMALL, *options]
  )


def test_make_says_what_is_wrong_before_it_makes_anything(calls, tmp_path, capsys):
  assert make(calls, tmp_path / "out") == 2
  error = capsys.readouterr().err
  assert "calls.jsonl:3: agent.words: 1 of 1 start after the recording's end at 9.00 s" in error
  assert error.count("\n") == 1
  assert list(tmp_path.iterdir()) == []
  assert make(calls, tmp_path / "out", "--skip-bad", "--roles", "both") == 0
  printed = capsys.readouterr().out
  assert "6 recordings (roles counted), 4 usable" in printed
  assert "quality: 4 recordings read, 2 with something to look at" in printed
  assert "user silent: 1 (call-1)" in printed
  assert "agent silent: 1 (call-1/swapped)" in printed
  report = read_report(tmp_path / "out")
  assert report["sessions"] == 8  # 57 units each: a whole session and a shorter one
  assert len(report["skipped"]) == 2
  assert report["unused_units"] == 0


def test_check_lists_everything_and_drops_what_was_named(calls, tmp_path, capsys):
  assert main(["data", "check", str(calls), *SMALL]) == 2
  printed, error = capsys.readouterr()
  assert "1 recordings of " in error
  assert "calls.jsonl:3: agent.words: 1 of 1 start after" in printed
  assert "2 whole sessions and 2 shorter ones; 0.0 s at ends give none, 0.0 s of longer streams are cut" in printed
  out = calls.with_name("good.jsonl")
  drop = ["--quality", "--drop", "silent,unreadable", "--out", str(out)]
  assert main(["data", "check", str(calls), *SMALL, *drop]) == 2
  printed = capsys.readouterr().out
  assert "good.jsonl: 1 recordings; 2 left out\n  call-1: user silent\n  bad: unreadable" in printed
  assert json.loads(out.read_text())["id"] == "call-0"
  assert main(["data", "check", str(out), *SMALL]) == 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--drop", "silent"], "--drop, --out and --quality go together"),
    (["--quality", "--drop", "loud", "--out", "x.jsonl"], "--drop 'loud': no flag has it; the flags are agent clipped"),
    (["--quality", "--drop", "silent", "--out", "x.jsonl"], "paths are relative to it; write it into"),
    (["--config.data.units=50"], "data.session_units is 30, but training crops are data.units = 50 long"),
    (["--config.model.vocab=50"], "tokens, but model.vocab is 50"),
    (["--audio-codec", "runs/none"], "give both --audio-codec and --video-codec"),
  ],
)
def test_options_that_do_not_fit(calls, options, message, capsys):
  assert main(["data", "check", str(calls), *SMALL, *options]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
