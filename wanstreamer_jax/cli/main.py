"""The `wanstreamer` command: calls the sub-command and turns errors into exit statuses. An error is one line.

A sub-command is a function of a module beside this one that adds its parser. Nothing in this folder imports more than
the standard library before a handler runs, so that `--help` answers at once. Whatever a user can cause ends in one line
on stderr and status 2; Ctrl-C ends in status 130. WANSTREAMER_DEBUG=1 shows the traceback as well.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from wanstreamer_jax import __version__
from wanstreamer_jax.cli import aot, bench, codec, config, data, evaluate, inspect, serve, stream, train
from wanstreamer_jax.cli.parsing import Parser
from wanstreamer_jax.cli.results import recorded
from wanstreamer_jax.errors import UserError

PROGRAM = "wanstreamer"
ADDERS = (
  stream.add_stream, serve.add_serve, serve.add_client,
  config.add_config_group, data.add_data, codec.add_codec, train.add_train, train.add_export, evaluate.add_eval,
  evaluate.add_ablate,
  bench.add_bench, aot.add_aot, inspect.add_inspect,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command line. Returns the exit status: 0, 1 (a defect), 2 (bad input), 75 (a lost host), 130 (Ctrl-C)."""
  return guarded(lambda: run(sys.argv[1:] if arguments is None else arguments))


def guarded(job: Callable[[], None]) -> int:
  """Runs the job of a command line; the exit status, with what went wrong said in one line."""
  try:
    if threading.current_thread() is threading.main_thread():
      signal.signal(signal.SIGTERM, _terminated)
    job()
    if sys.stdout is not None:  # closed by the caller: `wanstreamer ... >&-`
      sys.stdout.flush()
    return 0
  except UserError as error:
    return fail(f"error: {error}", error.status)
  except KeyboardInterrupt as interrupt:
    return fail(str(interrupt) or "interrupted", 130)
  except BrokenPipeError:  # the reader went away: `wanstreamer inspect ... | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except OSError as error:
    named = f"{error.filename}: " if error.filename else ""
    return fail(f"error: {named}{error.strerror or error}", 2)
  except Exception as error:
    hint = "this is a bug; WANSTREAMER_DEBUG=1 shows where"
    return fail(f"error: {type(error).__name__}: {error} ({hint})", 1)


def _terminated(number: int, frame: object) -> None:
  """SIGTERM ends as Ctrl-C does: cleanly, with the work kept."""
  raise KeyboardInterrupt("terminated")


def fail(message: str, status: int) -> int:
  """Says what went wrong on one line, below the traceback if that was asked for."""
  if os.environ.get("WANSTREAMER_DEBUG", "") not in ("", "0"):
    import traceback

    traceback.print_exc()
  line = f"{PROGRAM}: {' '.join(message.split())}"
  exit_reason = sys.modules.get("wanstreamer_jax.parallel.exit_reason")
  if exit_reason is not None:
    exit_reason.end(status, line)  # in a job of several processes all end so
  print(line, file=sys.stderr, flush=True)
  return status


def run(arguments: Sequence[str]) -> None:
  """Parses and calls the handler. `--config.section.field=value` may stand anywhere after a command with --config."""
  typed, overrides = list(arguments), list[str]()
  if any(argument.startswith("--config.") for argument in arguments):
    from wanstreamer_jax.config_files import split_overrides

    overrides, arguments = split_overrides(arguments)
  args = build_parser().parse_args(arguments)
  if overrides and not hasattr(args, "config"):
    raise UserError(f"{overrides[0]!r}: this command takes no --config")
  if overrides and args.config is None:
    raise UserError(f"{overrides[0]!r} changes a field of a config file: give --config FILE too")
  args.overrides = overrides
  ignore_absent_tpu()
  page = getattr(args, "record", None)
  with contextlib.nullcontext() if page is None else recorded(page, typed):
    args.handler(args)


def ignore_absent_tpu() -> None:
  """Keeps jax from looking, loudly, for a TPU where libtpu is only installed to compile for one (`wanstreamer aot`)."""
  import glob
  from importlib.util import find_spec

  accelerators = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*") + glob.glob("/dev/nvidia*")
  if "JAX_PLATFORMS" not in os.environ and not accelerators and find_spec("libtpu"):
    os.environ["JAX_PLATFORMS"] = "cpu"


def build_parser() -> Parser:
  parser = Parser(
    prog=PROGRAM,
    description="Full-duplex audio-visual agent in units of 160 ms: Wan-Streamer v0.1 in JAX.",
    epilog="Every command has --help with examples. Documentation: README.md and docs/.",
  )
  parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
  commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
  for add in ADDERS:
    add(commands)
  return parser
