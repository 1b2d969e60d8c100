"""Records what a run was made with: config, code and library versions.

They are written to RUN/config.json and RUN/code.json, and the processes of one job compare them (`parallel/hosts.py`).
"""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

from wanstreamer_jax import __version__
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import flat_fields
from wanstreamer_jax.data.loader import CropLoader
from wanstreamer_jax.data.rendered import RenderedLoader
from wanstreamer_jax.weights.qwen import fingerprint

PACKAGE = pathlib.Path(__file__).parent.parent
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "libtpu")
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # they change programs, which must be the same in all processes of a job
REVISION = "WANSTREAMER_REVISION"  # set in container images, which carry no git repository


@functools.cache
def code_files() -> dict[str, str]:
  """{file of the package: the first digits of its SHA-256}."""
  files = sorted(PACKAGE.rglob("*.py"))
  return {
    file.relative_to(PACKAGE.parent).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in files
  }


@functools.cache
def git_revision() -> dict[str, Any]:
  """{"revision": the commit of the package's repository or None, "dirty": whether tracked files differ from it}."""
  if os.environ.get(REVISION):
    return {"revision": os.environ[REVISION], "dirty": False}
  try:
    if _git("rev-parse", "--show-toplevel").strip() != str(PACKAGE.parent.resolve()):
      raise OSError("installed inside somebody else's repository")
    return {
      "revision": _git("rev-parse", "HEAD").strip(),
      "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }
  except (OSError, subprocess.SubprocessError):
    return {"revision": None, "dirty": None}


def _git(*arguments: str) -> str:
  command = ["git", "-C", str(PACKAGE), *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def versions() -> dict[str, str]:
  """Versions of Python and of the libraries that affect results; those that are not installed are left out."""
  found = {"python": platform.python_version()}
  for name in LIBRARIES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def code() -> dict[str, Any]:
  """What RUN/code.json holds."""
  digest = hashlib.sha256(repr(code_files()).encode()).hexdigest()
  flags = {name: os.environ[name] for name in FLAGS if name in os.environ}
  return {"wanstreamer": __version__, **git_revision(), "sha256": digest, "versions": versions(), "flags": flags}


def facts(config: Config) -> dict[str, Any]:
  """What all processes of a job must have in common, by the name that error messages use."""
  flags = {name: os.environ.get(name, "") for name in FLAGS}
  return {**flat_fields(config), **versions(), **code_files(), **flags, **brought_parts(config)}


def brought_parts(config: Config) -> dict[str, Any]:
  """{"language_model": what tells its folder from others}, and so on, of the folders that a run starts from."""
  folders = {name: getattr(config.train, name) for name in ("language_model", "hearing", "seeing")}
  return {name: {"folder": folder, **fingerprint(folder)} for name, folder in folders.items() if folder}


def codecs_of(loader: Any) -> dict[str, Any]:
  """{"codecs": hash of the codecs that made the latents}, of loaders of latents; {} for others."""
  if not isinstance(loader, CropLoader | RenderedLoader):
    return {}
  manifest = loader.manifest if isinstance(loader, RenderedLoader) else loader.folders[0].manifest
  made_by = manifest["source"].get("codecs")
  return {"codecs": made_by} if made_by else {}
