"""Writes an evaluation as eval.json, eval.md and eval.png. The JSON file has every figure, the page the tables."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.loudness import levels
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.eval import judged, metrics, sections, turns
from wanstreamer_jax.eval.answers import BY_KIND
from wanstreamer_jax.eval.evaluate import Evaluation
from wanstreamer_jax.eval.scores import Conversation, timed_words
from wanstreamer_jax.files import save_figure, write_json, write_text

USER_COLOUR, AGENT_COLOUR = "#3b6ea5", "#c8553d"
MARKS = (("truth", "black", "|"), ("shuffled_user", "#777777", "o"), ("metronome", "#3b6ea5", "x"),
         ("slow_metronome", "#3b6ea5", "+"), ("silent", "#3b6ea5", "."))  # fmt: skip


def make_folder(out: str | os.PathLike[str]) -> pathlib.Path:
  """The folder `out`, which is made if it is missing. Raises UserError when that fails."""
  folder = pathlib.Path(out)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot write into {folder}: {error.strerror or error}; give another --out folder") from error
  return folder


def write_report(
  evaluation: Evaluation, out: str | os.PathLike[str], media: MediaConfig, tokenizer: TextTokenizer
) -> dict[str, pathlib.Path]:
  """Writes eval.json, eval.md and eval.png into the folder `out`. Raises UserError when it cannot be written."""
  folder = make_folder(out)
  files = {name: folder / name for name in ("eval.json", "eval.md", "eval.png")}
  try:
    write_json(files["eval.json"], without_nan(evaluation.figures))
    write_text(files["eval.md"], page(evaluation.figures))
    draw_page(files["eval.png"], evaluation, media, tokenizer)
  except OSError as error:
    raise UserError(f"cannot write into {folder}: {error.strerror or error}; give another --out folder") from error
  return files


def write_tables(out: str | os.PathLike[str], name: str, figures: dict[str, Any], text: str) -> dict[str, pathlib.Path]:
  """Writes other figures as NAME.json and their Markdown page as NAME.md into the folder `out`. Raises UserError."""
  folder = make_folder(out)
  files = {f"{name}.json": folder / f"{name}.json", f"{name}.md": folder / f"{name}.md"}
  try:
    write_json(files[f"{name}.json"], without_nan(figures))
    write_text(files[f"{name}.md"], text)
  except OSError as error:
    raise UserError(f"cannot write into {folder}: {error.strerror or error}; give another --out folder") from error
  return files


def page(figures: dict[str, Any]) -> str:
  """The tables as a Markdown page."""
  options = figures["options"]
  seconds = f" of {options['seconds']:g} s" if options.get("seconds") else ""
  intro = (
    f"{options['sessions']} held-out sessions{seconds}. Figures of the model have 95 % bootstrap intervals over "
    "sessions; baselines and the truth are of the same run. docs/evaluation.md defines every figure."
  )
  return f"# Evaluation of {figures['config']}\n\n{intro}\n\n{sections.markdown(all_sections(figures))}"


def all_sections(figures: dict[str, Any]) -> list[sections.Section]:
  """Every table of an evaluation, those of the judges among them."""
  voices = [judged.table(figures["voices"])] if "voices" in figures else []
  return [*voices, *sections.sections(figures)]


def lines(figures: dict[str, Any]) -> list[str]:
  """The tables as text."""
  return sections.lines(all_sections(figures))


def without_nan(value: Any) -> Any:
  """JSON values with null in place of NaN, which JSON lacks."""
  if isinstance(value, dict):
    return {key: without_nan(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [without_nan(item) for item in value]
  if isinstance(value, float | np.floating):
    return float(value) if math.isfinite(value) else None
  return value


def draw_page(path: pathlib.Path, evaluation: Evaluation, media: MediaConfig, tokenizer: TextTokenizer) -> None:
  """One page: a rolled-out conversation, its timeline, spectra beside the truth's, faces over time, and the figures."""
  from matplotlib.figure import Figure

  if not evaluation.conversations:
    return _draw_errors(path, evaluation)
  kinds = len(sections.kinds_measured(sections.loop_of(evaluation.figures)))
  heights = [3.3, 3.0, 2.2, 3.0, max(3.3, 0.17 * kinds), 5.2]  # inches
  figure = Figure(figsize=(15, sum(heights)), layout="constrained")
  grid = figure.add_gridspec(6, 2, height_ratios=heights)
  model, truth = evaluation.conversations["model"][0], evaluation.conversations["truth"][0]
  draw_frames(figure.add_subplot(grid[0, :]), model)
  draw_timeline(figure.add_subplot(grid[1, :]), model, media, tokenizer)
  draw_mel(figure.add_subplot(grid[2, 0]), model, media, "the model's voice, log-mel")
  closed = "closed_loop" in evaluation.figures
  draw_mel(figure.add_subplot(grid[2, 1]), truth, media, f"the {'scripted' if closed else 'recorded'} agent's voice")
  draw_identity(figure.add_subplot(grid[3, :]), evaluation, media)
  draw_answers(figure.add_subplot(grid[4, 0]), evaluation.figures)
  draw_turns(figure.add_subplot(grid[4, 1]), evaluation.figures)
  draw_table(figure.add_subplot(grid[5, :]), evaluation.figures)
  name, how = evaluation.figures["config"], "in closed loop" if closed else "beside recorded users"
  figure.suptitle(f"{name}: {evaluation.figures['options']['sessions']} held-out sessions {how}", fontsize=15)
  save_figure(path, figure, dpi=80)


