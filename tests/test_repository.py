"""The repository as a visitor finds it: no machine's paths, no large files, and what it says of itself is true."""

import configparser
import importlib
import os
import pathlib
import re
import shlex
import subprocess

import pytest

from tests import ROOT
from tests.helpers import tree
from wanstreamer_jax.cli.main import build_parser

TEXT_SUFFIXES = {".py", ".md", ".sh", ".txt", ".cfg", ".toml", ".yaml", ".yml", ".json", ".html", ".css", ".js", ""}
LARGE = 1_000_000  # bytes; anything above needs a line in ALLOWED
ALLOWED = {"wanstreamer_jax/weights/demo": 16_000_000}  # the shipped demo weights, at most 16 MB together
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|home|root|Users|mnt)/[\w.-]+")


def listed_files() -> list[pathlib.Path]:
  """Files that git tracks; without git (an archive) the test is skipped."""
  try:
    return [ROOT / name for name in tree.tracked()]
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("not a git checkout")


def test_readme_shows_the_folders():
  block = tree.BLOCK.search((ROOT / "README.md").read_text())
  assert block is not None, "README.md has no ```text block whose first line is wanstreamer_jax/"
  assert block.group(0) == tree.readme_block(), "README.md is behind; write it with: python -m tests.helpers.tree"


@pytest.mark.parametrize("folder", tree.folders(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_lists_its_modules(folder):
  written = (folder / "__init__.py").read_text()
  assert written == tree.folder_docstring(folder), "it is behind; write it with: python -m tests.helpers.tree"


def test_every_module_says_what_it_is_in_a_short_first_sentence():
  files = [*tree.PACKAGE.rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
  sentences = {file.relative_to(ROOT).as_posix(): tree.first_sentence(file) for file in files}
  assert [name for name, sentence in sentences.items() if not sentence] == []
  assert {name: len(sentence) for name, sentence in sentences.items() if len(sentence) > tree.LONGEST} == {}


def test_the_root_holds_eight_modules():
  found = {path.stem for path in tree.modules(tree.PACKAGE)} - {"__main__"}
  assert found == {"config_files", "errors", "files", "flow", "rollout", "teacher_forcing", "units"}


def test_readme_links_lead_somewhere():
  for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
      if not target.startswith(("http://", "https://", "mailto:")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}, which does not exist"


def test_no_path_of_a_machine():
  for path in listed_files():
    if path.suffix in TEXT_SUFFIXES and path != pathlib.Path(__file__):
      found = MACHINE_PATHS.findall(path.read_text(errors="replace"))
      assert found == [], f"{path.relative_to(ROOT)} names paths of one machine: {found}"


def test_files_are_small():
  sums = dict.fromkeys(ALLOWED, 0)
  for path in listed_files():
    name, size = path.relative_to(ROOT).as_posix(), path.stat().st_size
    folder = next((folder for folder in ALLOWED if name.startswith(folder + "/")), None)
    if folder is None:
      assert size <= LARGE, f"{name} has {size} bytes, more than {LARGE}"
    else:
      sums[folder] += size
  for folder, size in sums.items():
    assert size <= ALLOWED[folder], f"{folder} has {size} bytes, more than {ALLOWED[folder]}"


def test_launch_files_are_valid_shell():
  for path in [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
  assert os.access(ROOT / ".ci" / "run", os.X_OK), ".ci/run must be executable"


def test_the_installed_command_is_a_function():
  settings = configparser.ConfigParser()
  settings.read(ROOT / "setup.cfg")
  scripts = [line for line in settings["options.entry_points"]["console_scripts"].splitlines() if line]
  for line in scripts:
    module, _, name = line.partition("=")[2].strip().partition(":")
    assert callable(getattr(importlib.import_module(module), name)), line


COMMAND = re.compile(r"^(?:\$ )?wanstreamer (?!COMMAND)(.*?)(?:\s+#.*|\s{3,}\S.*)?$", re.MULTILINE)


def documented_commands() -> list[str]:
  """Commands in the code blocks of the documents, with their lines joined."""
  documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
  blocks = [block for file in documents for block in re.findall(r"```bash\n(.*?)```", file.read_text(), re.DOTALL)]
  found = [match for block in blocks for match in COMMAND.findall(re.sub(r"\\\n\s*", " ", block))]
  return sorted({command for command in found if "..." not in command and "|" not in command})


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_are_understood(command):
  words = [word for word in shlex.split(command) if not word.startswith("--config.") and word != "&"]
  build_parser().parse_args(words)
