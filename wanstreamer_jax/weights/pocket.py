"""Imports the Pocket TTS tokenizer from a folder of transformers.

The class there is `PocketTTSAudioTokenizerModel`. Torch stores convolutions as [out, in, taps] and linear maps as [out,
in]; ours are [taps, in, out] and [in, out], with heads as an axis of their own. A transposed convolution of 2 r taps
becomes one of 2 taps with r times the channels.
"""

import functools
import math
import pathlib
from typing import Any

import numpy as np

from wanstreamer_jax.config import PocketConfig
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import Path
from wanstreamer_jax.weights.tensors import Tensors, read_json

MODEL_TYPE = "pocket_tts_audio_tokenizer"
ACTIVATIONS: dict[str, Any] = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def pocket_config(folder: Path) -> PocketConfig:
  """The geometry in config.json. Raises CheckpointError: another architecture, or features that this codec lacks."""
  file = pathlib.Path(folder) / "config.json"
  values = read_json(file, "a Pocket TTS tokenizer")
  if values.get("model_type") != MODEL_TYPE:
    raise CheckpointError(f"{file} has model_type {values.get('model_type')!r}: expected {MODEL_TYPE}")
  try:
    return _config(values, file)
  except (KeyError, TypeError, ValueError, ArithmeticError) as error:
    raise CheckpointError(f"{file} is not a {MODEL_TYPE}'s config: {type(error).__name__} {error}") from error


def _config(values: dict[str, Any], file: pathlib.Path) -> PocketConfig:
  rope = values.get("rope_parameters") or {}
  width = values["hidden_size"]
  needed = {
    "audio_channels": 1, "use_causal_conv": True, "pad_mode": "constant", "trim_right_ratio": 1.0,
    "use_conv_shortcut": False, "attention_bias": False, "upsample_groups": width,
  }  # fmt: skip
  for name, value in needed.items():
    if values.get(name, value) != value:
      raise CheckpointError(f"{file} has {name} {values[name]!r}: this codec supports {value!r}")
  if rope.get("rope_type", "default") != "default" or values.get("hidden_act") not in ACTIVATIONS:
    raise CheckpointError(
      f"{file} has rope_type {rope.get('rope_type')!r} and hidden_act {values.get('hidden_act')!r}: this codec "
      f"supports default, and {' or '.join(ACTIVATIONS)}"
    )
  for half in ("encoder_config", "decoder_config"):
    if half in values and values[half] is None:
      raise CheckpointError(f"{file} says that the {half.partition('_')[0]} was dropped: both halves are needed")
  return PocketConfig(
    sample_rate=values["sampling_rate"],
    latent_dim=values["latent_dim"],
    strides=tuple(values["upsampling_ratios"][::-1]),
    latent_stride=values["latent_stride"],
    filters=values["num_filters"],
    kernel=values["kernel_size"],
    last_kernel=values["last_kernel_size"],
    residual_kernel=values["residual_kernel_size"],
    residual_blocks=values["num_residual_layers"],
    dilation_growth=values["dilation_growth_rate"],
    compress=values["compress"],
    width=width,
    layers=values["num_hidden_layers"],
    heads=values["num_attention_heads"],
    kv_heads=values["num_key_value_heads"],
    head_dim=values.get("head_dim") or width // values["num_attention_heads"],
    mlp=values["intermediate_size"],
    activation=ACTIVATIONS[values["hidden_act"]],
    window=values["sliding_window"],
    rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10_000.0))),
    norm_eps=values["norm_eps"],
  )


def take_pocket(tensors: Tensors, cfg: PocketConfig) -> None:
  """Moves all tensors of the tokenizer under our names."""
  _encoder(tensors, cfg)
  _decoder(tensors, cfg)


def _encoder(tensors: Tensors, cfg: PocketConfig) -> None:
  theirs, place = "encoder.encoder_seanet.layers", 0
  _conv(tensors, f"{theirs}.{place}", "encoder.conv_in")
  for i in range(len(cfg.strides)):
    for j in range(cfg.residual_blocks):
      place += 1
      _residual(tensors, f"{theirs}.{place}", f"encoder.stages.{i}.blocks.{j}")
    place += 2  # an activation lies between
    _conv(tensors, f"{theirs}.{place}", f"encoder.stages.{i}.down")
  _conv(tensors, f"{theirs}.{place + 2}", "encoder.conv_out")
  _layers(tensors, "encoder.encoder_transformer", "encoder", cfg)
  tensors.take("encoder.downsample.conv.weight", "encoder.down.w", lambda w: w.transpose(2, 1, 0))


