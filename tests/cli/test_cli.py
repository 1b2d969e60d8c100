"""The command line: help that is quick and has examples, errors on one line with the right status, no traceback."""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import wave

import numpy as np
import pytest

from tests import ROOT
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax import errors
from wanstreamer_jax.cli import inspect_report, main
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.world_file import write_world
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.weights import agent as agent_weights
from wanstreamer_jax.weights import store

NANO = str(ROOT / "configs" / "nano.py")
HELP_SECONDS = 0.8


def tree(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], argparse.ArgumentParser]:
  """{(): the program, ("inspect",): its parser, ("inspect", "layout"): its parser, ...}."""
  out = {path: parser}
  for name, child in children(parser).items():
    out.update(tree(child, (*path, name)))
  return out


def children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
  groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
  return {name: child for group in groups for name, child in group.choices.items()}


COMMANDS = tree(main.build_parser())


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
  command = [sys.executable, "-m", "wanstreamer_jax", *arguments]
  return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


def one_error_line(capsys: pytest.CaptureFixture[str]) -> str:
  """The only line on stderr."""
  captured = capsys.readouterr()
  assert captured.err.count("\n") == 1, captured.err
  assert captured.err.startswith("wanstreamer: ")
  return captured.err


@pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
def test_every_command_has_help_with_examples(path, capsys):
  with pytest.raises(SystemExit) as stop:
    main.main([*path, "--help"])
  text = capsys.readouterr().out
  assert stop.value.code == 0
  if path:
    assert f"examples:\n  wanstreamer {path[0]}" in text, f"{' '.join(path)} --help shows no example"
  assert children(COMMANDS[path]) or callable(COMMANDS[path].get_default("handler"))


@pytest.mark.parametrize("path", [path for path in COMMANDS if len(path) < 2], ids=" ".join)
def test_help_is_quick(path):
  seconds = []
  for _ in range(5):  # the best of a few: other tests may be running beside this one
    start = time.perf_counter()
    assert program(*path, "--help").returncode == 0
    seconds.append(time.perf_counter() - start)
    if min(seconds) < HELP_SECONDS:
      return
  pytest.fail(f"{' '.join(path)} --help took {min(seconds):.2f} s, more than {HELP_SECONDS}")


def test_help_imports_nothing_heavy():
  code = "import sys; from wanstreamer_jax.cli import main; main.build_parser(); print(*sys.modules)"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  heavy = {"jax", "numpy", "flax", "av", "grain", "orbax", "matplotlib", "scipy"}
  assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "COMMAND"),
    (["dance"], "invalid choice: 'dance'"),
    (["inspect"], "see wanstreamer inspect --help"),
    (["inspect", "layout"], "--config"),
    (["inspect", "layout", "--config", "missing.py"], "no config file 'missing.py'"),
    (["inspect", "layout", "--config", NANO, "--unts", "2"], "unrecognized arguments: --unts"),
    (["inspect", "layout", "--config", NANO, "--units", "0"], "'0' is not a whole number of at least 1"),
    (["inspect", "layout", "--config", NANO, "--units", "9999"], "use fewer --units"),
    (["inspect", "layout", "--config", NANO, "--png", "mask.jpg"], "ends in .png"),
    (["inspect", "layout", "--config", NANO, "--png", "nowhere/mask.png"], "cannot write nowhere/mask.png"),
    (["inspect", "layout", "--config", NANO, "--config.layout.comit_delay=2"], "did you mean 'commit_delay'?"),
    (["inspect", "layout", "--config", NANO, "--config.model.layers=two"], "model.layers"),
    (["inspect", "layout", "--config", NANO, "--config.media.unit_ms=100"], "is not a whole number"),
    (["inspect", "checkpoint", "missing"], "no checkpoint at missing"),
    (["stream", "missing.mp4", "--out", "o", "--checkpoint", "missing"], "missing.mp4 does not exist"),
    (["inspect", "checkpoint", "missing", "--config.a=1"], "takes no --config"),
    (["bench", "session", "--config.flow.steps=1"], "changes a field of a config file: give --config FILE too"),
    (["train", "--config", NANO, "--config.train.stage=dance"], "train.stage is 'dance'"),
    (["train", "--config", NANO, "--config.train.keep=0"], "train.keep is 0: expected at least 1"),
    (["train", "--config", NANO, "--config.train.log_every=-1"], "train.log_every is -1: expected at least 0"),
    (["train", "--config", "README.md"], "README.md is not a Python file"),
    (["inspect", "model", "--config", NANO, "--config.model.width=0"], "model.width is 0: expected at least 1"),
    (
      ["inspect", "model", "--config", NANO, "--config.video_codec.native.channels=(8,0,8)"],
      "video_codec.native.channels is (8, 0, 8)",
    ),
    (
      ["inspect", "model", "--config", NANO, "--config.audio_codec.source_filter.strides=()"],
      "audio_codec.source_filter.strides is empty",
    ),
    (["inspect", "model", "--config", NANO, "--config.model.norm_eps=0.0"], "expected a number above 0"),
    (["inspect", "model", "--config", NANO, "--config.layout.window=99999999999"], "expected a finite number"),
    (["eval", "--seconds", "inf"], "'inf' is not a number of at most"),
    (["eval", "--seed", "9" * 30], "is not a whole number of at most"),
    (["serve", "--port", "99999"], "is not a whole number of at most 65535"),
    (["serve", "--host", "nonsense.invalid", "--token", "x"], "--host nonsense.invalid --port 8765: "),
    (["data", "make", "--config", NANO, "--out", ""], "'' is not a folder"),
    (["data", "make", "--config", NANO, "--out", "/"], "'/' is not a folder"),
    (["client", "missing.mp4", "--server", "here:1", "--out", "o"], "begins with http:// or https://"),
    (["client", "missing.mp4", "--server", "http://127.0.0.1:9", "--out", "o"], "missing.mp4 does not exist"),
    (["aot", "--config", NANO, "--topology", "v5e:0x0", "--what", "step"], "topology 'v5e:0x0'"),
    (["aot", "--config", NANO, "--topology", "v5e:1000x1000", "--what", "step"], "of 1 to 16384 chips"),
    (["stream", "README.md", "--out", "o", "--text", "1e308:x"], "expected SECONDS:TEXT"),
  ],
)
def test_bad_input_ends_in_one_line(arguments, words, capsys):
  assert main.main(arguments) == 2
  assert words in one_error_line(capsys)


