"""`wanstreamer aot`: finds out what a program needs on TPUs, without a TPU."""

import argparse
import pathlib
from typing import Any

from wanstreamer_jax.cli.parsing import add_command, add_json, load_config, number
from wanstreamer_jax.errors import UserError


def add_aot(commands: Any) -> None:
  summary = "compile for a TPU topology on this machine: memory, FLOPs, collectives, the step's shortest time"
  examples = """
    wanstreamer aot --config configs/demo.py --topology v5e:2x2
    wanstreamer aot --config configs/qwen2p5_1p5b.py --topology v6e:2x4 --what train --config.data.batch=16
    wanstreamer aot --config configs/qwen2p5_1p5b.py --topology v6e:1x1 --what step --json
    wanstreamer aot --all --out docs/scale.md
    wanstreamer aot --growth --out docs/scale.png

    Needs libtpu: pip install 'wanstreamer-jax[aot]'. Nothing runs; large models take minutes. Training uses
    train.mesh, or fsdp over all chips of a slice; data.batch must be a multiple of data x fsdp.
  """
  parser = add_command(commands, "aot", summary, examples, aot)
  parser.add_argument("--config", metavar="FILE", help="a config file; change fields by --config.SECTION.FIELD=VALUE")
  parser.add_argument("--topology", metavar="NAME", help="such as v5e:2x2, v5p:4x4x8, v6e:16x16, tpu7x:2x2x1")
  parser.add_argument(
    "--slices",
    type=number(int, 1, 64),
    default=1,
    metavar="N",
    help="how many slices, joined by the mesh axis `data` (default: 1)",
  )
  parser.add_argument("--what", choices=("train", "step"), help="the training step, or one unit (default: both)")
  parser.add_argument(
    "--plan", action="store_true", help="stop after memory planning: all figures in a tenth of the time, but no code"
  )
  add_json(parser)
  parser.add_argument(
    "--all", action="store_true", help="compile the larger sizes for their pods and write a document; resumable"
  )
  parser.add_argument("--only", metavar="TEXT", default="", help="with --all: only cells with this text in their name")
  parser.add_argument(
    "--growth", action="store_true", help="draw how the step's time grows, as compiled and as timed on this CPU"
  )
  parser.add_argument(
    "--out", metavar="FILE", help="file for --all and --growth (default: docs/scale.md, docs/scale.png)"
  )


def aot(args: argparse.Namespace) -> None:
  if args.all:
    from wanstreamer_jax.aot import pods

    pods.scale_command(pathlib.Path(args.out or "docs/scale.md"), args.only, args.plan)
    return
  if args.growth:
    from wanstreamer_jax.aot import growth

    growth.growth_command(pathlib.Path(args.out or "docs/scale.png"), args.plan)
    return
  if not (args.config and args.topology):
    raise UserError("aot needs --config and --topology, --all or --growth; see wanstreamer aot --help")
  config = load_config(args)
  from wanstreamer_jax.aot import report

  report.aot_command(config, args.topology, args.what, args.slices, args.json, args.plan)