def _decoder(tensors: Tensors, cfg: PocketConfig) -> None:
  theirs, place = "decoder.decoder_seanet.layers", 0
  tensors.take("latent_proj.weight", "decoder.latent_in.w", lambda w: w[:, :, 0].T)
  tensors.take("decoder.upsample.conv.weight", "decoder.up.w", lambda w: _taps(w)[..., 0])
  _layers(tensors, "decoder.decoder_transformer", "decoder", cfg)
  _conv(tensors, f"{theirs}.{place}", "decoder.conv_in")
  for i, stride in enumerate(cfg.strides[::-1]):
    place += 2
    ours = f"decoder.stages.{i}.up.conv"
    tensors.take(f"{theirs}.{place}.conv.weight", f"{ours}.w", _polyphase)
    tensors.take(f"{theirs}.{place}.conv.bias", f"{ours}.b", functools.partial(np.tile, reps=stride))
    for j in range(cfg.residual_blocks):
      place += 1
      _residual(tensors, f"{theirs}.{place}", f"decoder.stages.{i}.blocks.{j}")
  _conv(tensors, f"{theirs}.{place + 2}", "decoder.conv_out")


def _conv(tensors: Tensors, theirs: str, ours: str) -> None:
  tensors.take(f"{theirs}.conv.weight", f"{ours}.w", lambda w: w.transpose(2, 1, 0))
  tensors.take(f"{theirs}.conv.bias", f"{ours}.b")


def _residual(tensors: Tensors, theirs: str, ours: str) -> None:
  _conv(tensors, f"{theirs}.block.1", f"{ours}.conv_in")
  _conv(tensors, f"{theirs}.block.3", f"{ours}.conv_out")


def _taps(w: np.ndarray) -> np.ndarray:
  """A transposed convolution [in, out, 2 r] of stride r: what the input before and this one give, [2, r, in, out]."""
  now, before = np.split(w, 2, axis=2)
  return np.stack([before, now]).transpose(0, 3, 1, 2)


def _polyphase(w: np.ndarray) -> np.ndarray:
  """A transposed convolution [in, out, 2 r] as one over 2 inputs with r times the channels: [2, in, r out]."""
  taps = _taps(w).transpose(0, 2, 1, 3)
  return taps.reshape(2, w.shape[0], math.prod(taps.shape[2:]))


def _layers(tensors: Tensors, theirs: str, ours: str, cfg: PocketConfig) -> None:
  """The Transformer layers of one half."""
  for i in range(cfg.layers):
    source, target = f"{theirs}.layers.{i}", f"{ours}.layers.{i}"
    for name, heads in (("q_proj", cfg.heads), ("k_proj", cfg.kv_heads), ("v_proj", cfg.kv_heads)):
      by_head = lambda w, heads=heads: w.T.reshape(-1, heads, cfg.head_dim)
      tensors.take(f"{source}.self_attn.{name}.weight", f"{target}.{name}.w", by_head)
    joined = lambda w: w.T.reshape(cfg.heads, cfg.head_dim, -1)
    tensors.take(f"{source}.self_attn.o_proj.weight", f"{target}.o_proj.w", joined)
    tensors.take(f"{source}.mlp.fc1.weight", f"{target}.up_proj.w", np.transpose)
    tensors.take(f"{source}.mlp.fc2.weight", f"{target}.down_proj.w", np.transpose)
    for norm, name in (("attn_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")):
      tensors.take(f"{source}.{name}.weight", f"{target}.{norm}.scale")
      tensors.take(f"{source}.{name}.bias", f"{target}.{norm}.b")
    tensors.take(f"{source}.self_attn_layer_scale.scale", f"{target}.attn_gain.gain")
    tensors.take(f"{source}.mlp_layer_scale.scale", f"{target}.mlp_gain.gain")
