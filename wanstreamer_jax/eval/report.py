"""Writes an evaluation as eval.json and eval.png, and prints a table. The JSON file has every figure."""

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
from wanstreamer_jax.eval import metrics, turns
from wanstreamer_jax.eval.evaluate import Evaluation
from wanstreamer_jax.eval.scores import Conversation, timed_words
from wanstreamer_jax.files import save_figure, write_json

COLUMNS = ("truth", "model", "shuffled_user", "text_only", "copy_previous")
USER_COLOUR, AGENT_COLOUR = "#3b6ea5", "#c8553d"
HEADLINES = {  # name in the figures: (title, unit or format)
  "answer": ("right answers", "{:.0%}"),
  "answer/unseen": ("right answers, unseen phrasing or sum", "{:.0%}"),
  "tor_alignment": ("TOR-Alignment", "{:.0%}"),
  "responds": ("turns answered", "{:.0%}"),
  "tor/hand_off": ("turns answered at length (TOR)", "{:.0%}"),
  "response_latency": ("response latency", "{:.2f} s"),
  "stop_latency": ("stops after an interruption", "{:.2f} s"),
  "false_take_over": ("false take-overs in pauses", "{:.0%}"),
  "talks_over_user": ("talks while the user talks", "{:.0%}"),
  "talk_share": ("talk share", "{:.0%}"),
  "lip_correlation": ("lip correlation", "{:.2f}"),
  "lip_lag_ms": ("lip lag", "{:+.0f} ms"),
  "drift_face/15s": ("face distance at 15 s", "{:.3f}"),
  "drift_colour/15s": ("colour distance at 15 s", "{:.3f}"),
  "speech_mel_frechet": ("speech spectra (mel Fréchet)", "{:.2f}"),
}
SOMETIMES = {  # shown where any variant has them: on records, and with the extra `speech`
  "backchannels_per_minute": ("backchannels a minute", "{:.1f}"),
  "overlap_per_minute": ("overlap, seconds a minute", "{:.1f}"),
  "word_errors": ("word errors of the voice, by a recogniser", "{:.0%}"),
  "dnsmos": ("DNSMOS of the voice (1 to 5)", "{:.2f}"),
}


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
  """Writes eval.json and eval.png into the folder `out`. Raises UserError when it cannot be written."""
  folder = make_folder(out)
  files = {name: folder / name for name in ("eval.json", "eval.png")}
  try:
    write_json(files["eval.json"], without_nan(evaluation.figures))
    draw_page(files["eval.png"], evaluation, media, tokenizer)
  except OSError as error:
    raise UserError(f"cannot write into {folder}: {error.strerror or error}; give another --out folder") from error
  return files


def without_nan(value: Any) -> Any:
  """JSON values with null in place of NaN, which JSON lacks."""
  if isinstance(value, dict):
    return {key: without_nan(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [without_nan(item) for item in value]
  if isinstance(value, float | np.floating):
    return float(value) if math.isfinite(value) else None
  return value


def shown(figures: dict[str, Any], name: str, form: str) -> str:
  """One figure as text; "-" where there was nothing to measure."""
  found = figures.get(name)
  return form.format(found["mean"]) if found and found["n"] and math.isfinite(found["mean"]) else "-"


def rows(figures: dict[str, Any]) -> list[list[str]]:
  """The headline table: a header and a row per figure. Without conversations only errors have rows."""
  loop = loop_of(figures)
  table = [["", *(f"{name} (n={loop[name]['sessions']})" if name in loop else name for name in COLUMNS)]]
  if loop:
    known = {key: row for key, row in (HEADLINES | SOMETIMES).items() if key in HEADLINES or _measured(loop, key)}
    if "open_loop" in figures:  # recordings have no right answers, and may have no faces
      known = {key: row for key, row in known.items() if _measured(loop, key)}
    table += [[title, *(shown(loop[name], key, form) for name in COLUMNS)] for key, (title, form) in known.items()]
  return table + teacher_forced_rows(figures["teacher_forced"])


def _measured(loop: dict[str, Any], name: str) -> bool:
  """Whether any variant has a value of this figure."""
  return any(loop[variant].get(name, {}).get("n") for variant in COLUMNS)


def loop_of(figures: dict[str, Any]) -> dict[str, Any]:
  """Scores of conversations by variant: with users that react, or beside recorded ones."""
  return figures["closed_loop"] if "closed_loop" in figures else figures["open_loop"]


def teacher_forced_rows(errors: dict[str, Any]) -> list[list[str]]:
  """Latent errors and text entropies, in the columns of `rows`."""
  names = COLUMNS[1:]
  number = lambda value: f"{value:.3f}" if math.isfinite(value) else "-"
  out = []
  for kind in ("audio", "video"):
    for state in ("speaking", "listening", "transitions"):
      out.append([f"{kind} latent error, {state}", "-", *(number(errors[name][kind][state]) for name in names)])
  for part in ("tokens", "onsets"):
    out.append([f"text cross-entropy, {part}", "-", *(number(errors[name]["text"][part]) for name in names)])
  return out


def lines(figures: dict[str, Any]) -> list[str]:
  """The headline table and the codecs' figures as text."""
  table = rows(figures)
  widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
  out = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
         for row in table]  # fmt: skip
  for name, scores in figures.get("codecs", {}).items():
    values = ", ".join(f"{key} {value['mean']:.2f}" for key, value in scores.items())
    out.append(f"codecs, {name}: {values}")
  return out


def draw_page(path: pathlib.Path, evaluation: Evaluation, media: MediaConfig, tokenizer: TextTokenizer) -> None:
  """One page: a rolled-out conversation, its timeline, spectra beside the truth's, faces over time, and the figures."""
  from matplotlib.figure import Figure

  if not evaluation.conversations:
    return _draw_errors(path, evaluation)
  figure = Figure(figsize=(15, 17), layout="constrained")
  grid = figure.add_gridspec(5, 2, height_ratios=[2.2, 2.0, 1.5, 2.0, 3.2])
  model, truth = evaluation.conversations["model"][0], evaluation.conversations["truth"][0]
  draw_frames(figure.add_subplot(grid[0, :]), model)
  draw_timeline(figure.add_subplot(grid[1, :]), model, media, tokenizer)
  draw_mel(figure.add_subplot(grid[2, 0]), model, media, "the model's voice, log-mel")
  closed = "closed_loop" in evaluation.figures
  draw_mel(figure.add_subplot(grid[2, 1]), truth, media, f"the {'scripted' if closed else 'recorded'} agent's voice")
  draw_identity(figure.add_subplot(grid[3, :]), evaluation, media)
  draw_table(figure.add_subplot(grid[4, :]), evaluation.figures)
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


def draw_table(axes: Any, figures: dict[str, Any]) -> None:
  table = rows(figures)
  drawn = axes.table(cellText=table[1:], colLabels=table[0], loc="center", cellLoc="right", edges="horizontal")
  drawn.auto_set_font_size(False)
  drawn.set_fontsize(9)
  drawn.scale(1, 1.15)
  for row in range(len(table)):
    drawn[row, 0].set_text_props(ha="left")
  axes.axis("off")
