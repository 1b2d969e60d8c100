"""Imports the video VAE of Wan2.1 or Wan2.2 from a folder of diffusers.

The class there is `AutoencoderKLWan`. Torch stores convolutions as [out, in, time, rows, columns]; ours are [time,
rows, columns, in, out].
"""

import itertools
import pathlib
from typing import Any

import numpy as np

from wanstreamer_jax.config import Wan2p2Config, WanConfig
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import Path
from wanstreamer_jax.weights.tensors import Tensors, read_json

CLASS = "AutoencoderKLWan"
# What diffusers takes for a key that config.json does not have.
DEFAULTS: dict[str, Any] = {
  "base_dim": 96, "decoder_base_dim": None, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
  "attn_scales": [], "temperal_downsample": [False, True, True], "is_residual": False, "in_channels": 3,
  "out_channels": 3, "patch_size": None, "scale_factor_temporal": 4, "scale_factor_spatial": 8,
}  # fmt: skip


def wan_config(folder: Path) -> tuple[str, WanConfig]:
  """The kind ("wan2p1" or "wan2p2") and the geometry in config.json. Raises CheckpointError: another architecture, or
  features that this codec lacks."""
  file = pathlib.Path(folder) / "config.json"
  values = read_json(file, "a video VAE of Wan")
  if values.get("_class_name") != CLASS:
    raise CheckpointError(f"{file} has _class_name {values.get('_class_name')!r}: expected {CLASS}")
  values = DEFAULTS | values
  try:
    return _config(values, file)
  except (KeyError, TypeError, ValueError) as error:
    raise CheckpointError(f"{file} is not an {CLASS}'s config: {type(error).__name__} {error}") from error


def _config(values: dict[str, Any], file: pathlib.Path) -> tuple[str, WanConfig]:
  kind, section = ("wan2p2", Wan2p2Config) if values["is_residual"] else ("wan2p1", WanConfig)
  patch = values["patch_size"] or 1
  config = section(
    base_dim=values["base_dim"],
    decoder_base_dim=values["decoder_base_dim"] or 0,
    latent_dim=values["z_dim"],
    multiples=tuple(values["dim_mult"]),
    blocks=values["num_res_blocks"],
    time_down=tuple(values["temperal_downsample"]),
    patch=patch,
    shortcuts=bool(values["is_residual"]),
  )
  needed = {
    "attn_scales": [], "in_channels": 3 * patch**2, "out_channels": 3 * patch**2,
    "scale_factor_temporal": config.time_stride, "scale_factor_spatial": config.space_stride,
  }  # fmt: skip
  for name, value in needed.items():
    if values[name] != value:
      raise CheckpointError(f"{file} has {name} {values[name]!r}: this codec supports {value!r}")
  return kind, config