@pytest.mark.parametrize(
  ("raised", "status", "words"),
  [
    (errors.MediaError("two\nlines"), 2, "error: two lines"),
    (OSError(28, "No space left on device", "out/x"), 2, "error: out/x: No space left on device"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (KeyboardInterrupt("stopped at step 7, saved"), 130, "stopped at step 7, saved"),
    (ZeroDivisionError("oh"), 1, "ZeroDivisionError: oh (this is a bug"),
  ],
)
def test_exceptions_become_statuses(raised, status, words, monkeypatch, capsys):
  def explode(_):
    raise raised

  monkeypatch.setattr(main, "run", explode)
  assert main.main([]) == status
  assert words in one_error_line(capsys)
  monkeypatch.setenv("WANSTREAMER_DEBUG", "1")
  assert main.main([]) == status
  assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error():
  inspect = shlex.join([sys.executable, "-m", "wanstreamer_jax", "inspect", "layout", "--config", NANO])
  script = inspect + " | head -n 1; echo ${PIPESTATUS[0]}"
  done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT)
  assert done.stderr == ""
  assert done.stdout.split()[-1] in ("0", "141")


def test_a_closed_output_is_no_error():
  command = shlex.join([sys.executable, "-m", "wanstreamer_jax", "inspect", "model", "--config", NANO]) + " >&-"
  done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
  assert (done.returncode, done.stderr) == (0, "")


WAITING = """
import signal, time
from wanstreamer_jax.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have switched it off
main.run = lambda _: (print("ready", flush=True), time.sleep(60))
raise SystemExit(main.main([]))
"""


def test_ctrl_c_ends_cleanly():
  pipe, command = subprocess.PIPE, [sys.executable, "-c", WAITING]
  with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as child:
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=20)
  assert (child.returncode, error) == (130, "wanstreamer: interrupted\n")


# stream


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
  """An exported nano agent with random weights."""
  folder = tmp_path_factory.mktemp("agent")
  agent_weights.export_agent(nano_agent(), folder)
  return folder


