"""Folders of pretrained codecs with random weights, as transformers, diffusers and TAEHV write them, without torch.

Names and shapes are those of the real classes at small sizes; the oracle tests make the same folders with the real
classes (`save_pretrained`). No tensor is zero or one, so that no norm, bias or branch can be dropped unnoticed.
"""

import itertools
import json
import math
import pathlib
from typing import Any

import numpy as np
from safetensors.numpy import save_file

POCKET: dict[str, Any] = {
  "model_type": "pocket_tts_audio_tokenizer", "sampling_rate": 24_000, "audio_channels": 1, "hidden_size": 20,
  "num_filters": 6, "num_residual_layers": 2, "upsampling_ratios": [4, 3], "kernel_size": 7, "last_kernel_size": 3,
  "residual_kernel_size": 3, "dilation_growth_rate": 2, "use_causal_conv": True, "pad_mode": "constant", "compress": 2,
  "trim_right_ratio": 1.0, "use_conv_shortcut": False, "upsample_groups": 20, "num_hidden_layers": 2,
  "intermediate_size": 28, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
  "hidden_act": "gelu_pytorch_tanh", "norm_eps": 1e-5, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
  "sliding_window": 10, "layer_scale_initial_scale": 0.01, "attention_bias": False, "latent_stride": 5, "latent_dim": 5,
}  # fmt: skip
NANO_POCKET = POCKET | {"upsampling_ratios": [8, 6], "latent_stride": 40}  # 1920 samples a latent: two a unit
WAN2P1: dict[str, Any] = {
  "_class_name": "AutoencoderKLWan", "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1,
  "attn_scales": [], "temperal_downsample": [False, True, True], "dropout": 0.0, "is_residual": False,
  "latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [1.0, 0.5, 2.0, 3.0],
}  # fmt: skip
WAN2P2: dict[str, Any] = WAN2P1 | {
  "decoder_base_dim": 12, "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12,
  "scale_factor_temporal": 4, "scale_factor_spatial": 16,
}  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