def _draw_errors(path: pathlib.Path, evaluation: Evaluation) -> None:
  """A page with the table alone."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(15, 4), layout="constrained")
  draw_table(figure.add_subplot(), evaluation.figures)
  title = f"{evaluation.figures['config']}: errors on {evaluation.figures['options']['sessions']} held-out sessions"
  figure.suptitle(title, fontsize=15)
  save_figure(path, figure, dpi=80)


def film_strip(films: Sequence[np.ndarray], columns: int) -> np.ndarray:
  """Rows of equally spaced frames of some films of equal size, with white gaps: uint8 [H', W', 3]."""
  pick = np.linspace(0, len(films[0]) - 1, columns).round().astype(int)
  pad = lambda frame: np.pad(frame, ((1, 1), (1, 1), (0, 0)), constant_values=255)
  return np.concatenate([np.concatenate([pad(film[i]) for i in pick], axis=1) for film in films])


def title(axes: Any, text: str) -> None:
  axes.set_title(text, loc="left", fontsize=11)


def draw_frames(axes: Any, c: Conversation, columns: int = 14) -> None:
  axes.imshow(film_strip([c.user_video, c.agent_video], columns), interpolation="nearest")
  title(axes, f"user (above) and agent (below) over the session, seed {c.seed}")
  axes.axis("off")


def draw_timeline(axes: Any, c: Conversation, media: MediaConfig, tokenizer: TextTokenizer) -> None:
  """Both sides' loudness, the agent's words where it writes them, the user's questions where they end."""
  seconds = len(c.agent_audio) / media.sample_rate
  sides = ((c.user_audio, 1.0, USER_COLOUR, "user"), (c.agent_audio, 0.0, AGENT_COLOUR, "agent"))
  for audio, base, colour, name in sides:
    points = len(audio) * 50 // media.sample_rate
    size = media.sample_rate // 50
    loud = np.clip((levels(audio[: points * size], points) + 60) / 60, 0, 1) * 0.4
    axes.fill_between(np.arange(points) / 50, base - loud, base + loud, color=colour, linewidth=0, label=name)
  for index, (time, word) in enumerate(timed_words(c.agent_text, tokenizer, media.unit_ms / 1000)):
    axes.text(time, -0.52 - 0.14 * (index % 3), word, fontsize=8, color=AGENT_COLOUR, clip_on=True)
  for question in c.script.questions:
    axes.axvline(question.end, color="grey", linewidth=0.7, linestyle=":")
    axes.text(question.end, 1.47, f"{question.kind}: {' '.join(question.answer)}", fontsize=8, color=USER_COLOUR)
  for start in c.script.interruptions:
    axes.axvline(start, color="black", linewidth=0.9)
  axes.set(xlim=(0, seconds), ylim=(-1.0, 1.65), yticks=[0, 1], yticklabels=["agent", "user"], xlabel="seconds")
  axes.set_title(
    "who speaks when, with the words as written; dotted: a question ends (with its right answer)",
    loc="left",
    fontsize=11,
  )


def draw_mel(axes: Any, c: Conversation, media: MediaConfig, what: str) -> None:
  """The log-mel spectrogram of the agent's longest piece of speech, up to 3 s."""
  speech = turns.speech_intervals(c.agent_audio, media.sample_rate)
  start, end = max(speech, key=lambda pair: pair[1] - pair[0]) if len(speech) else (0.0, 3.0)
  end = min(end, start + 3.0)
  part = c.agent_audio[round(start * media.sample_rate) : round(end * media.sample_rate)]
  mel = metrics.mel_levels(part, media.sample_rate)
  extent = (start, start + len(mel) * metrics.MEL_HOP / media.sample_rate, 0, metrics.MEL_BINS)
  axes.imshow(mel.T, origin="lower", aspect="auto", vmin=-80, vmax=-10, cmap="magma", extent=extent)
  axes.set(xlabel="seconds", ylabel="mel bin")
  title(axes, what if len(speech) else f"{what} (silent throughout)")


