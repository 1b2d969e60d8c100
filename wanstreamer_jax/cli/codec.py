"""`wanstreamer codec import`: pretrained codecs of other libraries."""

import argparse
import shlex
from typing import Any

from wanstreamer_jax.cli.parsing import add_command, add_config, add_group, add_out, load_config


def add_codec(commands: Any) -> None:
  examples = """
    wanstreamer codec import pocket-tts-audio-tokenizer --config configs/mine.py --records data_cache/train \\
      --out codecs/pocket
    wanstreamer codec import Wan2.2-TI2V-5B-Diffusers/vae --config configs/mine.py --decoder taew2_2.safetensors \\
      --out codecs/wan
  """
  add_import(add_group(commands, "codec", "import pretrained codecs", examples))


def add_import(group: Any) -> None:
  summary = "turn a folder of the Pocket TTS tokenizer or of Wan's video VAE into a codec of this system"
  examples = """
    wanstreamer codec import pocket-tts-audio-tokenizer --config configs/mine.py --records data_cache/train \\
      --out codecs/pocket
    wanstreamer codec import Wan2.1-T2V-1.3B-Diffusers/vae --config configs/mine.py --out codecs/wan
    wanstreamer codec import Wan2.2-TI2V-5B-Diffusers/vae --config configs/mine.py --decoder taew2_2.safetensors \\
      --out codecs/wan

    The result is what `data encode` and `export` take as --audio-codec or --video-codec. The command prints the fields
    of the config that must name it. Latents are standardised as the folder says, or over the records that are given.
  """
  parser = add_command(group, "import", summary, examples, import_codec)
  parser.add_argument("folder", metavar="FOLDER", help="with config.json and safetensors, as it was downloaded")
  add_config(parser)
  add_out(parser)
  parser.add_argument(
    "--decoder", metavar="TAE", help="folder or file of TAEW2.1 or TAEW2.2, to decode Wan's latents in little time"
  )
  parser.add_argument("--records", metavar="DIR", help="media records over which mean and deviation are measured")
  parser.add_argument(
    "--write-config", metavar="FILE", help="write a config file, a diff of --config, that names this codec"
  )
  parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="number format on disk (default: f32)")


def import_codec(args: argparse.Namespace) -> None:
  from wanstreamer_jax.config_files import check_new_config, write_config_diff

  if args.write_config:
    check_new_config(args.write_config)
  config = load_config(args)
  from wanstreamer_jax.errors import CheckpointError
  from wanstreamer_jax.weights import import_codec as importing
  from wanstreamer_jax.weights.agent import without_paths
  from wanstreamer_jax.weights.store import export_weights

  found = importing.import_codec(args.folder, config, args.decoder)
  codec, measured = found.codec, f"as {args.folder} says"
  if args.records:
    from wanstreamer_jax.train.codecs import standardised_over

    codec = standardised_over(codec, args.records, found.config, found.part.removesuffix("_codec"))
    measured = f"over {args.records}"
  elif not found.standardised:
    raise CheckpointError(
      f"{args.folder} does not say the mean and deviation of its latents: give --records DIR, a folder that "
      "`wanstreamer data make` wrote, to measure them"
    )
  size = export_weights(codec, without_paths(found.config), args.out, args.dtype)
  kind = getattr(found.config, found.part).kind
  print(*found.notes, sep="\n")
  print(f"{args.out}: {size / 1e6:.1f} MB, {found.part} of kind {kind}, latents standardised {measured}")
  named = args.config
  if args.write_config:
    about = "Written by `wanstreamer codec import`."
    write_config_diff(args.write_config, args.config, found.config, f"the codec of {args.folder}", about)
    print(f"{args.write_config}: {args.config} with the fields that name this codec")
    named = args.write_config
  elif changes := importing.flags(config, found.config):
    print(f"{args.config} does not name this codec yet; set these fields, or give: {shlex.join(changes)}")
  flag = found.part.replace("_", "-")
  print(f"next: wanstreamer data encode MEDIA --config {named} --{flag} {args.out} --out LATENTS")
