"""The library's face: names that README uses, imported when they are used and not before."""

import subprocess
import sys

import pytest

import wanstreamer_jax
from tests import ROOT


@pytest.mark.parametrize("name", wanstreamer_jax.__all__)
def test_a_name_of_the_face_is_what_its_home_defines(name):
  found = getattr(wanstreamer_jax, name)
  assert found.__name__ == name
  assert found.__module__ == f"wanstreamer_jax.{wanstreamer_jax._HOMES[name]}"
  assert name in dir(wanstreamer_jax)


def test_an_unknown_name_says_what_there_is():
  with pytest.raises(ImportError, match="cannot import name 'Enigne'"):
    from wanstreamer_jax import Enigne  # noqa: F401
  with pytest.raises(AttributeError, match="no attribute 'Enigne'; it exports Config, Engine, .*load_agent"):
    _ = wanstreamer_jax.Enigne


def test_importing_the_package_imports_no_jax():
  code = "import sys, wanstreamer_jax; print(*sorted({'jax', 'numpy', 'flax'} & set(sys.modules)))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
  assert done.stdout.strip() == "", done.stdout
