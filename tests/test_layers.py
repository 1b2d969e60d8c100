"""The import rule: a file imports only from lower layers, found by reading the syntax tree of every file.

LAYERS below is the table that CONTRIBUTING.md points at.
"""

import ast
import pathlib
import sys

import pytest

from tests import ROOT

PACKAGE = "wanstreamer_jax"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))

# Groups on one line never import each other; a group imports from the lines above it, and inside itself.
LAYERS = (
  ("errors", "files", "flow"),
  ("config", "nn", "parallel"),
  ("config_files", "units"),
  ("codecs",),
  ("perception",),
  ("model",),
  ("rollout",),
  ("data",),
  ("engine", "teacher_forcing", "weights"),
  ("train", "serve", "eval"),
  ("aot",),
  ("bench",),
  ("cli",),
  ("__main__",),
)
LEVEL = {group: level for level, groups in enumerate(LAYERS) for group in groups}

# Data code and the protocol run in worker processes and clients, and `--help` must answer at once: no jax in these.
NO_JAX = ("__init__.py", "__main__.py", "cli/main.py", "errors.py", "data/session.py", "serve/protocol.py")
NO_JAX_FOLDERS = ("config/", "data/duplex_world/", "parallel/xla_flags.py")
STANDARD_LIBRARY_ONLY = ("__init__.py", "__main__.py", "cli/", "config/", "errors.py", "parallel/xla_flags.py")
HEAVY = ("cli/inspect_report.py", "cli/inspect_parts.py")  # which a handler imports
# All that the package's own __init__ imports: it sets flags before jax reads them.
FLAGS = f"{PACKAGE}.parallel.xla_flags"


def module_of(path: pathlib.Path) -> str:
  """wanstreamer_jax/nn/blocks.py -> wanstreamer_jax.nn.blocks; a package's __init__ is the package."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def group_of(module: str) -> str:
  """The folder or file of the package's top level that a module belongs to; "" is the package itself."""
  parts = module.split(".")
  return parts[1] if len(parts) > 1 else ""


def is_typing_block(node: ast.AST) -> bool:
  """Whether a node is `if TYPE_CHECKING:`, whose imports no program runs."""
  return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(source: str, module: str, top_level_only: bool = False) -> list[tuple[int, str]]:
  """(line, full module name) of everything a source imports; `from package import name` counts as package.name."""
  tree = ast.parse(source)
  typing_only = {id(node) for block in ast.walk(tree) if is_typing_block(block) for node in ast.walk(block)}
  nodes = [node for node in (tree.body if top_level_only else ast.walk(tree)) if id(node) not in typing_only]
  found = []
  for node in nodes:
    if isinstance(node, ast.Import):
      found += [(node.lineno, alias.name) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        parent = module.split(".")[: -node.level]
        base = ".".join([*parent, base] if base else parent)
      found += [(node.lineno, f"{base}.{alias.name}" if base == PACKAGE else base) for alias in node.names]
  return found


def violations(source: str, module: str) -> list[str]:
  """What a file imports that its layer does not allow, one line each."""
  own = group_of(module)
  out = []
  for line, name in imports_of(source, module):
    group = group_of(name)
    if name.split(".")[0] != PACKAGE or group in ("", "__version__", own) or (module, name) == (PACKAGE, FLAGS):
      continue
    if group not in LEVEL:
      out.append(f"{module}:{line} imports {name}, which has no layer: add it to LAYERS in {__name__}")
    elif LEVEL[group] >= LEVEL.get(own, -1):
      out.append(
        f"{module}:{line} imports {name} (layer {LEVEL[group]}), but {own or PACKAGE} is layer {LEVEL.get(own)}"
      )
  return out


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_lower_layers(path):
  module = module_of(path)
  assert group_of(module) in {"", *LEVEL}, f"{path} has no layer: add it to LAYERS"
  assert violations(path.read_text(), module) == []


@pytest.mark.parametrize(
  ("module", "source"),
  [
    ("wanstreamer_jax.nn.blocks", "from wanstreamer_jax.model import tokens"),
    ("wanstreamer_jax.nn.blocks", "from wanstreamer_jax import config"),
    ("wanstreamer_jax.nn.blocks", "from wanstreamer_jax import errors, units"),
    ("wanstreamer_jax.units", "from wanstreamer_jax.model.attention import cached_attention"),
    ("wanstreamer_jax.codecs.source_filter_codec", "import wanstreamer_jax.perception.audio_encoder"),
    ("wanstreamer_jax.codecs.source_filter_codec", "from ..perception import audio_encoder"),
    ("wanstreamer_jax.train.loop", "def f():\n  from wanstreamer_jax.eval.metrics import psnr"),
    ("wanstreamer_jax.engine.phases", "from wanstreamer_jax import cli"),
    ("wanstreamer_jax.errors", "from wanstreamer_jax.nowhere import x"),
    ("wanstreamer_jax", "from wanstreamer_jax.config import Config"),
  ],
)
def test_the_rule_catches_each_kind_of_violation(module, source):
  assert len(violations(source, module)) == 1


def test_the_rule_allows_lower_layers_and_own_folder():
  source = "import jax\nfrom wanstreamer_jax import __version__, errors\nfrom wanstreamer_jax.nn.state import x\n"
  assert violations(source, "wanstreamer_jax.nn.blocks") == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_light_files_stay_light(path):
  name, module, source = path.relative_to(ROOT / PACKAGE).as_posix(), module_of(path), path.read_text()
  if name in NO_JAX or name.startswith(NO_JAX_FOLDERS):
    packages = {found.split(".")[0] for _, found in imports_of(source, module)}
    assert packages.isdisjoint({"jax", "jaxlib", "flax", "optax", "orbax"}), f"{name} must not import jax"
  if name.startswith(STANDARD_LIBRARY_ONLY) and name not in HEAVY:
    packages = {found.split(".")[0] for _, found in imports_of(source, module, top_level_only=True)}
    assert packages <= {PACKAGE, *sys.stdlib_module_names}, f"{name} must import heavy packages inside functions"
