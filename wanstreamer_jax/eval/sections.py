"""The tables of an evaluation: their figures, in order, and how each is written.

Each table is a section with a title; it is printed as text and written as Markdown. A column is a variant. The model's
figures come with their bootstrap interval, "79 % [72, 85]".
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from wanstreamer_jax.eval.answers import BY_ALL, BY_KIND, UNSEEN

COLUMNS = ("truth", "model", "shuffled_user", "text_only", "copy_previous", "metronome", "slow_metronome", "silent")
FORCED_COLUMNS = COLUMNS[:5]  # of teacher-forced errors


class Form(NamedTuple):
  """How a figure is written: of which statistic, with which factor, digits and unit."""

  unit: str = ""
  digits: int = 2
  factor: float = 1.0
  statistic: str = "mean"
  sign: bool = False

  def value(self, number: float | None) -> str:
    if number is None or not math.isfinite(number):
      return "-"
    return f"{self.factor * number:{'+' if self.sign else ''}.{self.digits}f}"

  def text(self, figure: dict[str, Any] | None, interval: bool = False) -> str:
    """One figure as `intervals.figures` gives it; "-" where there was nothing to measure."""
    if not figure or not figure["n"]:
      return "-"
    written = self.value(figure.get(self.statistic))
    if written == "-":
      return written
    prefix = "" if self.statistic == "mean" else f"{self.statistic}_"
    low, high = (self.value(figure.get(f"{prefix}{end}")) for end in ("low", "high"))
    bounds = f" [{low}, {high}]" if interval and "-" not in (low, high) else ""
    return f"{written}{self.unit}{bounds}"


SHARE = Form("%", 0, 100.0)
SECONDS, P90, MS = Form(" s"), Form(" s", statistic="p90"), Form(" ms", 0, sign=True)
PLAIN, FINE, ONE = Form(), Form(digits=3), Form(digits=1)

Rows = dict[str, tuple[str, Form]]  # name of a figure, with "|p90" and the like behind it: (title, form)

ANSWERS: Rows = {
  BY_ALL: ("right answers, mean over kinds", SHARE),
  "answer": ("right answers, all questions", SHARE),
  UNSEEN: ("right answers, unseen phrasing or sum", SHARE),
}
GROUPS: Rows = {
  "phrasing/seen": ("phrasings of training", SHARE),
  "phrasing/composed": ("composed phrasings, held out", SHARE),
  "phrasing/new": ("phrasings with new words", SHARE),
  "persona/seen": ("personas of training", SHARE),
  "persona/new": ("personas never seen", SHARE),
  "memory/under_10s": ("memory, shown less than 10 s ago", SHARE),
  "memory/10_to_30s": ("memory, 10 to 30 s ago", SHARE),
  "memory/30_to_60s": ("memory, 30 to 60 s ago", SHARE),
  "memory/over_60s": ("memory, more than 60 s ago", SHARE),
  "sum/trained": ("sums of training", SHARE),
  "sum/held_out": ("sums held out", SHARE),
}
TURNS: Rows = {
  "turn_taking": ("turn-taking", SHARE),
  "turn_taking/hand_off": ("  takes its turn within 1.5 s and at length", SHARE),
  "turn_taking/stay_silent": ("  stays silent in pauses and remarks", SHARE),
  "turn_taking/yield": ("  yields within 1.5 s", SHARE),
  "turn_taking/continue": ("  speaks on through a cough", SHARE),
  "turn_taking/backchannel": ("  no more than a backchannel", SHARE),
  "without_cause": ("speaks without cause", SHARE),
  "silence_idle": ("silent when the user is idle", SHARE),
  "uncalled_per_minute": ("uncalled-for speech a minute", ONE),
  "responds": ("turns answered at all", SHARE),
  "tor/hand_off": ("turns answered for 1 s or in 4 words (TOR)", SHARE),
  "response_latency": ("response latency", SECONDS),
  "response_latency|p90": ("response latency, p90", P90),
  "stop_latency": ("stops after an interruption", SECONDS),
  "stop_latency|median": ("stops after an interruption, p50", Form(" s", statistic="median")),
  "stop_latency|p90": ("stops after an interruption, p90", P90),
  "false_stop": ("false stops after a cough", SHARE),
  "false_take_over": ("false take-overs in pauses", SHARE),
  "talks_over_user": ("talks while the user talks", SHARE),
  "talk_share": ("talk share", SHARE),
  "backchannels_per_minute": ("backchannels a minute", ONE),
  "overlap_per_minute": ("overlap, seconds a minute", ONE),
}
LOOKS: Rows = {
  "lip_correlation": ("lip correlation", PLAIN),
  "lip_lag_ms": ("lip lag", MS),
  "sharpness": ("sharpness of lips and chin, truth 1", PLAIN),
  "sharpness/speaking": ("  while it speaks", PLAIN),
  "sharpness/listening": ("  while it listens", PLAIN),
  "drift_face/15s": ("face distance at 15 s", FINE),
  "drift_face/55s": ("face distance at 55 s", FINE),
  "drift_colour/15s": ("colour distance at 15 s", FINE),
  "drift_colour/55s": ("colour distance at 55 s", FINE),
  "speech_mel_frechet": ("speech spectra (mel Fréchet)", PLAIN),
}
VOICE: Rows = {
  "word_errors": ("word errors of the voice, by a recogniser", SHARE),
  "answers_by_ear": ("right answers by ear, mean over kinds", SHARE),
  "dnsmos": ("DNSMOS of the voice (1 to 5)", PLAIN),
}


class Section(NamedTuple):
  """A table: its title, its header (the first cell is empty), and its rows of text."""

  title: str
  header: list[str]
  rows: list[list[str]]


def sections(figures: dict[str, Any]) -> list[Section]:
  """All tables of an evaluation. Without conversations only errors have one. Rows that no variant has are left out."""
  loop = loop_of(figures)
  out = []
  if loop:
    for title, wanted in tables(kinds_measured(loop)).items():
      found = {key: row for key, row in wanted.items() if _measured(loop, key.partition("|")[0])}
      if found:
        out.append(Section(title, _header(loop), _rows(loop, found)))
  out.append(Section("Errors", ["", *FORCED_COLUMNS], teacher_forced_rows(figures["teacher_forced"])))
  if figures.get("codecs"):
    names = list(dict.fromkeys(name for scores in figures["codecs"].values() for name in scores))
    rows = [[name, *(PLAIN.text(scores.get(name)) for scores in figures["codecs"].values())] for name in names]
    out.append(Section("Codecs", ["", *figures["codecs"]], rows))
  return out


def tables(kinds: Sequence[str]) -> dict[str, Rows]:
  """The rows of every table of conversations, by title. kinds: names of the figures of the kinds of questions."""
  by_kind: Rows = {name: (f"  {name.removeprefix(BY_KIND)}", SHARE) for name in kinds}
  return {
    "Right answers": ANSWERS | by_kind,
    "Right answers by phrasing, persona, memory and sum": GROUPS,
    "Turn-taking": TURNS,
    "Face and voice": LOOKS | VOICE,
  }


def kinds_measured(loop: dict[str, Any]) -> list[str]:
  """Names of the kinds of questions that were asked, most often asked first."""
  counts: dict[str, int] = {}
  for scores in loop.values():
    for name, figure in scores.items():
      if name.startswith(BY_KIND) and name != UNSEEN:
        counts[name] = max(counts.get(name, 0), figure["n"])
  return sorted(counts, key=lambda name: -counts[name])


def _header(loop: dict[str, Any]) -> list[str]:
  return ["", *(f"{name} (n={loop[name]['sessions']})" if name in loop else name for name in COLUMNS)]


def _rows(loop: dict[str, Any], rows: Rows) -> list[list[str]]:
  read = lambda name, key, form: form.text(loop.get(name, {}).get(key.partition("|")[0]), interval=name == "model")
  return [[title, *(read(name, key, form) for name in COLUMNS)] for key, (title, form) in rows.items()]


def _measured(loop: dict[str, Any], name: str) -> bool:
  """Whether any variant has a value of this figure."""
  return any(scores.get(name, {}).get("n") for scores in loop.values())


def loop_of(figures: dict[str, Any]) -> dict[str, Any]:
  """Scores of conversations by variant: with users that react, or beside recorded ones."""
  return figures["closed_loop"] if "closed_loop" in figures else figures["open_loop"]


def teacher_forced_rows(errors: dict[str, Any]) -> list[list[str]]:
  """Latent errors and text entropies, in FORCED_COLUMNS."""
  names = FORCED_COLUMNS[1:]
  out = []
  for kind in ("audio", "video"):
    for state in ("speaking", "listening", "transitions"):
      values = [FINE.value(errors[name][kind][state]) for name in names]
      out.append([f"{kind} latent error, {state}", "-", *values])
  for part in ("tokens", "onsets"):
    out.append([f"text cross-entropy, {part}", "-", *(FINE.value(errors[name]["text"][part]) for name in names)])
  return out


def lines(tables: Iterable[Section]) -> list[str]:
  """Tables as text, with their titles."""
  out: list[str] = []
  for section in tables:
    out += ["", *aligned([[section.title, *section.header[1:]], *section.rows])]
  return out[1:]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
  """Rows of cells as lines: the first column to the left, the others to the right."""
  widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
  pad = lambda i, cell: cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i])
  return ["  ".join(pad(i, cell) for i, cell in enumerate(row)) for row in table]


def markdown(tables: Iterable[Section]) -> str:
  """Tables as Markdown, each under a heading of the second level."""
  out = []
  for section in tables:
    row = lambda cells: "| " + " | ".join(cells) + " |"
    indent = lambda cell: cell.replace("  ", "&nbsp;&nbsp;", 1) if cell.startswith("  ") else cell
    body = [row([indent(cells[0]), *cells[1:]]) for cells in section.rows]
    out += [f"## {section.title}", "", row(section.header), "|" + "---|" * len(section.header), *body, ""]
  return "\n".join(out)
