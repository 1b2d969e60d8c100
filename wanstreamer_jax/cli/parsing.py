"""Helpers that the parsers of all sub-commands share. Standard library only, so that `--help` answers at once."""

import argparse
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from wanstreamer_jax.errors import UserError

Handler = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
  """An ArgumentParser whose errors are one line, and whose epilogs keep their lines."""

  def __init__(self, **options: Any):
    super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}; see {self.prog} --help")


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


def add_config(parser: Parser, required: bool = True) -> None:
  """`--config`; where it may be left out, random weights of that config stand in for a checkpoint's."""
  instead = "" if required else " (random weights instead of a checkpoint's)"
  parser.add_argument(
    "--config", metavar="FILE", required=required,
    help=f"a config file{instead}; change any of its fields by --config.SECTION.FIELD=VALUE",
  )  # fmt: skip


def load_config(args: argparse.Namespace) -> Any:
  """The frozen config that the command line asks for."""
  from wanstreamer_jax import config_files

  return config_files.load_config(args.config, args.overrides)


MAX_NUMBER = 2**31 - 1  # as in config/section.py, which would take longer to import than `--help` should


def number(kind: Callable[[str], Any], minimum: float, maximum: float = MAX_NUMBER) -> Callable[[str], Any]:
  """An argparse type: a number from `minimum` to `maximum`."""

  def parse(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      value = None
    if value is None or not minimum <= value <= maximum:
      bound = f"at most {maximum}" if value is not None and value > maximum else f"at least {minimum}"
      raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole' if kind is int else 'a'} number of {bound}")
    return value

  return parse


def folder(text: str) -> str:
  """An argparse type: a folder to write into."""
  if not text.strip().rstrip("/"):
    raise argparse.ArgumentTypeError(f"{text!r} is not a folder that can be written: give one like out/name")
  return text


def add_out(parser: Parser, text: str = "folder to write", default: str | None = None) -> None:
  """`--out`, a folder; required unless there is a default."""
  text += f" (default: {default})" if default else ""
  parser.add_argument("--out", type=folder, metavar="DIR", required=default is None, default=default, help=text)


def add_json(parser: Parser) -> None:
  parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_agent(parser: Parser) -> None:
  """Adds the options that choose the weights and how they are run."""
  parser.add_argument("--checkpoint", metavar="C", default="demo", help="exported weights (default: the shipped ones)")
  parser.add_argument("--kv", choices=("plain", "int8"), help="number format of the KV-cache (default: as in training)")
  parser.add_argument(
    "--steps", type=number(int, 1), metavar="N", help="steps of the solver; a session may ask for fewer"
  )
  parser.add_argument("--guidance", type=number(float, 0), metavar="SCALE",
                      help="run a second, unconditional branch at this scale; sessions may choose another")  # fmt: skip


def agent_overrides(args: argparse.Namespace) -> list[str]:
  """Returns the choices of `add_agent` as fields of the config."""
  chosen = {"model.kv_cache": args.kv, "flow.steps": args.steps, "flow.guidance": args.guidance}
  return [f"{name}={value}" for name, value in chosen.items() if value is not None]


def add_world(parser: Parser) -> None:
  parser.add_argument("--world", metavar="W.json", help="persona text, portrait and voice (default: the checkpoint's)")


def add_service(parser: Parser) -> None:
  """How many sessions an engine serves, and on which devices it runs."""
  parser.add_argument("--slots", type=number(int, 1), default=1, help="how many may talk at once (default: 1)")
  parser.add_argument("--placement", choices=("fused", "split", "group"), default="fused",
                      help="run the solver with the rest, on a second device, or on all others")  # fmt: skip
  parser.add_argument("--performers", type=number(int, 1), metavar="N", help="devices of a group (default: all others)")
