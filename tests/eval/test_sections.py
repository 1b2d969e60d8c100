"""How figures are written, which rows a table has, and the table of several runs."""

import pytest

from wanstreamer_jax.eval import sections, seeds
from wanstreamer_jax.eval.sections import P90, SECONDS, SHARE, Form


@pytest.mark.parametrize(
  ("form", "figure", "written"),
  [
    (SHARE, {"mean": 0.789, "n": 9, "low": 0.72, "high": 0.85}, "79% [72, 85]"),
    (SHARE, {"mean": 0.789, "n": 9}, "79%"),
    (SHARE, {"mean": float("nan"), "n": 0}, "-"),
    (SECONDS, {"mean": 0.5, "n": 2, "p90": 0.9}, "0.50 s"),
    (P90, {"mean": 0.5, "n": 2, "p90": 0.9, "p90_low": 0.8, "p90_high": 1.0, "low": 0}, "0.90 s [0.80, 1.00]"),
    (Form(sign=True), {"mean": 0.5, "n": 2}, "+0.50"),
    (SHARE, None, "-"),
  ],
)  # fmt: skip
def test_a_figure_is_written_with_its_interval(form, figure, written):
  assert form.text(figure, interval=True) == written


def evaluation(right: float, sums: float | None = 0.5) -> dict:
  loop = {"sessions": 9, "answer": {"mean": right, "n": 90}, "answer/colour": {"mean": right, "n": 60}}
  loop["answer/sum"] = {"mean": sums, "n": 30 if sums is not None else 0}
  loop["answer/unseen"] = {"mean": 0.1, "n": 3}
  state = {"speaking": 0.5, "listening": 0.5, "transitions": 0.5}
  errors = {"audio": state, "video": state, "text": {"tokens": 1.0, "onsets": 2.0}}
  return {
    "closed_loop": {"truth": loop | {"answer": {"mean": 1.0, "n": 90}}, "model": loop},
    "teacher_forced": dict.fromkeys(sections.FORCED_COLUMNS[1:], errors),
  }


def test_rows_that_nothing_has_are_left_out():
  tables = sections.sections(evaluation(0.8))
  assert [table.title for table in tables] == ["Right answers", "Errors"]
  titles = [row[0] for row in tables[0].rows]
  assert titles == ["right answers, all questions", "right answers, unseen phrasing or sum", "  colour", "  sum"]
  assert tables[0].rows[0][1:4] == ["100%", "80%", "-"]
  text = sections.markdown(tables)
  assert "| &nbsp;&nbsp;colour | 80% | 80% |" in text
  assert "## Errors" in text


def test_runs_are_joined_with_their_spread():
  runs = {"run 0": evaluation(0.7), "run 1": evaluation(0.9), "run 2": evaluation(0.8, None)}
  rows = {row[0]: row[1:] for row in seeds.table(runs)[0].rows}
  assert rows["right answers, all questions"] == ["70", "90", "80", "80% ± 10", "-"]
  assert rows["  sum"] == ["50", "50", "-", "50% ± 0", "-"]
  page = seeds.page(["a", "b", "c"], runs)
  assert "- run 1: `b`" in page
  assert "± is half the range" in page