def latent_statistics(folder: Path, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
  """(mean, deviation) of latents as config.json states them, or None. Raises CheckpointError for other lengths."""
  file = pathlib.Path(folder) / "config.json"
  values = read_json(file, "a video VAE of Wan")
  found = [values.get(name) for name in ("latents_mean", "latents_std")]
  if found == [None, None]:
    return None
  try:
    mean, deviation = (np.asarray(x, np.float32).reshape(-1) for x in found)
  except (TypeError, ValueError) as error:
    raise CheckpointError(f"{file}: latents_mean and latents_std are not lists of numbers") from error
  if mean.shape != (channels,) or deviation.shape != (channels,) or not (deviation > 0).all():
    raise CheckpointError(
      f"{file}: latents_mean and latents_std have {len(mean)} and {len(deviation)} numbers: expected {channels} each, "
      "deviations above 0"
    )
  return mean, deviation


def take_wan(tensors: Tensors, cfg: WanConfig, decoder: bool = True) -> int:
  """Moves all tensors under our names. decoder: False leaves out the decoder; returns how many tensors that were."""
  _encoder(tensors, cfg)
  if not decoder:
    return tensors.skip(r"(decoder|post_quant_conv)\..*")
  _decoder(tensors, cfg)
  return 0


def _encoder(tensors: Tensors, cfg: WanConfig) -> None:
  _conv(tensors, "encoder.conv_in", "encoder.conv_in")
  widths = [cfg.base_dim * m for m in (1, *cfg.multiples)]
  place = 0  # in the flat list of Wan2.1
  for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
    for j in range(cfg.blocks):
      theirs = f"encoder.down_blocks.{i}.resnets.{j}" if cfg.shortcuts else f"encoder.down_blocks.{place}"
      _block(tensors, theirs, f"encoder.stages.{i}.blocks.{j}", inputs != outputs)
      inputs, place = outputs, place + 1
    if i < len(cfg.time_down):
      theirs = f"encoder.down_blocks.{i}.downsampler" if cfg.shortcuts else f"encoder.down_blocks.{place}"
      _step(tensors, theirs, f"encoder.stages.{i}.step", cfg.time_down[i])
      place += 1
  _ends(tensors, "encoder")
  _conv(tensors, "quant_conv", "encoder.posterior")


def _decoder(tensors: Tensors, cfg: WanConfig) -> None:
  _conv(tensors, "post_quant_conv", "decoder.from_latent")
  _conv(tensors, "decoder.conv_in", "decoder.conv_in")
  multiples = cfg.multiples[::-1]
  widths = [cfg.decoder_width * m for m in (multiples[0], *multiples)]
  for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
    inputs = inputs if cfg.shortcuts or i == 0 else inputs // 2
    for j in range(cfg.blocks + 1):
      ours = f"decoder.stages.{i}.blocks.{j}"
      _block(tensors, f"decoder.up_blocks.{i}.resnets.{j}", ours, inputs != outputs)
      inputs = outputs
    if i < len(cfg.time_down):
      theirs = f"decoder.up_blocks.{i}.{'upsampler' if cfg.shortcuts else 'upsamplers.0'}"
      _step(tensors, theirs, f"decoder.stages.{i}.step", cfg.time_down[::-1][i])
  _ends(tensors, "decoder")


def _ends(tensors: Tensors, half: str) -> None:
  """What both halves have at their lowest resolution and at their end."""
  for i, name in enumerate(("before", "after")):
    _block(tensors, f"{half}.mid_block.resnets.{i}", f"{half}.middle.{name}", False)
  theirs, ours = f"{half}.mid_block.attentions.0", f"{half}.middle.attention"
  tensors.take(f"{theirs}.norm.gamma", f"{ours}.norm.scale", np.ravel)
  _conv(tensors, f"{theirs}.to_qkv", f"{ours}.qkv")
  _conv(tensors, f"{theirs}.proj", f"{ours}.out")
  tensors.take(f"{half}.norm_out.gamma", f"{half}.norm_out.scale", np.ravel)
  _conv(tensors, f"{half}.conv_out", f"{half}.conv_out")


def _conv(tensors: Tensors, theirs: str, ours: str) -> None:
  """A convolution over space, [out, in, rows, columns], gets a time axis of 1."""

  def convert(w: np.ndarray) -> np.ndarray:
    return (w if w.ndim == 5 else w[:, :, None]).transpose(2, 3, 4, 1, 0)

  tensors.take(f"{theirs}.weight", f"{ours}.w", convert)
  tensors.take(f"{theirs}.bias", f"{ours}.b")


def _block(tensors: Tensors, theirs: str, ours: str, shortcut: bool) -> None:
  for i, name in (1, "in"), (2, "out"):
    tensors.take(f"{theirs}.norm{i}.gamma", f"{ours}.norm_{name}.scale", np.ravel)
    _conv(tensors, f"{theirs}.conv{i}", f"{ours}.conv_{name}")
  if shortcut:
    _conv(tensors, f"{theirs}.conv_shortcut", f"{ours}.shortcut")


def _step(tensors: Tensors, theirs: str, ours: str, time: bool) -> None:
  _conv(tensors, f"{theirs}.resample.1", f"{ours}.space_conv")
  if time:
    _conv(tensors, f"{theirs}.time_conv", f"{ours}.time_conv")
