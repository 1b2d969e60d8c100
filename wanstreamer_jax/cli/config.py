"""`wanstreamer config from-hf`: writes config files."""

import argparse
from typing import Any

from wanstreamer_jax.cli.parsing import add_command, add_group


def add_config_group(commands: Any) -> None:
  examples = """
    wanstreamer config from-hf models/Qwen3-1.7B --base configs/pods.py:qwen3_1p7b,v5p:4x4x4 --out my/qwen3.py
  """
  group = add_group(commands, "config", "write a config file", examples)
  add_from_hf(group)


def add_from_hf(group: Any) -> None:
  summary = "write a config with the geometry and the tokenizer of a language model's folder"
  examples = """
    wanstreamer config from-hf models/Qwen3-0.6B --base configs/nano.py --out my/qwen3.py
    wanstreamer train --config my/qwen3.py --config.data.path=data_cache/latents

    FOLDER is what the hub serves or save_pretrained writes for Qwen2, Qwen2.5 and Qwen3: config.json, tokenizer.json
    and safetensors. The file that is written is a diff of --base; training starts from the folder's weights.
  """
  parser = add_command(group, "from-hf", summary, examples, from_hf)
  parser.add_argument("folder", metavar="FOLDER", help="a language model's folder")
  parser.add_argument("--base", metavar="CONFIG", required=True, help="the config to change, FILE or FILE:ARGUMENT")
  parser.add_argument(
    "--hearing",
    metavar="DIR",
    default="",
    help="also hear through the encoder in DIR: Pocket TTS' tokenizer, Moonshine",
  )
  parser.add_argument(
    "--seeing", metavar="DIR", default="", help="also see through the encoder in DIR: SigLIP, SigLIP 2"
  )
  parser.add_argument("--out", metavar="FILE", required=True, help="the config file to write, a new *.py")


def from_hf(args: argparse.Namespace) -> None:
  from wanstreamer_jax.weights.qwen_config import write_config

  for line in write_config(args.folder, args.base, args.out, args.hearing, args.seeing):
    print(line)
