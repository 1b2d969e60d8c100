"""Imported encoders give the features of transformers' own implementations (law 8)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.agents import random_sound
from tests.helpers.encoders import MOONSHINE, SIGLIP, config_with, save_speech, save_vision
from tests.helpers.streaming import run_chunks
from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import CheckpointError, ConfigError
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.perception.make import make_hearing, make_seeing
from wanstreamer_jax.perception.moonshine_encoder import STEP
from wanstreamer_jax.perception.vision_transformer import VisionTransformer
from wanstreamer_jax.weights.perception import hearing_config, import_hearing, import_seeing, seeing_config

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def trunk_of(part: str, make, config: Config, imported):
  """The trunk with imported weights; all of its parameters are among them."""
  trunk = jax.eval_shape(lambda: make(config, rngs=nnx.Rngs(0))).trunk
  values = {name.removeprefix(f"{part}.trunk."): value for name, value in imported.values.items()}
  leaves = named_leaves(trunk)
  assert {n: leaf.shape for n, leaf in leaves.items()} == {n: value.shape for n, value in values.items()}
  return fill_leaves(trunk, {name: jnp.asarray(value) for name, value in values.items()})


def features_of_picture(trunk: VisionTransformer, picture: np.ndarray) -> np.ndarray:
  return np.asarray(jax.jit(lambda trunk, x: trunk(x))(trunk, jnp.asarray(picture)))


def patches_of(picture: np.ndarray, patch: int) -> np.ndarray:
  """As the image processor of SigLIP 2 makes them, by loops: [R Q, P P 3]."""
  rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
  cut = lambda r, c: picture[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(-1)
  return np.stack([cut(r, c) for r in range(rows) for c in range(columns)])


@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=["square", "wide"])
def test_naflex_features_equal_transformers(size, tmp_path):
  model = save_vision(tmp_path, "Siglip2")
  config = config_with(video="siglip2").replace()
  config.media.height, config.media.width = size
  config = config.freeze()
  trunk = trunk_of("see", make_seeing, config, import_seeing(tmp_path, config))
  picture = np.random.default_rng(0).uniform(-1, 1, (*size, 3)).astype(np.float32)
  rows, columns = config.siglip2_grid
  assert (rows, columns) == (size[0] // 8, size[1] // 8)
  patches = patches_of(picture, SIGLIP.patch)
  pad = SIGLIP.patches - len(patches)
  with torch.no_grad():
    expected = model(
      pixel_values=torch.tensor(np.pad(patches, ((0, pad), (0, 0))))[None],
      pixel_attention_mask=(torch.arange(SIGLIP.patches) < len(patches)).int()[None],
      spatial_shapes=torch.tensor([[rows, columns]]),
    ).last_hidden_state[0, : len(patches)]
  assert_close(features_of_picture(trunk, picture).reshape(len(patches), -1), expected.numpy(), 1e-5)


@pytest.mark.parametrize("kind", ["Siglip", "Siglip2"])
def test_a_whole_model_and_a_fixed_picture(kind, tmp_path):
  """The text tower and the pooling head are left aside, and counted."""
  model = save_vision(tmp_path, kind, whole=True)
  config = config_with(video="siglip2")
  imported = import_seeing(tmp_path, config)
  assert "35 tensors have no use here" in imported.note
  trunk = trunk_of("see", make_seeing, config, imported)
  picture = np.random.default_rng(0).uniform(-1, 1, (32, 32, 3)).astype(np.float32)
  with torch.no_grad():
    if kind == "Siglip":
      expected = model(pixel_values=torch.tensor(picture.transpose(2, 0, 1)[None])).last_hidden_state[0]
    else:
      expected = model(
        pixel_values=torch.tensor(patches_of(picture, 8))[None], pixel_attention_mask=torch.ones(1, 16).int(),
        spatial_shapes=torch.tensor([[4, 4]]),
      ).last_hidden_state[0]  # fmt: skip
  assert_close(features_of_picture(trunk, picture).reshape(16, -1), expected.numpy(), 1e-5)


@pytest.mark.parametrize("look_ahead", ["none", "delay"])
def test_speech_features_equal_transformers(look_ahead, tmp_path):
  """Whole and in chunks, past every window. With a delay: the same features, later."""
  model = save_speech(tmp_path)
  config = config_with(audio="moonshine", moonshine=MOONSHINE.replace(look_ahead=look_ahead))
  trunk = trunk_of("hear", make_hearing, config, import_hearing(tmp_path, config))
  if look_ahead == "none":
    model.config.sliding_windows = [[past, 0] for past in MOONSHINE.past]
  steps = 40
  sound = random_sound(np.random.default_rng(0), 1, steps * STEP)[0].astype(np.float32)
  with torch.no_grad():
    mask = torch.ones(1, len(sound), dtype=torch.long)
    expected = model(torch.tensor(sound)[None], attention_mask=mask).last_hidden_state[0].numpy()
  late = sum(MOONSHINE.replace(look_ahead=look_ahead).ahead)
  assert late == (5 if look_ahead == "delay" else 0)
  run = jax.jit(lambda trunk, x, state: trunk(x, state))
  for sizes in ([steps], [8] * 5, [1, 2, 3, 5, 29]):
    found, _ = run_chunks(run, trunk, jnp.asarray(sound), trunk.initial_state(), [size * STEP for size in sizes])
    assert not np.asarray(found[:late]).any()
    assert_close(found[late:], expected[: steps - late], 1e-5)


def test_geometry_is_read(tmp_path):
  save_vision(tmp_path / "eyes")
  save_speech(tmp_path / "ears")
  assert seeing_config(tmp_path / "eyes") == SIGLIP
  assert hearing_config(tmp_path / "ears") == MOONSHINE


DECODER = {name: np.zeros(3, np.float32) for name in ("model.decoder.norm.weight", "proj_out.weight")}


def edited(folder, **changes) -> None:
  file = folder / "config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_bad_folders_are_one_clear_line(tmp_path):
  save_vision(tmp_path / "eyes")
  save_speech(tmp_path / "ears")
  seeing, hearing = config_with(video="siglip2"), config_with(audio="moonshine")
  cases = [
    (import_seeing, tmp_path / "ears", seeing, "model_type 'moonshine_streaming_encoder': expected a SigLIP"),
    (import_hearing, tmp_path / "eyes", hearing, "expected a Moonshine streaming encoder"),
    (import_seeing, tmp_path / "none", seeing, "is not a SigLIP .*config.json is missing"),
  ]
  for function, folder, config, words in cases:
    with pytest.raises(CheckpointError, match=words):
      function(folder, config)
  with pytest.raises(ConfigError, match="set it to siglip2"):
    import_seeing(tmp_path / "eyes", hearing)
  edited(tmp_path / "eyes", hidden_size=48)
  with pytest.raises(CheckpointError, match="has width 48, but perception.siglip2.width is 24"):
    import_seeing(tmp_path / "eyes", seeing)
  edited(tmp_path / "eyes", hidden_size=24, hidden_act="relu")
  with pytest.raises(CheckpointError, match="has hidden_act 'relu'"):
    import_seeing(tmp_path / "eyes", seeing)
  edited(tmp_path / "ears", frame_ms=10.0)
  with pytest.raises(CheckpointError, match="has frame_ms 10.0"):
    import_hearing(tmp_path / "ears", hearing)


def test_every_tensor_is_accounted_for(tmp_path):
  from safetensors.numpy import load_file, save_file

  save_speech(tmp_path)
  config = config_with(audio="moonshine")
  tensors = load_file(tmp_path / "model.safetensors")
  save_file({**tensors, "layers.0.extra.weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
  with pytest.raises(CheckpointError, match="unknown tensor layers.0.extra.weight"):
    import_hearing(tmp_path, config)
  save_file(
    {f"model.encoder.{name}": value for name, value in tensors.items()} | DECODER, tmp_path / "model.safetensors"
  )
  assert "2 tensors have no use here" in import_hearing(tmp_path, config).note
  missing = {name: value for name, value in tensors.items() if name != "layers.1.mlp.fc1.bias"}
  save_file(missing, tmp_path / "model.safetensors")
  with pytest.raises(CheckpointError, match="no tensor layers.1.mlp.fc1.bias"):
    import_hearing(tmp_path, config)
  (tmp_path / "model.safetensors").unlink()
  with pytest.raises(CheckpointError, match="has no weights"):
    import_hearing(tmp_path, config)
