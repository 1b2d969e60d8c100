"""`wanstreamer aot`: what a program needs on TPUs, found without one."""

import argparse
from typing import Any

from wanstreamer_jax.commands.parsing import add_command, add_config, load_config


def add_aot(commands: Any) -> None:
  parser = add_command(
    commands, "aot", "compile for a TPU topology on this machine: memory per chip, FLOPs, collectives",
    """
    wanstreamer aot --config configs/demo.py --topology v5e:2x2 --what train
    wanstreamer aot --config configs/qwen2p5_1p5b.py --topology v6e:2x4 --what train
    wanstreamer aot --config configs/qwen2p5_1p5b.py --topology v6e:1x1 --what step --json

    Needs libtpu: pip install 'wanstreamer-jax[aot]'. Nothing runs; minutes for large models. Training takes
    train.mesh, or fsdp over all chips; data.batch must be a multiple of data x fsdp.
    """, aot,
  )  # fmt: skip
  add_config(parser)
  parser.add_argument(
    "--topology", required=True, metavar="NAME", help="such as v5e:2x2, v5p:2x2x1, v6e:2x4, v6e:16x16"
  )
  parser.add_argument("--what", choices=("train", "step"), required=True, help="the training step, or one unit")
  parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def aot(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax import aot

  aot.aot_command(config, args.topology, args.what, args.json)