@pytest.fixture
def clip(tmp_path):
  """0.4 s of sound: three units."""
  path = tmp_path / "clip.wav"
  with wave.open(str(path), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(16_000)
    file.writeframes((9000 * np.sin(np.arange(6400) * 0.1)).astype("<i2").tobytes())
  return path


def test_stream_answers_a_clip(untrained, clip, tmp_path, capsys):
  out = tmp_path / "out"
  assert main.main(["stream", str(clip), "--out", str(out), "--checkpoint", str(untrained), "--text", "0.2:hello"]) == 0
  names = {"agent.mp4", "conversation.mp4", "agent.vtt", "units.jsonl", "timeline.png"}
  assert {path.name for path in out.iterdir()} == names
  printed = capsys.readouterr().out
  assert all(str(out / name) in printed for name in names)
  rows = [json.loads(line) for line in (out / "units.jsonl").read_text().splitlines()]
  assert [row["typed"] for row in rows] == [[], ["hello"], []]


def test_stream_uses_the_world_beside_the_checkpoint(untrained, clip, tmp_path, capsys):
  copy = tmp_path / "agent"
  shutil.copytree(untrained, copy)
  (copy / "world.json").write_text("{not json")
  assert main.main(["stream", str(clip), "--out", str(tmp_path / "out"), "--checkpoint", str(copy)]) == 2
  assert "world.json" in one_error_line(capsys)


@pytest.mark.parametrize(
  ("changed", "words"),
  [
    ({"input": "missing.mp4"}, "missing.mp4"),
    ({"--text": "hello"}, "expected SECONDS:TEXT"),
    ({"--text": "9:hello"}, "past the end"),
    ({"--checkpoint": "missing"}, "no checkpoint at missing"),
    ({"--world": "missing.json"}, "missing.json"),
    ({"--seed": "-1"}, "'-1' is not a whole number"),
    ({"--out": "/dev/null/out"}, "/dev/null"),
  ],
  ids=str,
)
def test_stream_explains_bad_input(changed, words, untrained, clip, tmp_path, capsys):
  options = {"--out": str(tmp_path / "out"), "--checkpoint": str(untrained), **changed}
  source = options.pop("input", str(clip))
  assert main.main(["stream", source, *(word for pair in options.items() for word in pair)]) == 2
  assert words in one_error_line(capsys)
  assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


# Parts to one agent


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  """Three exports as their training runs leave them, with paths of this machine in their config."""
  agent, base = nano_agent(), tmp_path_factory.mktemp("parts")
  config = agent.config.replace()
  config.data.path, config.train.run, config.train.codecs = "/here/data", "/here/run", "/here/a,/here/b"
  config.flow.steps = 3
  for name in ("streamer", "audio_codec", "video_codec"):
    store.export_weights(getattr(agent, name), config.replace().freeze(), base / name, "f32")
  return base


def export(base, out, **changed):
  paths = {
    "streamer": base / "streamer",
    "audio-codec": base / "audio_codec",
    "video-codec": base / "video_codec",
  } | changed
  return main.main(
    ["export", "--out", str(out), *(str(x) for name, path in paths.items() for x in (f"--{name}", path))]
  )


def test_export_joins_parts_under_the_config_that_they_were_trained_with(parts, tmp_path, capsys):
  assert export(parts, tmp_path / "agent") == 0
  printed = capsys.readouterr().out
  assert str(tmp_path / "agent") in printed
  assert "--world" in printed
  agent = agent_weights.load_agent(tmp_path / "agent")
  assert agent.config.flow.steps == 3
  assert "/here" not in (tmp_path / "agent" / "config.json").read_text()
  for name, leaf in named_leaves(nano_agent()).items():
    np.testing.assert_allclose(named_leaves(agent)[name], leaf, rtol=1e-2, atol=1e-6)


def test_export_lays_a_world_beside_the_weights(parts, tmp_path, capsys):
  media, out = nano_agent().config.media, tmp_path / "agent"
  face = np.full((media.height, media.width, 3), 90, np.uint8)
  source = write_world(tmp_path, World({"name": "ada"}, face, np.zeros(media.samples, np.float32)), media)
  assert export(parts, out, world=source) == 0
  assert "--world" not in capsys.readouterr().out
  source.unlink()
  layout, found = nano_agent().config.layout, agent_weights.load_session_world(str(out), None, media)
  assert found.fields == {"name": "ada"}
  np.testing.assert_array_equal(found.portrait, face)
  assert (found.voice is not None) == bool(layout.voice_units)
  assert (
    export(parts, tmp_path / "other", world=write_world(tmp_path, World({"likes": "tea and more " * 25}), media)) == 2
  )
  assert "shorten the fields" in one_error_line(capsys)
  assert not (tmp_path / "other").exists()


def test_export_takes_codecs_out_of_an_agent(parts, untrained, tmp_path, capsys):
  assert export(parts, tmp_path / "agent", **{"audio-codec": untrained, "video-codec": untrained}) == 0
  found, given = (named_leaves(agent_weights.load_agent(path).audio_codec) for path in (tmp_path / "agent", untrained))
  assert all(np.array_equal(leaf, given[name]) for name, leaf in found.items())
  for part, found in (("audio-codec", "audio_codec.kind = 'neural'"), ("video-codec", "media.height = 128")):
    assert export(parts, tmp_path / "other", **{part: "demo"}) == 2  # for "demo" is of another kind and size
    assert f"demo has {found}, but" in one_error_line(capsys)


def test_export_says_how_an_agent_computes(parts, tmp_path):
  for compute in ("float32", "bfloat16"):
    assert export(parts, tmp_path / compute, compute=compute) == 0
    assert agent_weights.load_agent(tmp_path / compute).config.model.dtype == compute


def test_export_refuses_a_codec_of_another_size(parts, tmp_path, capsys):
  config = nano_agent().config.replace()
  config.audio_codec.source_filter.latent_dim = 6
  store.export_weights(nano_agent().audio_codec, config.freeze(), tmp_path / "other", "f32")
  assert export(parts, tmp_path / "agent", **{"audio-codec": tmp_path / "other"}) == 2
  assert "other has audio_codec.source_filter.latent_dim = 6" in one_error_line(capsys)
  assert not (tmp_path / "agent").exists()


def test_export_names_the_part_that_is_another(parts, tmp_path, capsys):
  swapped = {"audio-codec": parts / "video_codec", "video-codec": parts / "audio_codec"}
  assert export(parts, tmp_path / "agent", **swapped) == 2
  assert f"{parts / 'video_codec'} does not hold the weights of the audio_codec" in one_error_line(capsys)
  (tmp_path / "file").touch()
  assert export(parts, tmp_path / "file") == 2
  assert "cannot write weights to" in one_error_line(capsys)


# inspect


def test_inspect_layout_prints_table_and_mask(capsys):
  assert main.main(["inspect", "layout", "--config", NANO, "--units", "2"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert any(line.split()[:4] == ["PERFORM", "noisy_video", "4", "7"] for line in lines)
  assert any(line.split()[:4] == ["a", "unit,", "kept", "14"] for line in lines)
  header = next(i for i, line in enumerate(lines) if line.split()[:3] == ["W", "C0", "H0"])
  mask = [line.split() for line in lines[header + 1 : header + 12]]
  assert mask[0] == ["W", "/", *"." * 10]
  assert mask[-2] == ["P0", "x", ".", "x", "x", "x", *"....", "x", "."]
  assert mask[-1] == ["P1", "x", ".", "x", "x", "x", "x", "x", "x", "x", ".", "x"]


def test_inspect_layout_follows_overrides(capsys):
  assert main.main(["inspect", "layout", "--config", NANO, "--config.layout.commit_delay=2", "--units", "3"]) == 0
  out = capsys.readouterr().out
  assert "unit k-2" in out
  assert "REFEED" in out


def test_mask_picture_is_the_mask(tmp_path):
  from matplotlib import image

  config = load_config(NANO)
  path = inspect_report.draw_mask(config, 2, tmp_path / "mask.png")
  assert list(tmp_path.iterdir()) == [path]
  assert image.imread(path).shape[:2] == (1350, 1350)
  mask, parts = inspect_report.session_mask(config, 2)
  assert mask.shape == (sum(tokens for _, _, tokens in parts),) * 2


def test_inspect_checkpoint_reads_an_export(tmp_path, capsys):
  tree = {"layers": {"q_proj": {"w": np.ones((2, 32, 16), np.float32)}, "norm": {"scale": np.ones(32, np.float32)}}}
  store.export_weights(tree, load_config(NANO), tmp_path, "int8")
  assert main.main(["inspect", "checkpoint", str(tmp_path)]) == 0
  out = capsys.readouterr().out
  rows = [line.split() for line in out.splitlines()]
  assert ["1", "056", "2", "total"] in rows
  assert ["1", "024", "1", "w", "[2,", "32,", "16]"] in rows
  assert "config 'nano'" in out
  assert main.main(["inspect", "checkpoint", str(tmp_path), "--depth", "0"]) == 0
  assert "q_proj" not in capsys.readouterr().out


def test_inspect_checkpoint_explains_what_is_wrong(tmp_path, capsys):
  store.export_weights({"w": np.ones(4, np.float32)}, load_config(NANO), tmp_path, "f32")
  header = tmp_path / store.CONFIG_FILE
  whole = (tmp_path / store.WEIGHTS_FILE).read_bytes()
  (tmp_path / store.WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
  assert main.main(["inspect", "checkpoint", str(tmp_path)]) == 2
  assert "incomplete" in one_error_line(capsys)
  header.write_text(json.dumps({**json.loads(header.read_text()), "format": 99}))
  assert main.main(["inspect", "checkpoint", str(tmp_path)]) == 2
  assert "format 99" in one_error_line(capsys)


def test_tree_adds_up():
  shapes = {"a.x.w": [2, 3], "a.y": [4], "b": []}
  assert [line.split()[:3] for line in inspect_report.tree_lines(shapes, 2)[1:]] == [
    ["11", "3", "total"], ["10", "2", "a"], ["6", "1", "x"], ["4", "1", "y"], ["1", "1", "b"],
  ]  # fmt: skip
  assert inspect_report.bytes_text(3 * 1024**3) == "3.0 GiB"
  assert inspect_report.count(1234567) == "1 234 567"
