"""Config files, overrides and their errors; JSON and back; what fits together and what does not."""

import functools
import math
import sys

import pytest

from tests import CONFIGS
from wanstreamer_jax.config import Config, TrainConfig
from wanstreamer_jax.config_files import (
  apply_override,
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
      "train.run=runs/a=b", "audio_codec.source_filter.strides=(240, 2, 4)", "video_codec.native.channels=8,16,32",
    ],
  )  # fmt: skip
  assert (config.train.steps, config.train.learning_rate, config.layout.window) == (7, 1.0, None)
  assert isinstance(config.train.learning_rate, float)
  assert (config.data.shuffle, config.train.run) == (False, "runs/a=b")
  assert (config.audio_codec.source_filter.strides, config.video_codec.native.channels) == ((240, 2, 4), (8, 16, 32))
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
    (
      "audio_codec.source_filter.strides=4,x",
      r"audio_codec\.source_filter\.strides is '4,x': expected tuple\[int, \.\.\.\]",
    ),
    ("media.unit_ms=150", r"frames per unit = unit_ms 150 x fps 25 / 1000: 3750 / 1000 is not a whole number"),
    ("train.schedule=linear", r"train\.schedule is 'linear': expected one of cosine, wsd, constant"),
    ("layout.commit_delay=3", r"layout\.commit_delay is '3': expected one of 1, 2"),
    ("layout.commit_delay=True", r"layout\.commit_delay is 'True': expected one of 1, 2"),
    ("train.clip=1e999", r"train\.clip is inf: expected a finite number up to 2147483647"),
  ],
)
def test_overrides_that_cannot_be(config_file, override, message):
  with pytest.raises(ConfigError, match=message):
    load_config(config_file(DEFAULTS), [override])


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("model.width", "wide", r"model\.width is 'wide': expected int"),
    ("model.width", 2.5, r"model\.width is 2\.5: expected int"),
    ("model.width", None, r"model\.width is None: expected int"),
    ("model.width", 10**400, r"model\.width is 1000.*: expected a finite number up to 2147483647"),
    ("model.norm_eps", 10**400, r"model\.norm_eps is 1000.*: expected float"),
    ("model.qk_norm", 1, r"model\.qk_norm is 1: expected bool"),
    ("model.rope_theta", False, r"model\.rope_theta is False: expected float"),
    ("model.rope_theta", math.nan, r"model\.rope_theta is nan: expected a finite number"),
    ("model.dtype", "float16", r"model\.dtype is 'float16': expected one of float32, bfloat16"),
    ("model.dtype", None, r"model\.dtype is None: expected one of float32, bfloat16"),
    ("model.head_dim", 33, r"model\.head_dim is 33: expected a multiple of 2"),
    ("model.norm_eps", 0.0, r"model\.norm_eps is 0\.0: expected a number above 0"),
    ("layout.window", 0, r"layout\.window is 0: expected at least 1"),
    ("layout.commit_delay", True, r"layout\.commit_delay is True: expected one of 1, 2"),
    ("layout.world_text", 4096, r"layout\.world_text is 4096: expected at most 2048"),
    ("flow.guidance", -1, r"flow\.guidance is -1\.0: expected at least 0"),
    (
      "audio_codec.source_filter.strides",
      (),
      r"audio_codec\.source_filter\.strides is empty: expected at least one number",
    ),
    (
      "audio_codec.source_filter.strides",
      (240, 0, 4),
      r"audio_codec\.source_filter\.strides is \(240, 0, 4\): expected at least 1",
    ),
    (
      "audio_codec.source_filter.strides",
      (240, 2.0),
      r"audio_codec\.source_filter\.strides is \(240, 2\.0\): expected tuple\[int, \.\.\.\]",
    ),
    ("train.ema", 1.0, r"train\.ema is 1\.0: expected a number below 1"),
    ("train", 3, r"train is 3: expected TrainConfig"),
  ],
)
def test_values_that_a_field_does_not_take(name, value, message):
  config = Config()
  *sections, field = name.split(".")
  setattr(functools.reduce(getattr, sections, config), field, value)
  with pytest.raises(ConfigError, match=message):
    config.freeze()
  config.name = "not locked by the failure"


