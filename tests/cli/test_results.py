"""What a measuring command prints lands on the page of results, once, and nothing else of the page changes."""

import pytest

from wanstreamer_jax.cli import results
from wanstreamer_jax.cli.main import main
from wanstreamer_jax.errors import UserError

PAGE = """# Results

An introduction.

## `wanstreamer bench step --config a.py`

2026-01-01, commit 0000000

```text
step 9 ms
```

A note that somebody wrote.

## `wanstreamer eval`

2026-01-01

```text
right answers 50 %
```
"""


def test_a_command_replaces_its_own_block_only(tmp_path):
  page = tmp_path / "results.md"
  page.write_text(PAGE)
  results.write_block(page, "wanstreamer bench step --config a.py", "2026-02-02", "step 7 ms\nwith \\1 in it\n")
  expected = PAGE.replace("2026-01-01, commit 0000000", "2026-02-02").replace("step 9 ms", "step 7 ms\nwith \\1 in it")
  assert page.read_text() == expected
  results.write_block(page, "wanstreamer bench serve", "2026-02-02", "55 ms")
  assert page.read_text() == expected + "\n## `wanstreamer bench serve`\n\n2026-02-02\n\n```text\n55 ms\n```\n"


@pytest.mark.parametrize(
  "arguments",
  [
    ["bench", "--record", "p.md", "a b"],
    ["bench", "--record=p.md", "a b"],
    ["--record", "q.md", "bench", "--record", "p.md", "a b"],
    ["bench", "a b"],
  ],
)
def test_the_block_is_called_what_somebody_would_type(arguments):
  assert results.command_line(arguments) == "wanstreamer bench 'a b'"


def test_a_command_that_fails_leaves_the_page(tmp_path, capsys):
  page = tmp_path / "results.md"
  page.write_text(PAGE)
  assert main(["bench", "step", "--config", str(tmp_path / "none.py"), "--record", str(page)]) == 2
  assert page.read_text() == PAGE


@pytest.mark.parametrize(
  ("page", "words"),
  [("", "is no file"), (".", "is no file"), ("none/page.md", "there is no folder none"), ("bytes.md", "UTF-8")],
)
def test_a_page_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, page, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "bytes.md").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(UserError, match=words), results.recorded(page, []):
    pytest.fail("the work began")


def test_what_is_recorded_is_also_printed(tmp_path, capsys):
  with results.recorded(str(tmp_path / "new.md"), ["eval", "--record", "new.md"]):
    print("right answers 79 %")
  assert capsys.readouterr().out == "right answers 79 %\n"
  text = (tmp_path / "new.md").read_text()
  assert text.startswith("# Results\n\n## `wanstreamer eval`\n\n20")
  assert text.endswith("```text\nright answers 79 %\n```\n")
