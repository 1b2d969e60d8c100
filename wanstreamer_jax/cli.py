"""The `wanstreamer` command: parsers and examples here, the work in the modules that the handlers import when called.

Only the standard library is imported at the top, so that `--help` answers at once. Whatever a user can cause ends in
one line on stderr and status 2; Ctrl-C ends in status 130. WANSTREAMER_DEBUG=1 shows the traceback as well.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from wanstreamer_jax import __version__
from wanstreamer_jax.errors import UserError

PROGRAM = "wanstreamer"
Handler = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
  """An ArgumentParser whose errors are one line, and whose epilogs keep their lines."""

  def __init__(self, **options: Any):
    super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit status: 0, 1 (a defect), 2 (bad input), 130 (Ctrl-C)."""
  try:
    run(sys.argv[1:] if arguments is None else arguments)
    sys.stdout.flush()
    return 0
  except UserError as error:
    return fail(f"error: {error}", 2)
  except KeyboardInterrupt as interrupt:
    return fail(str(interrupt) or "interrupted", 130)
  except BrokenPipeError:  # the reader went away: `wanstreamer inspect ... | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except OSError as error:
    named = f"{error.filename}: " if error.filename else ""
    return fail(f"error: {named}{error.strerror or error}", 2)
  except Exception as error:
    hint = "this is a defect of the program; WANSTREAMER_DEBUG=1 shows where"
    return fail(f"error: {type(error).__name__}: {error} ({hint})", 1)


def fail(message: str, status: int) -> int:
  """Says what went wrong on one line, below the traceback if that was asked for."""
  if os.environ.get("WANSTREAMER_DEBUG", "") not in ("", "0"):
    import traceback

    traceback.print_exc()
  print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr, flush=True)
  return status


def run(arguments: Sequence[str]) -> None:
  """Parses and calls the handler. `--config.section.field=value` may stand anywhere after a command with --config."""
  overrides: list[str] = []
  if any(argument.startswith("--config.") for argument in arguments):
    from wanstreamer_jax.config_files import split_overrides

    overrides, arguments = split_overrides(arguments)
  args = build_parser().parse_args(arguments)
  if overrides and not hasattr(args, "config"):
    raise UserError(f"{overrides[0]!r}: this command takes no --config")
  args.overrides = overrides
  args.handler(args)


def build_parser() -> Parser:
  parser = Parser(
    prog=PROGRAM,
    description="Full-duplex audio-visual agent in units of 160 ms: Wan-Streamer v0.1 in JAX.",
    epilog="Every command has --help with examples. Documentation: README.md and docs/.",
  )
  parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
  commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
  add_train(commands)
  add_inspect(commands)
  return parser


def add_command(commands: Any, name: str, summary: str, examples: str, handler: Handler | None = None) -> Parser:
  """A sub-command. summary: one line, for both helps; examples: indented lines for its own."""
  epilog = "examples:\n" + textwrap.indent(textwrap.dedent(examples).strip("\n"), "  ")
  parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=epilog)
  if handler is not None:
    parser.set_defaults(handler=handler)
  return parser


def add_group(commands: Any, name: str, summary: str, examples: str) -> Any:
  """A sub-command that only has sub-commands. Returns what they are added to."""
  parser = add_command(commands, name, summary, examples)
  return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_config(parser: Parser) -> None:
  parser.add_argument(
    "--config", metavar="FILE", required=True,
    help="a config file; change any of its fields by --config.SECTION.FIELD=VALUE",
  )  # fmt: skip


def load_config(args: argparse.Namespace) -> Any:
  """The frozen config that the command line asks for."""
  from wanstreamer_jax import config_files

  return config_files.load_config(args.config, args.overrides)


def number(kind: Callable[[str], Any], least: float) -> Callable[[str], Any]:
  """An argparse type: a number of at least `least`."""

  def parse(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      value = None
    if value is None or not value >= least:
      raise argparse.ArgumentTypeError(
        f"{text!r} is not {'a whole' if kind is int else 'a'} number of at least {least}"
      )
    return value

  return parse


def add_train(commands: Any) -> None:
  examples = """
    wanstreamer train --config=configs/tiny.py
    wanstreamer train --config=configs/tiny.py --config.train.steps=500 --config.train.run=runs/short
    wanstreamer train --config=configs/tiny.py --config.train.mesh=data=2,fsdp=4

    The same command continues a run that was stopped.
  """
  add_config(add_command(commands, "train", "train a stage from a config file, or continue its run", examples, train))


def train(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.train.loop import train as train_stage
  from wanstreamer_jax.train.stages import get_stage

  train_stage(get_stage(config.train.stage), config)


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
  from wanstreamer_jax import inspect_cmd

  print(*inspect_cmd.layout_lines(config), "", *inspect_cmd.mask_lines(config, args.units), sep="\n")
  if args.png:
    print(f"\nwrote {inspect_cmd.draw_mask(config, args.units, args.png)}")


def inspect_checkpoint(args: argparse.Namespace) -> None:
  from wanstreamer_jax import inspect_cmd

  print(*inspect_cmd.checkpoint_lines(args.path, args.depth), sep="\n")


def inspect_model(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax import inspect_cmd

  print(*inspect_cmd.model_lines(config, args.depth), sep="\n")