def test_freezing_gives_fields_their_declared_type():
  config = Config()
  config.layout.window, config.flow.guidance, config.train.learning_rate = None, 2, 1
  config.audio_codec.source_filter.strides = [240, 4]
  config.freeze()
  assert (config.layout.window, config.audio_codec.source_filter.strides) == (None, (240, 4))
  assert [type(value) for value in (config.flow.guidance, config.train.learning_rate)] == [float, float]
  assert config.freeze() == config.replace().freeze()


def test_choices_are_taken_from_the_command_line_and_from_json(config_file):
  config = load_config(config_file(DEFAULTS), ["train.optimizer=muon", "layout.commit_delay=2"])
  assert (config.train.optimizer, config.layout.commit_delay) == ("muon", 2)
  assert config_from_dict(config_to_dict(config)) == config
  with pytest.raises(ConfigError, match=r"train\.optimizer is 'sgd': expected one of adamw, muon"):
    config_from_dict({"train": {"optimizer": "sgd"}})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"layout.refeed": True, "layout.committed_history": False}, r"layout\.refeed shows the agent its past"),
    ({"model.heads": 4, "model.kv_heads": 3}, r"heads / kv_heads: 4 / 3 is not a whole number"),
    ({"perception.mel_window": 200}, r"mel_window is 200 samples: less than mel_hop 240"),
    ({"perception.mel_window": 24_001}, r"mel_window is 24001 samples: more than a second"),
    ({"perception.audio_tokens": 3}, r"mel frames per audio token .*: 16 / 3 is not a whole number"),
    ({"video_codec.native.channels": (16, 32)}, r"video_codec\.native\.encoder_blocks \(1, 1\): expected 1"),
    (
      {"video_codec.native.channels": (16, 24, 64)},
      r"video_codec\.native\.channels \(16, 24, 64\): number 2, 24, must divide 64",
    ),
    ({"video_codec.native.decoder_blocks": (1, 1)}, r"video_codec\.native\.decoder_blocks \(1, 1\): expected 3"),
    ({"media.sample_rate": 48_000}, r"audio_codec\.source_filter\.strides\[0\] is 240: expected 10 ms of samples, 480"),
    ({"media.fps": 50}, r"a unit must hold one group of the video codec: 8 frames per unit, time_stride 4"),
    ({"train.stage": "video_codec", "data.units": 2}, r"decoder remembers 4 latents.*set data\.units to at least 3"),
    ({"train.accumulate": 3}, r"sessions at a time = data\.batch / train\.accumulate: 8 / 3 is not a whole"),
    ({"train.groups": "language"}, r"train\.groups: 'language' is not NAME=RATE"),
  ],
)
def test_fields_that_do_not_fit_together(changes, message):
  config = Config()
  for name, value in changes.items():
    apply_override(config, f"{name}={value}")
  with pytest.raises(ConfigError, match=message):
    config.freeze()


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
  with pytest.raises(ConfigError, match="video_codec is 5: expected a section of fields"):
    config_from_dict({"video_codec": 5})
  assert flat_fields(config)["layout.window"] is None


def test_a_section_of_another_kind_is_refused():
  config = Config()
  config.layout = TrainConfig()
  with pytest.raises(ConfigError, match=r"layout is TrainConfig\(.*: expected LayoutConfig"):
    config.freeze()


def test_a_config_file_that_leaves_python_is_told(tmp_path):
  (tmp_path / "mine.py").write_text("def get_config():\n  raise SystemExit(3)\n")
  with pytest.raises(ConfigError, match=r"mine\.py fails: SystemExit: 3"):
    load_config(tmp_path / "mine.py")


@pytest.mark.parametrize(("stage", "kind"), [("audio_codec", "pocket"), ("video_codec", "wan2p2")])
def test_imported_codecs_are_not_trained(stage, kind):
  config = Config()
  getattr(config, stage).kind, config.train.stage = kind, stage
  with pytest.raises(
    ConfigError, match=rf"{stage}\.kind {kind} is imported, not trained: see wanstreamer codec import"
  ):
    config.freeze()


def test_the_small_decoder_needs_latents_of_its_own_grid():
  config = Config()
  config.video_codec.kind, config.video_codec.decoder = "wan2p2", "tae"
  config.video_codec.wan2p2.multiples, config.video_codec.wan2p2.time_down = (1, 2, 2), (True, True)
  with pytest.raises(ConfigError, match="makes 4 frames and 16 pixels of a latent, but video_codec.wan2p2 has 4 and 8"):
    config.freeze()
