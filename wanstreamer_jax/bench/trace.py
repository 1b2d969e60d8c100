"""Writes a trace for Perfetto and draws the paper's Figure 2 from measured times. The figure shows thinker and
performer.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from wanstreamer_jax.engine.interface import Span
from wanstreamer_jax.files import save_figure, write_text
from wanstreamer_jax.serve.timeline import INK, PHASE_COLOURS, USER

ROWS = {"user": 3, "thinker": 2, "performer": 1, "client": 0}
UNITS = 6  # in the image


def lane(phase: str) -> str:
  """Who runs a phase."""
  return "performer" if phase == "perform" else "thinker"


def write_trace(folder: Path, spans: Sequence[Span], answers: Sequence[tuple[float, float]], unit_s: float) -> None:
  """Writes trace.json (open it at ui.perfetto.dev) and trace.png into a folder.

  spans: phases as the engine ran them; answers: for every unit, when its last sample was captured and when the last
  sample of its answer arrived. All in seconds of one clock.
  """
  folder.mkdir(parents=True, exist_ok=True)
  rows = [(lane(phase), phase, begin, end) for phase, begin, end in spans]
  rows += [("user", f"unit {k}", end - unit_s, end) for k, (end, _) in enumerate(answers)]
  rows += [("client", f"answer {k}", begin, end) for k, (begin, end) in enumerate(answers)]
  zero = min((begin for *_, begin, _ in rows), default=0.0)
  events = [
    {"name": name, "ph": "X", "pid": 1, "tid": who, "ts": 1e6 * (begin - zero), "dur": 1e6 * (end - begin)}
    for who, name, begin, end in sorted(rows, key=lambda row: row[2])
  ]
  write_text(folder / "trace.json", json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
  if answers:
    draw(folder / "trace.png", rows, answers, unit_s)


def draw(
  path: Path, rows: Sequence[tuple[str, str, float, float]], answers: Sequence[tuple[float, float]], unit_s: float
) -> None:
  """A few units from the middle, as an image."""
  from matplotlib.figure import Figure

  first = max(0, len(answers) // 2 - UNITS // 2)
  begin, end = answers[first][0] - unit_s, answers[min(first + UNITS, len(answers)) - 1][1] + 0.02
  figure = Figure(figsize=(14, 3.6), layout="constrained")
  axes = figure.subplots()
  for who, name, start, stop in rows:
    if stop < begin or start > end:
      continue
    colour = PHASE_COLOURS.get(name, USER if who == "user" else "#8dd3c7")
    left, width = 1000 * (start - begin), 1000 * (stop - start)
    axes.barh(ROWS[who], width, left=left, height=0.62, color=colour, edgecolor="white", linewidth=0.8)
    if who in ("user", "client") and begin < (start + stop) / 2 < end:
      note = f"{width:.0f} ms" if who == "client" else name
      axes.text(left + width / 2, ROWS[who], note, ha="center", va="center", fontsize=8, color=INK, clip_on=True)
  for boundary, _ in answers:
    if begin <= boundary <= end:
      axes.axvline(1000 * (boundary - begin), color="#d33", linewidth=0.8, linestyle=":")
  axes.set_yticks(list(ROWS.values()), list(ROWS))
  axes.set_xlim(0, 1000 * (end - begin))
  axes.set_xlabel("milliseconds; dotted lines: a unit of the user is complete")
  for phase, colour in PHASE_COLOURS.items():
    axes.barh(0, 0, color=colour, label=phase)
  axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=len(PHASE_COLOURS), frameon=False)
  save_figure(path, figure, dpi=110)
