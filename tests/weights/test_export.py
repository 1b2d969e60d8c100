"""An export carries its tokenizer and is served with no other; older exports have none and keep the shipped one."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

from tests import CONFIGS
from tests.helpers.agents import random_weights
from tests.helpers.language_models import save_tokenizer
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.cli.main import main
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.encode import fingerprint
from wanstreamer_jax.data.tokenizer import OLDER, SHIPPED, TextTokenizer, tokenizer_of
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.errors import CheckpointError, DataError
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.weights.agent import DEMO_FOLDER, codec_fields, export_agent, load_agent, made_by_others
from wanstreamer_jax.weights.store import CONFIG_FILE, TOKENIZER_FILE, read_weights


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  """An agent with a foreign tokenizer, exported, whose tokenizer's own folder is gone."""
  base = tmp_path_factory.mktemp("export")
  save_tokenizer(base / "model", 380)
  tokenizer = TextTokenizer(base / "model")
  changes = [f"data.tokenizer={base / 'model'}", f"model.pad={tokenizer.pad_id}", "model.vocab=512"]
  config = load_config("configs/nano.py", changes)
  export_agent(random_weights(jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))), base / "agent", "f32")
  shutil.rmtree(base / "model")
  return base / "agent", tokenizer


@pytest.fixture
def copy(exported, tmp_path):
  return shutil.copytree(exported[0], tmp_path / "copy")


def test_an_export_is_served_with_the_tokenizer_beside_its_weights(copy, exported):
  tokenizer = exported[1]
  header = json.loads((copy / CONFIG_FILE).read_text())
  assert header["tokenizer"] == TOKENIZER_FILE
  assert header["config"]["data"]["tokenizer_sha256"] == tokenizer.sha256
  assert str(exported[0].parent) not in (copy / CONFIG_FILE).read_text()  # no path of the machine that trained
  agent = load_agent(copy)
  assert agent.config.data.tokenizer == str(copy / TOKENIZER_FILE)
  engine = Engine(agent)
  assert engine.tokenizer.sha256 == tokenizer.sha256
  words = "red Größe 世界"
  assert engine.tokenizer.encode(words) == tokenizer.encode(words)
  assert agent.config.model.pad == engine.tokenizer.pad_id == tokenizer.pad_id > 0


def test_an_export_of_an_export_is_the_same(copy, tmp_path):
  export_agent(load_agent(copy), tmp_path / "again", "f32")
  for file in copy.iterdir():
    assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_changed_or_missing_tokenizer_is_one_line(copy):
  file = copy / TOKENIZER_FILE
  shutil.copy(SHIPPED, file)
  with pytest.raises(
    CheckpointError, match=r"is not the tokenizer that config.json .* copy the folder again"
  ) as caught:
    load_agent(copy)
  assert "\n" not in str(caught.value)
  file.unlink()
  with pytest.raises(CheckpointError, match=r"tokenizer.json is missing: .* copy the folder again"):
    load_agent(copy)


def test_exports_with_the_shipped_tokenizer_carry_it_too(tmp_path):
  export_agent(nano_agent(), tmp_path, "f32")
  assert (tmp_path / TOKENIZER_FILE).read_bytes() == SHIPPED.read_bytes()


def test_older_exports_keep_the_shipped_tokenizer(tmp_path):
  export_agent(nano_agent(), tmp_path, "f32")
  (tmp_path / TOKENIZER_FILE).unlink()
  header = json.loads((tmp_path / CONFIG_FILE).read_text())
  del header["tokenizer"], header["config"]["data"]["tokenizer_sha256"]
  for name in ("pad", "tokens"):
    del header["config"]["model"][name]
  header["config"]["data"]["tokenizer"] = "default"
  (tmp_path / CONFIG_FILE).write_text(json.dumps(header))
  config, values = read_weights(tmp_path)
  assert tokenizer_of(config).path == OLDER
  assert load_agent("demo").config.model.pad == 0
  assert np.isfinite(values["streamer.tokens.embedding"]).all()


def test_the_demo_weights_have_their_own_tokenizer():
  config, _ = read_weights(DEMO_FOLDER)
  tokenizer = tokenizer_of(config)
  assert str(tokenizer.path) == str(DEMO_FOLDER / TOKENIZER_FILE)
  assert tokenizer.sha256 == config.data.tokenizer_sha256


def test_a_tokenizer_that_changed_since_the_training_is_not_exported(tmp_path):
  save_tokenizer(tmp_path, 380)
  tokenizer = TextTokenizer(tmp_path)
  changes = [f"data.tokenizer={tmp_path}", f"model.pad={tokenizer.pad_id}", "model.vocab=512"]
  config = load_config("configs/nano.py", [*changes, f"data.tokenizer_sha256={tokenizer.sha256}"])
  save_tokenizer(tmp_path, 320)
  agent = random_weights(jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0))))
  with pytest.raises(DataError, match="has SHA-256 .* but this model was made with .*: put that file back"):
    export_agent(agent, tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--out", "x"], "export needs --audio-codec too"),
    (["--audio-codec", "demo", "--video-codec", "demo"], "export needs --out too"),
    (["--hf", "x", "--out", "y"], "--hf writes the language model alone: leave --out out"),
    (["--hf", "x", "--dtype", "int8"], "transformers' folders have f32 or bf16"),
  ],
)
def test_options_of_export_that_do_not_fit_are_one_line(options, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert main(["export", "--streamer", "demo", *options]) == 2
  assert message in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_read_with_the_tokenizer_that_its_run_keeps(tmp_path):
  """The folder that it was trained with may be gone; another file of that name is not taken."""
  from wanstreamer_jax.weights.store import _with_runs_tokenizer

  save_tokenizer(tmp_path / "run", 380)
  sha256 = TextTokenizer(tmp_path / "run").sha256
  config = load_config("configs/nano.py", ["data.tokenizer=gone/tokenizer.json", f"data.tokenizer_sha256={sha256}"])
  folder = epath.Path(tmp_path / "run" / "checkpoints" / "7")
  assert _with_runs_tokenizer(config, folder).data.tokenizer == str(tmp_path / "run" / TOKENIZER_FILE)
  shutil.copy(SHIPPED, tmp_path / "run" / TOKENIZER_FILE)
  assert _with_runs_tokenizer(config, folder) == config


def test_codecs_that_did_not_make_the_latents_are_noticed(tmp_path):
  agent = nano_agent()
  assert not made_by_others(tmp_path, agent)  # no run: nothing is stated
  made_by = fingerprint(agent.audio_codec, agent.video_codec)
  for stated, expected in ((made_by, False), ("0" * 64, True)):
    (tmp_path / "code.json").write_text(json.dumps({"codecs": stated}))
    assert made_by_others(tmp_path, agent) == expected


def test_the_codec_of_a_voice_knows_nothing_of_pictures():
  config = load_config(CONFIGS / "nano.py")
  other = config.replace(media=config.media.replace(height=64, width=64)).freeze()
  assert codec_fields(config, "audio_codec") == codec_fields(other, "audio_codec")
  assert codec_fields(config, "video_codec") != codec_fields(other, "video_codec")
