"""Files that appear whole or not at all, and figures without pyplot."""

import os
import pathlib
import stat
from collections.abc import Callable

import pytest
from matplotlib.figure import Figure

from tests import ROOT
from wanstreamer_jax.files import replacing, save_figure, write_json, write_text


def interrupted(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
  """A write that fails before its end."""
  with replacing(path) as temporary:
    write(temporary)
    raise ZeroDivisionError


def a_folder(path: pathlib.Path) -> None:
  path.mkdir()
  (path / "new").touch()


def test_a_file_is_replaced_only_when_its_block_ends_well(tmp_path):
  path = tmp_path / "some.json"
  write_text(path, "before")
  with pytest.raises(ZeroDivisionError):
    interrupted(path, lambda temporary: temporary.write_text("half"))
  assert path.read_text() == "before"
  with replacing(path) as temporary:
    temporary.write_text("after")
    assert path.read_text() == "before"
  assert path.read_text() == "after"
  write_json(path, {"é": [1]})
  assert path.read_text() == '{\n  "\\u00e9": [\n    1\n  ]\n}\n'
  assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_what_is_no_file_stays_what_it_is(tmp_path):
  (tmp_path / "page.md").write_text("old")
  (tmp_path / "link.md").symlink_to(tmp_path / "page.md")
  write_text(tmp_path / "link.md", "new")
  assert (tmp_path / "link.md").is_symlink()
  assert (tmp_path / "page.md").read_text() == "new"
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(OSError, match="neither a file nor a folder"):
    write_text(tmp_path / "pipe", "new")
  assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["link.md", "page.md", "pipe"]


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path):
  path = tmp_path / "folder"
  path.mkdir()
  (path / "old").touch()
  with pytest.raises(ZeroDivisionError):
    interrupted(path, a_folder)
  assert [file.name for file in path.iterdir()] == ["old"]
  with replacing(path) as temporary:
    a_folder(temporary)
  assert [file.name for file in path.iterdir()] == ["new"]
  assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError), replacing(tmp_path / "some"):
    pass


def test_a_figure_becomes_a_png(tmp_path):
  figure = Figure(figsize=(2, 1))
  figure.subplots().plot([1, 2])
  save_figure(tmp_path / "figure.png", figure, dpi=50)
  assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", sorted((ROOT / "wanstreamer_jax").rglob("*.py")), ids=lambda path: path.name)
def test_one_place_replaces_files_and_none_needs_a_backend(path: pathlib.Path):
  source = path.read_text()
  assert "os.replace(" not in source
  assert "pyplot" not in source or path.name == "files.py"
