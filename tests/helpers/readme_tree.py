"""Writes the tree in README.md: every file that git tracks, with the first line of what it says of itself.

    python -m tests.helpers.readme_tree

A Python file speaks through the first sentence of its docstring, a folder through its `__init__.py`, a shell script
through its first comment, a Markdown file through its heading. `test_repository.py` fails when README.md is behind.
"""

import ast
import pathlib
import re
import subprocess

from tests import ROOT

BLOCK = re.compile(r"^```text\nwanstreamer-jax/\n.*?^```$", re.MULTILINE | re.DOTALL)
WIDTH = 118

# What cannot speak for itself, and folders that are told in one line.
FOLDERS = {
  "configs": "one file per size or experiment; each says its command, time and result",
  "configs/ablations": "short diffs of `tiny`, each with its hypothesis",
  "docs": "what the paper says and what was chosen, results",
  "launch": "what a newcomer starts, and what a cluster does",
  "launch/kubernetes": "the live service on GPU and TPU nodes: deployment, service, autoscaling",
  "launch/gke": "training on GKE: JobSets for one slice and for several",
  "wanstreamer_jax/serve/page": "the page that people talk with the agent on",
  "tests": "the laws of the design, and everything else that must not break",
  "wanstreamer_jax": "the package, in layers: a file imports only from lower ones (`tests/test_layers.py`)",
  "wanstreamer_jax/weights/demo": "the demo weights, in a compact form",
}
COLLAPSED = ("configs/ablations", "docs/media", "tests", "wanstreamer_jax/weights/demo")
FILES = {
  "LICENSE": "Apache-2.0",
  "pyproject.toml": "settings of ruff, mypy and pytest",
  "requirements.txt": "what it runs on",
  "setup.cfg": "the package, its extras and its command",
}


def tracked() -> list[str]:
  """Paths of tracked files that exist, without dot files. Raises OSError or CalledProcessError outside git."""
  command = ["git", "-C", str(ROOT), "ls-files", "-z"]
  listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
  return [name for name in listed if name and not name.startswith(".") and (ROOT / name).is_file()]


def first_sentence(text: str) -> str:
  """The first sentence of a paragraph, without its full stop."""
  paragraph = " ".join(text.strip().split("\n\n")[0].split())
  return re.split(r"(?<=[a-z0-9)\]`\"'])\. ", paragraph)[0].rstrip(".")


def description(name: str) -> str:
  """One line about a file or folder, in its own words; "" if it has none."""
  path = ROOT / name
  if path.is_dir():
    return FOLDERS.get(name) or (description(f"{name}/__init__.py") if (path / "__init__.py").exists() else "")
  if name in FILES:
    return FILES[name]
  if path.suffix == ".py":
    return first_sentence(ast.get_docstring(ast.parse(path.read_text())) or "")
  if path.suffix == ".sh":
    return first_sentence(" ".join(line[2:] for line in path.read_text().splitlines()[1:2]))
  if path.suffix == ".md":
    return path.read_text().split("\n", 1)[0].lstrip("# ")
  return ""


def entries() -> list[str]:
  """What the tree shows, folders (ending in /) before their content, in the order of a directory listing."""
  shown = set()
  for name in tracked():
    parts = pathlib.PurePosixPath(name).parts
    for depth in range(1, len(parts) + 1):
      part = "/".join(parts[:depth])
      is_folder = depth < len(parts)
      if parts[depth - 1] != "__init__.py" and (is_folder or parts[-1].endswith((".py", ".sh", ".md")) or depth == 1):
        shown.add(part + "/" * is_folder)
      if part in COLLAPSED:
        break
  return sorted(shown, key=lambda entry: entry.rstrip("/").split("/"))


def tree() -> str:
  """The fenced block of README.md."""
  names = entries()
  column = max(2 * entry.rstrip("/").count("/") + len(entry.rstrip("/").split("/")[-1]) for entry in names) + 5
  lines = ["```text", "wanstreamer-jax/"]
  for entry in names:
    name = entry.rstrip("/")
    label = "  " * (name.count("/") + 1) + name.split("/")[-1] + "/" * entry.endswith("/")
    line = f"{label:<{column}}{description(name)}".rstrip()
    lines.append(shortened(line, column))
  return "\n".join([*lines, "```"])


def shortened(line: str, column: int) -> str:
  """The line within WIDTH: cut before another clause or an aside that does not fit, otherwise after a word."""
  if len(line) <= WIDTH:
    return line
  kept = line[: WIDTH - 3].rsplit(" ", 1)[0]
  if kept.count("(") > kept.count(")"):
    kept = kept[: kept.rfind(" (")]
  clause = kept.rfind("; ")
  return kept[:clause] if clause > column + 20 else kept.rstrip(",:;") + " ..."


def main() -> None:
  readme = ROOT / "README.md"
  text = readme.read_text()
  if not BLOCK.search(text):
    raise SystemExit("README.md has no ```text block whose first line is wanstreamer-jax/")
  readme.write_text(BLOCK.sub(lambda _: tree(), text))


if __name__ == "__main__":
  main()