def random_tensors(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
  """Float32 tensors that keep signals near 1: norms and gains near 1, small biases, weights by their fan-in."""
  rng = np.random.default_rng(seed)

  def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith((".scale", ".gamma")) or ("norm" in name and name.endswith(".weight")):
      return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
      return 0.1 * rng.standard_normal(shape)
    return rng.standard_normal(shape) * (1.5 / math.prod(shape[1:])) ** 0.5

  return {name: draw(name, shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(
  path: pathlib.Path, tensors: dict[str, Any], config: dict[str, Any] | None = None, stem: str = "model",
  shards: int = 1,
) -> pathlib.Path:  # fmt: skip
  """config.json and one safetensors file, or several with an index."""
  path.mkdir(parents=True, exist_ok=True)
  if config is not None:
    (path / "config.json").write_text(json.dumps(config))
  if shards == 1:
    save_file(tensors, path / f"{stem}.safetensors")
    return path
  names = sorted(tensors)
  weight_map = {name: f"{stem}-{1 + i % shards:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)}
  for file in set(weight_map.values()):
    save_file({name: tensors[name] for name in names if weight_map[name] == file}, path / file)
  (path / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
  return path


def conv(name: str, *shape: int, bias: bool = True) -> Shapes:
  """A convolution [out, in, ...]."""
  return {f"{name}.weight": shape} | ({f"{name}.bias": (shape[0],)} if bias else {})


def pocket_shapes(config: dict[str, Any]) -> Shapes:
  out: Shapes = {}
  filters, width, ratios = config["num_filters"], config["hidden_size"], config["upsampling_ratios"]

  def residual(name: str, channels: int) -> Shapes:
    hidden = channels // config["compress"]
    first = conv(f"{name}.block.1.conv", hidden, channels, config["residual_kernel_size"])
    return first | conv(f"{name}.block.3.conv", channels, hidden, 1)

  theirs, place, channels = "encoder.encoder_seanet.layers", 0, filters
  out |= conv(f"{theirs}.0.conv", filters, 1, config["kernel_size"])
  for ratio in ratios[::-1]:
    for _ in range(config["num_residual_layers"]):
      place += 1
      out |= residual(f"{theirs}.{place}", channels)
    place += 2
    out |= conv(f"{theirs}.{place}.conv", 2 * channels, channels, 2 * ratio)
    channels *= 2
  out |= conv(f"{theirs}.{place + 2}.conv", width, channels, config["last_kernel_size"])
  theirs, place = "decoder.decoder_seanet.layers", 0
  out |= conv(f"{theirs}.0.conv", channels, width, config["kernel_size"])
  for ratio in ratios:
    place += 2
    out[f"{theirs}.{place}.conv.weight"] = (channels, channels // 2, 2 * ratio)
    out[f"{theirs}.{place}.conv.bias"] = (channels // 2,)
    channels //= 2
    for _ in range(config["num_residual_layers"]):
      place += 1
      out |= residual(f"{theirs}.{place}", channels)
  out |= conv(f"{theirs}.{place + 2}.conv", 1, filters, config["last_kernel_size"])
  for half in ("encoder", "decoder"):
    for i in range(config["num_hidden_layers"]):
      out |= _pocket_layer(f"{half}.{half}_transformer.layers.{i}", config)
  taps, latents = 2 * config["latent_stride"], config["latent_dim"]
  out["encoder.downsample.conv.weight"] = (latents, width, taps)
  out["decoder.upsample.conv.weight"] = (width, 1, taps)
  return out | {"latent_proj.weight": (width, latents, 1)}


def _pocket_layer(name: str, config: dict[str, Any]) -> Shapes:
  width, hidden, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
  heads, kv_heads = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
  out: Shapes = {f"{name}.self_attn.{part}_proj.weight": (rows, width)
                 for part, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads))}  # fmt: skip
  out |= {f"{name}.self_attn.o_proj.weight": (width, heads)}
  out |= {f"{name}.mlp.fc1.weight": (hidden, width), f"{name}.mlp.fc2.weight": (width, hidden)}
  for norm in ("input_layernorm", "post_attention_layernorm"):
    out |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
  return out | {f"{name}.{branch}_layer_scale.scale": (width,) for branch in ("self_attn", "mlp")}


def wan_shapes(config: dict[str, Any]) -> Shapes:
  residual, blocks, steps = config["is_residual"], config["num_res_blocks"], config["temperal_downsample"]
  latents, multiples = config["z_dim"], config["dim_mult"]
  out: Shapes = {}

  def block(name: str, inputs: int, outputs: int) -> Shapes:
    norms = {f"{name}.norm1.gamma": (inputs, 1, 1, 1), f"{name}.norm2.gamma": (outputs, 1, 1, 1)}
    convs = conv(f"{name}.conv1", outputs, inputs, 3, 3, 3) | conv(f"{name}.conv2", outputs, outputs, 3, 3, 3)
    return norms | convs | (conv(f"{name}.conv_shortcut", outputs, inputs, 1, 1, 1) if inputs != outputs else {})

  def ends(half: str, width: int, outputs: int) -> Shapes:
    mid, attention = f"{half}.mid_block", f"{half}.mid_block.attentions.0"
    found = block(f"{mid}.resnets.0", width, width) | block(f"{mid}.resnets.1", width, width)
    found |= {f"{attention}.norm.gamma": (width, 1, 1)}
    return found | conv(f"{attention}.to_qkv", 3 * width, width, 1, 1) | conv(f"{attention}.proj", width, width, 1, 1)

  widths, place = [config["base_dim"] * m for m in (1, *multiples)], 0
  out |= conv("encoder.conv_in", widths[0], config.get("in_channels", 3), 3, 3, 3)
  for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
    for j in range(blocks):
      name = f"encoder.down_blocks.{i}.resnets.{j}" if residual else f"encoder.down_blocks.{place}"
      out |= block(name, inputs, outputs)
      inputs, place = outputs, place + 1
    if i < len(steps):
      name = f"encoder.down_blocks.{i}.downsampler" if residual else f"encoder.down_blocks.{place}"
      out |= conv(f"{name}.resample.1", outputs, outputs, 3, 3)
      out |= conv(f"{name}.time_conv", outputs, outputs, 3, 1, 1) if steps[i] else {}
      place += 1
  out |= ends("encoder", widths[-1], 2 * latents) | {"encoder.norm_out.gamma": (widths[-1], 1, 1, 1)}
  out |= conv("encoder.conv_out", 2 * latents, widths[-1], 3, 3, 3)
  out |= conv("quant_conv", 2 * latents, 2 * latents, 1, 1, 1) | conv("post_quant_conv", latents, latents, 1, 1, 1)
  base = config.get("decoder_base_dim") or config["base_dim"]
  widths = [base * m for m in (multiples[-1], *multiples[::-1])]
  out |= conv("decoder.conv_in", widths[0], latents, 3, 3, 3) | ends("decoder", widths[0], 3)
  for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
    inputs = inputs if residual or i == 0 else inputs // 2
    for j in range(blocks + 1):
      out |= block(f"decoder.up_blocks.{i}.resnets.{j}", inputs, outputs)
      inputs = outputs
    if i < len(steps):
      name = f"decoder.up_blocks.{i}.{'upsampler' if residual else 'upsamplers.0'}"
      out |= conv(f"{name}.resample.1", outputs if residual else outputs // 2, outputs, 3, 3)
      out |= conv(f"{name}.time_conv", 2 * outputs, outputs, 3, 1, 1) if steps[::-1][i] else {}
  out |= {"decoder.norm_out.gamma": (widths[-1], 1, 1, 1)}
  return out | conv("decoder.conv_out", config.get("out_channels", 3), widths[-1], 3, 3, 3)


def tae_shapes(latents: int, patch: int, channels: tuple[int, ...] = (12, 10, 8, 6), blocks: int = 3) -> Shapes:
  """The decoder, and a layer of the encoder that importing leaves out."""
  out = conv("decoder.1", channels[0], latents, 3, 3) | conv("encoder.0", 8, 3 * patch**2, 3, 3)
  place = 3
  for inputs, outputs in itertools.pairwise(channels):
    for _ in range(blocks):
      out |= conv(f"decoder.{place}.conv.0", inputs, 2 * inputs, 3, 3)
      out |= conv(f"decoder.{place}.conv.2", inputs, inputs, 3, 3)
      out |= conv(f"decoder.{place}.conv.4", inputs, inputs, 3, 3)
      place += 1
    out |= conv(f"decoder.{place + 1}.conv", 2 * inputs, inputs, 1, 1, bias=False)  # the first too, as it is stored
    out |= conv(f"decoder.{place + 2}", outputs, inputs, 3, 3, bias=False)
    place += 3
  return out | conv(f"decoder.{place + 1}", 3 * patch**2, channels[-1], 3, 3)


def pocket_folder(path: pathlib.Path, config: dict[str, Any] | None = None, **options: Any) -> pathlib.Path:
  config = POCKET if config is None else config
  return write_folder(path, random_tensors(pocket_shapes(config)), config, **options)


def wan_folder(path: pathlib.Path, config: dict[str, Any] | None = None, **options: Any) -> pathlib.Path:
  config = WAN2P1 if config is None else config
  tensors = random_tensors(wan_shapes(config))
  return write_folder(path, tensors, config, stem="diffusion_pytorch_model", **options)


def tae_folder(path: pathlib.Path, config: dict[str, Any] | None = None, **options: Any) -> pathlib.Path:
  """The small decoder for the latents of a Wan folder's config."""
  config = WAN2P1 if config is None else config
  shapes = tae_shapes(config["z_dim"], config.get("patch_size") or 1)
  return write_folder(path, random_tensors(shapes), stem="taew", **options)
