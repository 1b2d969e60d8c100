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
  for add in (add_layout, add_checkpoint, add_model):
    add(group)


def add_layout(group: Any) -> None:
  summary = "print a unit's layout as a table, and its mask"
  examples = """
    wanstreamer inspect layout --config configs/demo.py
    wanstreamer inspect layout --config configs/demo.py --config.layout.commit_delay=2 --units 3 --png mask.png
  """
  parser = add_command(group, "layout", summary, examples, inspect_layout)
  add_config(parser)
  parser.add_argument("--units", type=number(int, 1), default=2, metavar="K", help="units of the mask (default: 2)")
  parser.add_argument("--png", metavar="FILE", help="also write the mask, token by token, as a PNG")


def inspect_layout(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.cli import inspect_report

  print(*inspect_report.layout_lines(config), "", *inspect_report.mask_lines(config, args.units), sep="\n")
  if args.png:
    print(f"\nwrote {inspect_report.draw_mask(config, args.units, args.png)}")


def add_checkpoint(group: Any) -> None:
  summary = "print a checkpoint's tree, sizes and parameter counts without loading it"
  examples = """
    wanstreamer inspect checkpoint runs/tiny                        the last one of a run
    wanstreamer inspect checkpoint runs/tiny/checkpoints/400 --depth 9
  """
  parser = add_command(group, "checkpoint", summary, examples, inspect_checkpoint)
  parser.add_argument("path", metavar="PATH", help="a run, one of its checkpoints, or exported weights")
  add_depth(parser)


def inspect_checkpoint(args: argparse.Namespace) -> None:
  from wanstreamer_jax.cli import inspect_report

  print(*inspect_report.checkpoint_lines(args.path, args.depth), sep="\n")


def add_model(group: Any) -> None:
  summary = "print what hears, sees, thinks, speaks and draws, and what each costs; nothing is allocated"
  examples = """
    wanstreamer inspect model --config configs/demo.py
    wanstreamer inspect model --config configs/qwen3_8b.py:640x368 --depth 4
  """
  parser = add_command(group, "model", summary, examples, inspect_model)
  add_config(parser)
  add_depth(parser)


def inspect_model(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.cli import inspect_report

  print(*inspect_report.model_lines(config, args.depth), sep="\n")


def add_depth(parser: Parser) -> None:
  parser.add_argument("--depth", type=number(int, 0), default=3, metavar="N", help="levels of the tree (default: 3)")
