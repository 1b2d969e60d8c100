"""Folders of other libraries: what is imported whole, and what is refused in one line that names value and remedy."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.helpers.pretrained import (
  NANO_POCKET,
  POCKET,
  WAN2P1,
  WAN2P2,
  pocket_folder,
  pocket_shapes,
  random_tensors,
  tae_folder,
  wan_folder,
  wan_shapes,
  write_folder,
)
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import apply_override
from wanstreamer_jax.errors import CheckpointError, ConfigError
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.weights.import_codec import flags, import_codec


def config():
  base = Config(name="import")
  base.media.height = base.media.width = 32
  base.layout.patch = 1
  return base.freeze()


def refused(*arguments, error=CheckpointError):
  with pytest.raises(error) as caught:
    import_codec(*arguments)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def leaves(codec):
  return {name: np.asarray(leaf) for name, leaf in named_leaves(codec).items()}


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_shards_are_one_folder_and_half_precision_becomes_float32(tmp_path):
  whole, tensors = pocket_folder(tmp_path / "whole"), random_tensors(pocket_shapes(POCKET))
  sharded = write_folder(tmp_path / "sharded", tensors, POCKET, shards=3)
  one, several = (import_codec(path, config()) for path in (whole, sharded))
  assert same(leaves(one.codec), leaves(several.codec))
  for dtype in (np.float16, ml_dtypes.bfloat16):
    half = {name: value.astype(dtype) for name, value in tensors.items()}
    found = leaves(import_codec(write_folder(tmp_path / np.dtype(dtype).name, half, POCKET), config()).codec)
    expected = half["latent_proj.weight"].astype(np.float32)[:, :, 0].T
    np.testing.assert_array_equal(found["decoder.latent_in.w"], expected)
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}


def test_weight_normalisation_is_multiplied_out(tmp_path):
  tensors = random_tensors(pocket_shapes(POCKET))
  name = "decoder.decoder_seanet.layers.0.conv"
  direction = tensors.pop(f"{name}.weight")
  length = np.linspace(1, 2, direction.shape[0], dtype=np.float32)[:, None, None]
  normed = {f"{name}.weight_g": length, f"{name}.weight_v": direction}
  expected = direction / np.sqrt((direction**2).sum(axis=(1, 2), keepdims=True)) * length
  codec = import_codec(write_folder(tmp_path / "normed", tensors | normed, POCKET), config()).codec
  np.testing.assert_allclose(leaves(codec)["decoder.conv_in.w"], expected.transpose(2, 1, 0), rtol=1e-6)


def test_the_flags_that_it_names_turn_the_old_config_into_the_new_one(tmp_path):
  decoder = tae_folder(tmp_path / "tae", WAN2P2)
  for folder, small in (
    (pocket_folder(tmp_path / "p", NANO_POCKET), None),
    (wan_folder(tmp_path / "w", WAN2P2), decoder),
  ):
    found, changed = import_codec(folder, config(), small), config().replace()
    for flag in flags(config(), found.config):
      apply_override(changed, flag)
    assert changed.freeze() == found.config


def test_wans_latents_are_standardised_as_its_folder_says(tmp_path):
  found = import_codec(wan_folder(tmp_path / "w"), config())
  assert found.standardised
  np.testing.assert_array_equal(found.codec.standard.latent_mean[...], np.float32(WAN2P1["latents_mean"]))
  np.testing.assert_array_equal(found.codec.standard.latent_std[...], np.float32(WAN2P1["latents_std"]))


def test_what_is_left_out_is_counted(tmp_path):
  found = import_codec(wan_folder(tmp_path / "w"), config(), tae_folder(tmp_path / "t"))
  assert "2 of its encoder" in found.notes[-1]
  own = sum(name.startswith(("decoder.", "post_quant_conv")) for name in wan_shapes(WAN2P1))
  assert f"{own} of " in found.notes[-1]


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"model_type": ["mimi"]}, "names the architecture ['mimi']: expected"),
    ({"model_type": "mimi"}, "names the architecture 'mimi': expected pocket_tts_audio_tokenizer (audio) or Auto"),
    ({"model_type": "vibevoice_acoustic_tokenizer"}, "its 7.5 latents a second are 1.2 a unit of 160 ms"),
    ({"use_causal_conv": False}, "has use_causal_conv False: this codec supports True"),
    ({"trim_right_ratio": 0.5}, "has trim_right_ratio 0.5"),
    ({"upsample_groups": 4}, "has upsample_groups 4: this codec supports 20"),
    ({"hidden_act": "relu"}, "hidden_act 'relu'"),
    ({"encoder_config": None}, "the encoder was dropped: both halves are needed"),
    ({"num_filters": "wide"}, "audio_codec.pocket.filters is 'wide'"),
    ({"latent_stride": 7}, "hop, here 45.71: 3840 / 84 is not a whole number"),
    ({"sampling_rate": 16_000}, "16000"),
  ],
)
def test_another_architecture_is_refused(tmp_path, values, message):
  folder = write_folder(tmp_path / "f", random_tensors(pocket_shapes(POCKET)), POCKET | values)
  assert message in refused(folder, config(), error=(CheckpointError, ConfigError))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"attn_scales": [1.0]}, "has attn_scales [1.0]: this codec supports []"),
    ({"patch_size": 2}, "has in_channels 3: this codec supports 12"),
    ({"temperal_downsample": [True, True]}, "time_down has 2 entries: expected 3"),
    ({"temperal_downsample": [True, True, True]}, "has scale_factor_temporal 4: this codec supports 8"),
    ({"latents_std": [1.0]}, "latents_mean and latents_std have 4 and 1 numbers: expected 4 each"),
    ({"latents_mean": ["a"] * 4}, "are not lists of numbers"),
    ({"latents_mean": None}, "have 1 and 4 numbers: expected 4 each"),
    (
      {"is_residual": True, "dim_mult": [1, 2, 3, 4]},
      "of 16 and 24 channels has no whole channels: expected 24 to divide 16 x 8; set multiples",
    ),
  ],
)
def test_wan_folders_that_this_codec_cannot_be_are_refused(tmp_path, values, message):
  folder = write_folder(tmp_path / "f", random_tensors(wan_shapes(WAN2P1)), WAN2P1 | values)
  assert message in refused(folder, config(), error=(CheckpointError, ConfigError))


def test_incomplete_folders_are_refused(tmp_path):
  assert "is not a codec to import: config.json is missing" in refused(tmp_path / "nowhere", config())
  empty = tmp_path / "empty"
  empty.mkdir()
  (empty / "config.json").write_text(json.dumps(POCKET))
  assert "it has no weights, neither model.safetensors nor an index" in refused(empty, config())
  (empty / "weights.pth").write_bytes(b"\x80")
  assert "weights.pth is pickled and not read, since it could run code" in refused(empty, config())
  (empty / "model.safetensors").write_bytes(b"not one")
  assert "is incomplete or no safetensors file" in refused(empty, config())
  (empty / "config.json").write_text("{")
  assert "config.json is damaged" in refused(empty, config())
  (empty / "config.json").write_text("[]")
  assert "expected an object, not list" in refused(empty, config())

  sharded = pocket_folder(tmp_path / "sharded", shards=3)
  (sharded / "model-00002-of-00003.safetensors").unlink()
  assert "model-00002-of-00003.safetensors is missing" in refused(sharded, config())


def test_tensors_that_differ_are_named(tmp_path):
  def changed(name, **changes):
    tensors = random_tensors(pocket_shapes(POCKET))
    tensors.update(changes.get("more", {}))
    for missing in changes.get("less", ()):
      del tensors[missing]
    return write_folder(tmp_path / name, tensors, POCKET)

  odd = {"odd.weight": np.zeros(3, np.float32), "quantizer.w": np.zeros(3, np.float32)}
  assert "has an unknown tensor odd.weight (and 1 more)" in refused(changed("unknown", more=odd), config())
  assert "has no tensor latent_proj.weight" in refused(changed("missing", less=["latent_proj.weight"]), config())
  wrong = {"latent_proj.weight": np.zeros((20, 7, 1), np.float32)}
  message = refused(changed("shape", more=wrong), config())
  assert "latent_proj.weight becomes decoder.latent_in.w of shape [7, 20], but config.json means [5, 20]" in message
  flat = {"encoder.downsample.conv.weight": np.zeros((4, 5), np.float32)}
  assert "encoder.downsample.conv.weight has shape [4, 5]" in refused(changed("rank", more=flat), config())
  whole = {"latent_proj.weight": np.zeros((20, 5, 1), np.int8)}
  assert "latent_proj.weight as I8: expected F32, BF16, F16" in refused(changed("dtype", more=whole), config())


def test_a_tensor_that_does_not_fill_its_bytes_is_refused(tmp_path):
  folder = pocket_folder(tmp_path / "p")
  file = folder / "model.safetensors"
  data = file.read_bytes()
  length = int.from_bytes(data[:8], "little")
  header = json.loads(data[8 : 8 + length])
  header["latent_proj.weight"]["shape"] = [20, 50, 1]
  text = json.dumps(header).encode()
  file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
  assert "latent_proj.weight of shape [20, 50, 1] has 400 bytes, expected 4000" in refused(folder, config())


def test_small_decoders_of_other_latents_are_refused(tmp_path):
  folder, wide = wan_folder(tmp_path / "w"), tae_folder(tmp_path / "t2", WAN2P2 | {"z_dim": 6})
  assert "decodes latents of 6 channels, but the codec's have 4" in refused(folder, config(), wide)
  patches = tae_folder(tmp_path / "t3", WAN2P2)
  assert "decoder.conv_out" in refused(folder, config(), patches / "taew.safetensors")
  assert "a small decoder is for latents of Wan" in refused(pocket_folder(tmp_path / "p"), config(), wide)
  assert "expected the decoder of TAEW2.1" in refused(folder, config(), folder)
  flat = tmp_path / "flat.safetensors"
  save_file({"decoder.1.weight": np.zeros(8, np.float32)}, flat)
  assert "decoder.1.weight has shape [8]: expected a convolution's 4 numbers" in refused(folder, config(), flat)
  other = tmp_path / "super"
  other.mkdir()
  save_file({"decoder.1.weight": np.zeros((8, 4, 3, 3), np.float32)}, other / "x.safetensors")
  assert "0 stages of memory blocks: expected 3" in refused(folder, config(), other)
  silent = {name: value for name, value in WAN2P1.items() if not name.startswith("latents_")}
  assert "has no latents_mean and latents_std" in refused(
    wan_folder(tmp_path / "s", silent), config(), tae_folder(tmp_path / "t")
  )
