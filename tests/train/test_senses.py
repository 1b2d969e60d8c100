"""Training starts with the ears and eyes of folders, on any mesh, and with everything else as it was."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers.brought_parts import write_language_model
from tests.helpers.encoders import SIGLIP, config_with, vision_folder
from tests.helpers.pretrained import NANO_POCKET, pocket_folder, write_folder
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.errors import CheckpointError, ConfigError
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train.checkpoint import Checkpoints
from wanstreamer_jax.train.loop import start_state
from wanstreamer_jax.train.optim import relative_rates
from wanstreamer_jax.train.provenance import brought_parts
from wanstreamer_jax.train.senses import senses
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.weights.perception import import_hearing, import_seeing, with_encoders
from wanstreamer_jax.weights.qwen_config import write_config


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("senses")
  return pocket_folder(root / "ears", NANO_POCKET), vision_folder(root / "eyes")


@pytest.fixture(scope="module")
def config(folders) -> Config:
  return with_encoders(config_with(), *folders)


def test_the_config_takes_sizes_and_folders(config, folders):
  assert (config.perception.audio, config.perception.video) == ("pocket", "siglip2")
  assert config.audio_codec.pocket.filters == NANO_POCKET["num_filters"]
  assert config.perception.siglip2.width == 24
  assert (config.train.hearing, config.train.seeing) == tuple(map(str, folders))


def test_a_config_file_for_all_that_was_brought(folders, tmp_path):
  """`wanstreamer config from-hf` with ears and eyes; what a run starts from is told apart in its provenance."""
  model = write_language_model(tmp_path / "lm")
  write_config(model, "configs/nano.py", tmp_path / "agent.py", *folders)
  config = load_config(tmp_path / "agent.py")
  assert (config.train.hearing, config.train.seeing) == tuple(map(str, folders))
  assert config.perception.siglip2.width == 24
  parts = brought_parts(config)
  assert [*parts] == ["language_model", "hearing", "seeing"]
  assert len({part["sha256_of_ends"] for part in parts.values()}) == 3
  with pytest.raises(CheckpointError, match="expected pocket_tts_audio_tokenizer, or moonshine_streaming_encoder"):
    with_encoders(config, hearing=folders[1])


def test_a_start_has_the_folders_weights_on_a_mesh(config, folders, tmp_path):
  stage = dataclasses.replace(get_stage("duplex"), constants=None)  # which are read from records

  values = import_hearing(folders[0], config).values | import_seeing(folders[1], config).values
  mesh = make_mesh("data=2,fsdp=4")
  with jax.set_mesh(mesh), Checkpoints(tmp_path / "checkpoints", config) as checkpoints:
    leaves = named_leaves(start_state(stage, config, mesh, checkpoints).params)
  for name, value in values.items():
    np.testing.assert_array_equal(leaves[name], value)
    assert leaves[name].sharding.mesh.size == 8
  assert any(not leaves[name].sharding.is_fully_replicated for name in values)


def test_groups_name_what_was_brought(config):
  """`hearing` and `seeing` are the pretrained parts alone; `perception` is those and the projections behind them."""
  stage = get_stage("duplex")
  params = jax.eval_shape(lambda: stage.init(config, jax.random.key(0)))
  rates = lambda groups: named_leaves(relative_rates(config.train.replace(groups=groups), (), params))
  brought = rates("hearing=0,seeing=0.1")
  assert brought["hear.trunk.conv_in.w"] == 0
  assert brought["see.trunk.places"] == 0.1
  assert brought["hear.project.out.w"] == brought["see.project.merge.b"] == brought["tokens.embedding"] == 1
  assert {rate for name, rate in rates("perception=0").items() if name.startswith(("hear", "see"))} == {0}


def test_bad_folders(config, folders):
  params = jax.eval_shape(lambda: get_stage("duplex").init(config, jax.random.key(0)))
  swapped = config.replace(train=config.train.replace(hearing=str(folders[1]))).freeze()
  with pytest.raises(CheckpointError, match="model_type 'siglip2_vision_model': expected pocket_tts"):
    senses(swapped, params)
  with pytest.raises(ConfigError, match="which neither hears nor sees"):
    senses(config, {"encoder": params})
  with pytest.raises(ConfigError, match="train.init is 'demo', which has ears and eyes of its own"):
    config.replace(train=config.train.replace(init="demo")).freeze()


def test_eyes_whose_config_or_layers_are_odd_are_refused(tmp_path):
  sizes, tensors = SIGLIP, load_file(vision_folder(tmp_path / "eyes") / "model.safetensors")
  stated = json.loads((tmp_path / "eyes" / "config.json").read_text())

  def refused(name, tensors=tensors, **values):
    with pytest.raises(CheckpointError) as caught:
      import_seeing(write_folder(tmp_path / name, tensors, stated | values), config_with(video="siglip2"))
    return str(caught.value)

  assert "has patch_size 0 and image_size 224: expected pixels" in refused("pixels", patch_size=0)
  whole = refused("part", model_type="siglip2", vision_config="base")
  assert "has vision_config 'base': expected an object" in whole
  other = tensors | {"encoder.layers.1.mlp.fc1.bias": np.zeros(sizes.mlp + 1, np.float32)}
  assert "mlp.up_proj.b has other shapes in some of the layers" in refused("layers", other)
  assert "has no tensor embeddings" in refused("empty", {"head.probe": np.zeros((1, 1, 2), np.float32)})


@pytest.mark.parametrize("windows", [[], [[16]], 5, [["a", 1]]])
def test_ears_whose_windows_are_no_pairs_are_refused(tmp_path, windows):
  folder = write_folder(tmp_path, {}, {"model_type": "moonshine_streaming_encoder", "sliding_windows": windows})
  with pytest.raises(CheckpointError, match="expected \\[past, future\\] of every layer"):
    import_hearing(folder, config_with(audio="moonshine"))
