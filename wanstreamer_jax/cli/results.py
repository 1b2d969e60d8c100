"""`--record PAGE`: copies what a measuring command prints into a Markdown page. The usual page is `docs/results.md`.

A block of the page is a heading with the command, a line with date and commit, and what was printed. The same command
replaces its block, and whatever else stands on the page stays. Figures get onto the page in no other way.
"""

import contextlib
import datetime
import io
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence

from wanstreamer_jax.cli.parsing import Parser
from wanstreamer_jax.errors import UserError

OPTION = "--record"


def add_record(parser: Parser) -> None:
  """The option of a command whose output is a result."""
  parser.add_argument(
    OPTION, metavar="PAGE", help="also write what is printed into this Markdown page (docs/results.md)"
  )


class Tee(io.TextIOBase):
  """Text that goes to the terminal and is kept."""

  def __init__(self, terminal: io.TextIOBase):
    self.terminal, self.kept = terminal, io.StringIO()

  def write(self, text: str) -> int:
    self.kept.write(text)
    return self.terminal.write(text)

  def flush(self) -> None:
    self.terminal.flush()


@contextlib.contextmanager
def recorded(page: str, arguments: Sequence[str]) -> Iterator[None]:
  """Puts what is printed inside into `page`; a command that fails leaves the page as it was."""
  check_page(page)
  tee = Tee(sys.stdout)  # type: ignore[arg-type]
  with contextlib.redirect_stdout(tee):
    yield
  write_block(pathlib.Path(page), command_line(arguments), provenance(), tee.kept.getvalue())


def check_page(page: str) -> None:
  """Raises UserError, before anything is measured, for a page that could not be written afterwards."""
  path = pathlib.Path(page)
  try:
    if path.exists() and not path.is_file():
      raise UserError(f"{OPTION} {page} is no file: give a Markdown page like docs/results.md")
    if not path.parent.is_dir():
      raise UserError(f"{OPTION} {page}: there is no folder {path.parent}")
    if path.exists():
      path.read_text(encoding="utf-8")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
      raise UserError(f"{OPTION} {page} may not be written")
  except UnicodeDecodeError:
    raise UserError(f"{OPTION} {page} is not a text in UTF-8: give a Markdown page") from None


def command_line(arguments: Sequence[str]) -> str:
  """The command as somebody would type it again, without `--record PAGE`."""
  kept, rest = [], iter(arguments)
  for argument in rest:
    if argument == OPTION:
      next(rest, None)
    elif not argument.startswith(f"{OPTION}="):
      kept.append(argument)
  return shlex.join(["wanstreamer", *kept])


def provenance() -> str:
  """When, and with which code."""
  from wanstreamer_jax.train.provenance import git_revision

  found = git_revision()
  commit = f", commit {found['revision'][:7]}" if found["revision"] else ""
  return f"{datetime.date.today().isoformat()}{commit}{', with changes' if found['dirty'] else ''}"


def write_block(page: pathlib.Path, command: str, origin: str, printed: str) -> None:
  """Puts the block of a command into a page, in place of its older one or at the end."""
  from wanstreamer_jax.files import write_text

  text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
  lines = printed.strip("\n")  # and no spaces: the head of a table begins with some
  block = f"## `{command}`\n\n{origin}\n\n```text\n{lines}\n```\n"
  older = re.compile(rf"^## `{re.escape(command)}`\n.*?^```text\n.*?^```\n", re.MULTILINE | re.DOTALL)
  if older.search(text):
    text = older.sub(lambda _: block, text)
  else:
    text = f"{text.rstrip()}\n\n{block}"
  write_text(page, text)
