"""Config files, overrides and their errors; JSON and back; what fits together and what does not."""

import sys

import pytest

from tests import CONFIGS
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import (
  config_from_dict,
  config_to_dict,
  flat_fields,
  load_config,
  run_config_file,
  split_overrides,
)
from wanstreamer_jax.errors import ConfigError


@pytest.fixture
def config_file(tmp_path):
  folder = tmp_path / "configs"
  folder.mkdir()

  def write(body: str) -> str:
    (folder / "mine.py").write_text(body)
    return str(folder / "mine.py")

  return write


DEFAULTS = (
  "from wanstreamer_jax.config import Config\ndef get_config(argument='none'):\n  return Config(name=argument)\n"
)


def test_a_file_with_overrides_is_frozen(config_file):
  path = config_file(DEFAULTS)
  config = load_config(
    path,
    [
      "--config.train.steps=7", "train.learning_rate=1", "layout.window=None", "data.shuffle=false",
      "train.run=runs/a=b", "audio_vae.strides=(240, 2, 4)", "video_vae.channels=8,16,32",
    ],
  )  # fmt: skip
  assert (config.train.steps, config.train.learning_rate, config.layout.window) == (7, 1.0, None)
  assert isinstance(config.train.learning_rate, float)
  assert (config.data.shuffle, config.train.run) == (False, "runs/a=b")
  assert (config.audio_vae.strides, config.video_vae.channels) == ((240, 2, 4), (8, 16, 32))
  assert load_config(path, ["layout.window=9"]).layout.window == 9
  with pytest.raises(ConfigError, match=r"config is frozen: cannot set TrainConfig\.steps = 8"):
    config.train.steps = 8


def test_a_file_may_take_an_argument(config_file):
  path = config_file(DEFAULTS)
  assert load_config(path).name == "none"
  assert load_config(path + ":192x336").name == "192x336"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_every_config_of_the_repository_loads(path):
  config = load_config(path)
  assert hash(config) == hash(load_config(path))
  assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize(
  ("override", "message"),
  [
    (
      "--config.train.stpes=7",
      r"unknown config key 'train\.stpes', field of TrainConfig: 'stpes'; did you mean 'steps'",
    ),
    ("trian.steps=7", r"unknown config section 'trian': 'trian'; did you mean 'train'"),
    ("steps=7", r"unknown config key 'steps', field of Config: 'steps'"),
    ("train.steps.more=7", r"unknown config section 'train\.steps': 'steps'"),
    ("train.steps", r"override 'train\.steps' has no value; write --config\.train\.steps=VALUE"),
    ("train=3", r"config key 'train' is a section; set one of its fields: stage, steps"),
    ("train.steps=many", r"train\.steps is 'many': expected int"),
    ("train.steps=1.5", r"train\.steps is '1\.5': expected int"),
    ("train.steps=None", r"train\.steps is 'None': expected int"),
    ("train.steps=True", r"train\.steps is 'True': expected int"),
    ("data.shuffle=1", r"data\.shuffle is '1': expected bool"),
    ("layout.window=big", r"layout\.window is 'big': expected int \| None"),
    ("audio_vae.strides=4,x", r"audio_vae\.strides is '4,x': expected tuple\[int, \.\.\.\]"),
    ("media.unit_ms=150", r"frames per unit = unit_ms 150 x fps 25 / 1000: 3750 / 1000 is not a whole number"),
    ("train.schedule=linear", r"train\.schedule is 'linear': expected one of cosine, wsd, constant"),
  ],
)
def test_overrides_that_cannot_be(config_file, override, message):
  with pytest.raises(ConfigError, match=message):
    load_config(config_file(DEFAULTS), [override])


def test_a_config_dict_is_taken_and_its_fields_are_checked(tmp_path):
  file = tmp_path / "mine.py"
  code = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict({"name": "mine", "model": {"width": %s}, "layout": {"window": None}})
"""
  file.write_text(code % "96")
  config = load_config(file, ["model.mlp=64"])
  assert (config.name, config.model.width, config.model.mlp, config.layout.window) == ("mine", 96, 64, None)
  file.write_text(code.replace("width", "widht") % "96")
  with pytest.raises(ConfigError, match="did you mean 'width'"):
    load_config(file)
  file.write_text(code % "'wide'")
  with pytest.raises(ConfigError, match=r"model\.width is 'wide'"):
    load_config(file)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("x = 1\n", r"mine\.py defines no get_config\(\)"),
    ("def get_config():\n  return {}\n", r"returns a dict, not a wanstreamer_jax\.config\.Config"),
    ("def get_config(:\n", r"mine\.py fails: SyntaxError"),
    ("def get_config():\n  return nothing\n", r"mine\.py fails: NameError: name 'nothing'"),
    (DEFAULTS + "_ = Config().train.__setattr__('stpes', 1)\n", r"did you mean 'steps'"),
  ],
)
def test_files_that_cannot_be(config_file, body, message):
  with pytest.raises(ConfigError, match=message):
    load_config(config_file(body))


def test_a_missing_file_names_its_neighbours():
  with pytest.raises(ConfigError, match=r"no config file '.*tinny\.py'; files there: .*tiny\.py"):
    run_config_file(str(CONFIGS / "tinny.py"))
  with pytest.raises(ConfigError, match=r"there is no folder 'confs' in .*"):
    run_config_file("confs/tiny.py")


def test_a_config_file_imports_the_repositorys(tmp_path):
  (tmp_path / "mine.py").write_text("from configs import base\nget_config = base.get_config\n")
  before = list(sys.path)
  assert load_config(tmp_path / "mine.py").name == "base"
  assert sys.path == before


def test_overrides_are_split_from_other_arguments():
  arguments = ["--config.train.steps=7", "--force", "--config.data.path", "x y", "--out=d"]
  assert split_overrides(arguments) == (["--config.train.steps=7", "--config.data.path=x y"], ["--force", "--out=d"])


def test_json_and_back():
  config = Config(name="x")
  config.layout.window = None
  config.train.learning_rate = 1e-4
  values = config_to_dict(config.freeze())
  assert config_from_dict(values) == config
  del values["train"]["decay"]  # written by an older program
  assert config_from_dict(values) == config
  with pytest.raises(ConfigError, match=r"unknown config key 'train\.stpes'.*did you mean 'steps'"):
    config_from_dict({"train": {"stpes": 3}})
  with pytest.raises(ConfigError, match=r"train\.steps is 'x'"):
    config_from_dict({"train": {"steps": "x"}})
  assert flat_fields(config)["layout.window"] is None
