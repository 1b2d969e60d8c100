"""Writes the table and the figure of `wanstreamer ablate`."""

import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from wanstreamer_jax.files import save_figure, write_text

Result = dict[str, Any]  # what `ablation.run_cell` writes
Measure = Callable[[Result, str], float]  # (result, variant) -> figure, NaN where there is none


def closed_loop(name: str) -> Measure:
  """Reads a mean of the closed loop."""

  def value(result: Result, variant: str) -> float:
    found = result["figures"]["closed_loop"].get(variant, {}).get(name)
    return float("nan") if found is None or found["mean"] is None else found["mean"]

  return value


def teacher_forced(kind: str, part: str) -> Measure:
  """Reads a teacher-forced error."""

  def value(result: Result, variant: str) -> float:
    found = result["figures"]["teacher_forced"].get(variant, {}).get(kind, {}).get(part)
    return float("nan") if found is None else found

  return value


COLUMNS: dict[str, tuple[Measure, int, str]] = {  # title: (figure, digits, which direction is better)
  "right answers": (closed_loop("right_answers"), 2, "up"),
  "turn-taking": (closed_loop("turn_taking"), 2, "up"),
  "talk share": (closed_loop("talk_share"), 2, ""),
  "latency, s": (closed_loop("response_latency"), 2, "down"),
  "stop, s": (closed_loop("stop_latency"), 2, "down"),
  "false take-overs": (closed_loop("false_take_over"), 2, "down"),
  "lip correlation": (closed_loop("lip_correlation"), 2, "up"),
  "face drift, 15 s": (closed_loop("drift_face/15s"), 3, "down"),
  "audio error, speaking": (teacher_forced("audio", "speaking"), 3, "down"),
  "video error, speaking": (teacher_forced("video", "speaking"), 3, "down"),
  "token NLL": (teacher_forced("text", "tokens"), 3, "down"),
}
PANELS = (
  "right answers",
  "turn-taking",
  "lip correlation",
  "face drift, 15 s",
  "audio error, speaking",
  "token NLL",
)
ARROWS = {"up": " ↑", "down": " ↓", "": ""}


def write(out: str | os.PathLike[str], results: Sequence[Result], about: dict[str, str]) -> None:
  """Writes the table to `out` (Markdown) and the picture beside it (PNG)."""
  path = pathlib.Path(out)
  path.parent.mkdir(parents=True, exist_ok=True)
  picture = path.with_suffix(".png")
  draw(picture, results)
  write_text(path, markdown(results, about, picture.name))


def by_name(results: Sequence[Result]) -> dict[str, list[Result]]:
  """Results of all seeds by config, in the order of the first seed."""
  out: dict[str, list[Result]] = {}
  for result in results:
    out.setdefault(result["name"], []).append(result)
  return out


def cell(values: Sequence[float], digits: int) -> str:
  """Mean and, for several seeds, half the range."""
  found = [value for value in values if not math.isnan(value)]
  if not found:
    return "-"
  middle = f"{sum(found) / len(found):.{digits}f}"
  return middle if len(found) < 2 else f"{middle} ± {(max(found) - min(found)) / 2:.{digits}f}"


def markdown(results: Sequence[Result], about: dict[str, str], picture: str) -> str:
  """The whole document."""
  groups = by_name(results)
  reference = next(iter(groups))
  first = groups[reference][0]
  options = first["figures"]["options"]
  titles = [title + ARROWS[better] for title, (_, _, better) in COLUMNS.items()]
  start = (
    "All configs start from the same weights, which were trained with the reference's choices, so the cost of a choice "
    "is overstated rather than understated."
    if first.get("init")
    else "All configs start from random weights."
  )
  intro = (
    f"Written by `wanstreamer ablate`. A {reference} model has {first['parameters'] / 1e6:.1f}M parameters and is "
    f"trained on {first['trained_units'] / 1000:.0f}k units of the small duplex_world at 64x64; larger models may "
    f"differ. {start} Every figure is from {options['sessions']} held-out sessions of {options['seconds']:g} s in "
    "closed loop: the mean over seeds, ± half their range. Differences within ± are noise. Arrows show the better "
    "direction."
  )
  lines = [f"# Ablations at {reference} size", "", intro, "", f"![figures of every config]({picture})", ""]
  lines += ["| config | seeds | " + " | ".join(titles) + " |", "|---|---|" + "---|" * len(titles)]
  for name, group in groups.items():
    cells = [cell([figure(r, "model") for r in group], digits) for figure, digits, _ in COLUMNS.values()]
    lines.append(f"| {'**' + name + '**' if name == reference else name} | {len(group)} | " + " | ".join(cells) + " |")
  for variant in ("truth", "shuffled_user", "text_only", "copy_previous", "metronome", "slow_metronome", "silent"):
    group = groups[reference]
    cells = [cell([figure(r, variant) for r in group], digits) for figure, digits, _ in COLUMNS.values()]
    lines.append(f"| _{reference}: {variant}_ | {len(group)} | " + " | ".join(cells) + " |")
  lines += ["", "## What each config changes, and what was expected", ""]
  lines += [f"- **{name}**: {' '.join(about.get(name, '').split())}" for name in groups if name != reference]
  return "\n".join(lines) + "\n"


def draw(path: pathlib.Path, results: Sequence[Result]) -> None:
  """One panel per figure: a dot for every seed, lines at the reference's mean and (dashed) its shuffled user's."""
  from matplotlib.figure import Figure

  groups = by_name(results)
  names = list(groups)
  figure = Figure(figsize=(14, 1.5 + 0.5 * len(names)), layout="constrained")
  panels = figure.subplots(2, 3, sharey=True)
  for axes, title in zip(panels.flat, PANELS):
    value, _, better = COLUMNS[title]
    for row, name in enumerate(names):
      dots = [value(result, "model") for result in groups[name]]
      axes.plot(dots, [row] * len(dots), "o", color="#c8553d" if row else "#222222", alpha=0.75)
    for variant, style in (("model", "-"), ("shuffled_user", "--")):
      found = [x for x in (value(result, variant) for result in groups[names[0]]) if not math.isnan(x)]
      if found:
        axes.axvline(sum(found) / len(found), color="#222222", linewidth=0.8, linestyle=style)
    axes.set_title(title + {"up": "  (more is better)", "down": "  (less is better)", "": ""}[better], fontsize=10)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="x", alpha=0.3)
  panels[0, 0].invert_yaxis()
  figure.suptitle(f"{names[0]} and its ablations; line: {names[0]}, dashed: its shuffled-user baseline", fontsize=11)
  save_figure(path, figure, dpi=90)