def draw_identity(axes: Any, evaluation: Evaluation, media: MediaConfig) -> None:
  """Portrait, then the agent's face every few seconds, for two conversations of the model and one of a baseline."""
  kept = evaluation.conversations
  picked = [*kept["model"][:2], kept["shuffled_user"][0]]
  seconds = np.linspace(0.2, len(picked[0].agent_video) / media.fps - 0.2, 13)
  films = []
  for c in picked:
    portrait = np.full_like(c.agent_video[0], 255) if c.portrait is None else c.portrait
    films.append(np.stack([portrait, *(c.agent_video[int(time * media.fps)] for time in seconds)]))
  axes.imshow(film_strip(films, len(films[0])), interpolation="nearest")
  axes.set_title(
    "is it the same face? portrait, then over time: two sessions of the model, one of shuffled user",
    loc="left",
    fontsize=11,
  )
  axes.axis("off")


def draw_answers(axes: Any, figures: dict[str, Any]) -> None:
  """Right answers by kind: the model's with their intervals, and those of the agent that meets another user."""
  loop = sections.loop_of(figures)
  names = sections.kinds_measured(loop)
  draw_bars(axes, loop, [(name, name.removeprefix(BY_KIND)) for name in names])
  title(axes, "right answers by kind of question" if names else "nobody wrote down what was asked")


def draw_turns(axes: Any, figures: dict[str, Any]) -> None:
  """Turn-taking by kind of opportunity, and speech without cause."""
  loop = sections.loop_of(figures)
  rows = [(name, text.strip()) for name, (text, form) in sections.TURNS.items() if form == sections.SHARE]
  picked = [(name, text) for name, text in rows if name.startswith(("turn_taking", "without", "silence", "false_stop"))]
  draw_bars(axes, loop, [(name, text) for name, text in picked if loop["model"].get(name, {}).get("n")])
  title(axes, "turn-taking: bars model, line its interval; dots: see the legend")


def draw_bars(axes: Any, loop: dict[str, Any], rows: Sequence[tuple[str, str]]) -> None:
  """Shares of some figures (name, text): bars for the model with its intervals, marks for truth and baselines."""
  if not rows:
    axes.axis("off")
    return
  for y, (name, _) in enumerate(rows):
    found = loop["model"].get(name, {"mean": math.nan, "n": 0})
    axes.barh(y, found["mean"], color=AGENT_COLOUR, alpha=0.8, height=0.6)
    if "low" in found:
      axes.plot([found["low"], found["high"]], [y, y], color="black", linewidth=1.2)
    for variant, colour, mark in MARKS:
      value = loop.get(variant, {}).get(name)
      if value and value["n"]:
        axes.plot(value["mean"], y, mark, color=colour, label=variant, markersize=6, clip_on=False)
  handles = dict(zip(*reversed(axes.get_legend_handles_labels())))  # one of each
  axes.legend(handles.values(), handles.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=5, fontsize=7)
  axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
  axes.set_yticks(range(len(rows)), [text for _, text in rows], fontsize=8)
  axes.grid(axis="x", alpha=0.3)


def draw_table(axes: Any, figures: dict[str, Any]) -> None:
  """Some rows of the tables: without kinds of question and of opportunity, whose bars are drawn above."""
  tables = [table for table in sections.sections(figures) if len(table.header) == len(sections.COLUMNS) + 1]
  errors = sections.sections(figures)[-1 - ("codecs" in figures)]
  header = tables[0].header if tables else errors.header
  chosen = [row for table in tables for row in table.rows if not row[0].startswith("  ")]
  chosen += [[*row, *[""] * (len(header) - len(row))] for row in errors.rows]
  drawn = axes.table(cellText=chosen, colLabels=header, loc="center", cellLoc="right", edges="horizontal")
  drawn.auto_set_font_size(False)
  drawn.set_fontsize(8)
  drawn.auto_set_column_width(range(len(header)))
  drawn.scale(1, 1.1)
  for row in range(len(chosen) + 1):
    drawn[row, 0].set_text_props(ha="left")
  axes.axis("off")
