"""Writes what the repository says of its own files, from the first sentence of each file's docstring.

    python -m tests.helpers.tree

The docstring of a package folder ends with a list of the folder's modules, and README.md shows the folders, in the
order of `LAYERS` in `tests/test_layers.py`, top to bottom. `tests/test_repository.py` fails when either is behind.
"""

import ast
import pathlib
import re
import subprocess

from tests import ROOT
from tests.test_layers import LAYERS

PACKAGE = ROOT / "wanstreamer_jax"
BLOCK = re.compile(r"^```text\nwanstreamer_jax/\n.*?^```$", re.MULTILINE | re.DOTALL)
LONGEST = 85  # characters of a first sentence, so that every line of the lists fits into 120 columns


def tracked() -> list[str]:
  """Paths of the files that git tracks and that exist. Raises OSError or CalledProcessError outside git."""
  command = ["git", "-C", str(ROOT), "ls-files", "-z"]
  listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
  return [name for name in listed if name and not name.startswith(".") and (ROOT / name).is_file()]


def folders() -> list[pathlib.Path]:
  """The package folders, the highest layer first, each followed by those inside it."""
  top = [PACKAGE / group for groups in reversed(LAYERS) for group in groups if (PACKAGE / group).is_dir()]
  return [inside for folder in top for inside in (folder, *sorted(p.parent for p in folder.glob("*/__init__.py")))]


def modules(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def first_sentence(path: pathlib.Path) -> str:
  """What a module or folder says of itself, without the full stop; "" if it says nothing."""
  file = path / "__init__.py" if path.is_dir() else path
  paragraph = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
  return re.split(r"(?<=[a-z0-9)\]`\"'])\. ", paragraph)[0].rstrip(".")


def table(names: list[str], texts: list[str], indent: int) -> list[str]:
  """Two columns."""
  column = max(map(len, names)) + 3
  return [" " * indent + f"{name:<{column}}{text}".rstrip() for name, text in zip(names, texts)]


def folder_docstring(folder: pathlib.Path) -> str:
  """`__init__.py` of a folder: its own paragraphs and its code as they are, and the list of its folders and modules."""
  source = (folder / "__init__.py").read_text()
  parsed = ast.parse(source)
  docstring = ast.get_docstring(parsed, clean=False) or ""
  code = source.splitlines(keepends=True)[parsed.body[0].end_lineno :] if docstring else []
  own = docstring.split("\n\nModules:\n")[0].rstrip()
  inside = [*sorted(path.parent for path in folder.glob("*/__init__.py")), *modules(folder)]
  names = [path.name + "/" * path.is_dir() for path in inside]
  rows = table(names, list(map(first_sentence, inside)), 4)
  return "\n".join([f'"""{own}', "", "Modules:", *rows, '"""', ""]) + "".join(code)


def readme_block() -> str:
  """The fenced block of README.md: a line per top folder, and one for the modules beside them."""
  shown = [folder for folder in folders() if folder.parent == PACKAGE]
  names = ", ".join(path.stem for path in modules(PACKAGE) if path.name != "__main__.py")
  rows = table([f"{folder.name}/" for folder in shown] + ["*.py"], [*map(first_sentence, shown), names], 2)
  return "\n".join(["```text", "wanstreamer_jax/", *rows, "```"])


def main() -> None:
  for folder in folders():
    (folder / "__init__.py").write_text(folder_docstring(folder))
  readme = ROOT / "README.md"
  text = readme.read_text()
  if not BLOCK.search(text):
    raise SystemExit("README.md has no ```text block whose first line is wanstreamer_jax/")
  readme.write_text(BLOCK.sub(lambda _: readme_block(), text))


if __name__ == "__main__":
  main()
