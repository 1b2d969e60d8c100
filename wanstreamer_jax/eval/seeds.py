"""Joins evaluations of several training runs in tables with means and spreads."""

import math
from collections.abc import Sequence
from typing import Any

from wanstreamer_jax.eval import sections
from wanstreamer_jax.eval.sections import Form, Section


def table(runs: dict[str, dict[str, Any]], variant: str = "model") -> list[Section]:
  """Tables of one variant. runs: {name: the figures of its evaluation}. The last columns are the mean over runs, half
  their range, and what the runs' own baseline `shuffled_user` reaches on average."""
  loops = {name: sections.loop_of(figures) for name, figures in runs.items()}
  first = next(iter(loops.values()))
  kinds = sections.kinds_measured(first)
  out = []
  for title, rows in sections.tables(kinds).items():
    body = [_row(key, name, form, loops, variant) for key, (name, form) in rows.items()]
    body = [row for row in body if any(cell != "-" for cell in row[1:])]
    if body:
      out.append(Section(title, ["", *loops, "mean ± half range", "shuffled_user"], body))
  return out


def page(checkpoints: Sequence[str], runs: dict[str, dict[str, Any]]) -> str:
  """The tables as a Markdown page."""
  names = "\n".join(f"- {name}: `{checkpoint}`" for name, checkpoint in zip(runs, checkpoints))
  intro = "The same held-out sessions for every run; ± is half the range over runs."
  return f"# {len(runs)} runs\n\n{intro}\n\n{names}\n\n{sections.markdown(table(runs))}"


def _row(key: str, title: str, form: Form, loops: dict[str, Any], variant: str) -> list[str]:
  read = lambda which: [_value(loop.get(which, {}).get(key.partition("|")[0]), form) for loop in loops.values()]
  own, other = read(variant), read("shuffled_user")
  return [title, *(form.value(x) for x in own), spread(own, form), form.value(_mean(other))]


def _value(figure: dict[str, Any] | None, form: Form) -> float:
  """A figure's statistic, NaN where there was nothing to measure."""
  found = figure.get(form.statistic) if figure and figure.get("n") else None
  return float("nan") if found is None else float(found)


def _mean(values: Sequence[float]) -> float:
  found = [x for x in values if not math.isnan(x)]
  return sum(found) / len(found) if found else float("nan")


def spread(values: Sequence[float], form: Form) -> str:
  """The mean of the runs that have a value ± half their range; no range for one run."""
  found = [x for x in values if not math.isnan(x)]
  if not found:
    return "-"
  middle = f"{form.value(_mean(found))}{form.unit}"
  half = form._replace(sign=False).value((max(found) - min(found)) / 2)
  return middle if len(found) < 2 else f"{middle} ± {half}"
