"""`wanstreamer inspect layout | checkpoint | model`."""

import argparse
from typing import Any

from wanstreamer_jax.cli.parsing import Parser, add_command, add_config, add_group, load_config, number


def add_inspect(commands: Any) -> None:
  examples = """
    wanstreamer inspect layout --config configs/demo.py
    wanstreamer inspect checkpoint runs/tiny
    wanstreamer inspect model --config configs/qwen3_8b.py
  """
  group = add_group(commands, "inspect", "show a layout and its mask, a checkpoint, or a model's sizes", examples)

  layout = add_command(
    group, "layout", "print a unit's layout as a table, and who sees whom as a picture",
    """
    wanstreamer inspect layout --config configs/demo.py
    wanstreamer inspect layout --config configs/demo.py --config.layout.commit_delay=2 --units 3 --png mask.png
    """, inspect_layout,
  )  # fmt: skip
  add_config(layout)
  layout.add_argument("--units", type=number(int, 1), default=2, metavar="K", help="units of the picture (default: 2)")
  layout.add_argument("--png", metavar="FILE", help="also write the mask, token by token, as a PNG")

  checkpoint = add_command(
    group, "checkpoint", "print a checkpoint's tree, sizes and parameter counts without loading it",
    """
    wanstreamer inspect checkpoint runs/tiny                        the last one of a run
    wanstreamer inspect checkpoint runs/tiny/checkpoints/400 --depth 9
    """, inspect_checkpoint,
  )  # fmt: skip
  checkpoint.add_argument("path", metavar="PATH", help="a run, one of its checkpoints, or exported weights")
  add_depth(checkpoint)

  model = add_command(
    group, "model", "print a config's parameter counts by part; nothing is allocated",
    """
    wanstreamer inspect model --config configs/demo.py
    wanstreamer inspect model --config configs/qwen3_8b.py:640x368 --depth 4
    """, inspect_model,
  )  # fmt: skip
  add_config(model)
  add_depth(model)


def add_depth(parser: Parser) -> None:
  parser.add_argument("--depth", type=number(int, 0), default=3, metavar="N", help="levels of the tree (default: 3)")


def inspect_layout(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.cli import inspect_report

  print(*inspect_report.layout_lines(config), "", *inspect_report.mask_lines(config, args.units), sep="\n")
  if args.png:
    print(f"\nwrote {inspect_report.draw_mask(config, args.units, args.png)}")


def inspect_checkpoint(args: argparse.Namespace) -> None:
  from wanstreamer_jax.cli import inspect_report

  print(*inspect_report.checkpoint_lines(args.path, args.depth), sep="\n")


def inspect_model(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.cli import inspect_report

  print(*inspect_report.model_lines(config, args.depth), sep="\n")
