"""Every test runs on the CPU in float32 with full matmul precision, and compiled programs are cached on disk."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if "xla_backend_optimization_level" not in os.environ["XLA_FLAGS"]:  # most of the time here is compiling
  os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"

import pathlib

import jax
import jaxtyping
import numpy as np
import pytest

from tests.helpers.shapes import MODULES

jaxtyping.install_import_hook(MODULES, "tests.helpers.shapes.checked")  # before anything of the package is imported
import wanstreamer_jax  # noqa: E402, F401  before jax starts: it may have to add to XLA_FLAGS

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def assert_close(actual: object, expected: object, tolerance: float = 1e-5) -> None:
  """The project's closeness: max|a - b| <= tolerance * max|b| for every leaf of two equal trees."""
  actual_leaves, actual_tree = jax.tree.flatten(actual)
  expected_leaves, expected_tree = jax.tree.flatten(expected)
  assert actual_tree == expected_tree
  for a, b in zip(actual_leaves, expected_leaves):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
    if b.size:
      scale = np.abs(b).max()
      error = np.abs(a - b).max()
      assert error <= tolerance * scale, f"max|a-b| = {error:.3e} > {tolerance:g} * max|b| = {scale:.3e}"


@pytest.fixture
def close():
  return assert_close
