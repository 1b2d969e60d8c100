"""Evaluates long sessions minute by minute: does an agent stay itself for an hour?

Sessions are streamed, and of every minute only figures are kept: an hour of pictures does not fit into memory. Answers
and turn-taking are those of `scores.py`; face and colour are distances from the portrait (`metrics.py`, median over a
frame each second), level is that of the agent's speech in dBFS, detail is the gradient energy of lips and chin.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from wanstreamer_jax.config import EvalConfig, MediaConfig
from wanstreamer_jax.data.loudness import LOUD, levels
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.eval import intervals, metrics, turns
from wanstreamer_jax.eval.closed_loop import MakeUser, User, steps
from wanstreamer_jax.eval.evaluate import duplex_world, units_of
from wanstreamer_jax.eval.intervals import Scores
from wanstreamer_jax.eval.scores import Script, cuts, lips, lower_face, talk_scores, timed_words
from wanstreamer_jax.eval.sections import FINE, ONE, PLAIN, SECONDS, SHARE, Form, Section, markdown
from wanstreamer_jax.rollout import Agent

MINUTE = 60.0  # seconds
AFTERWARDS = 12.0  # seconds after a minute in which its last question may be answered
MOST_ROWS = 12  # of the printed table; more minutes are joined
TALK = ("answer", "turn_taking", "response_latency", "without_cause")
COLUMNS: dict[str, tuple[str, Form]] = {
  "answer": ("right answers", SHARE),
  "turn_taking": ("turn-taking", SHARE),
  "without_cause": ("without cause", SHARE),
  "response_latency": ("latency", SECONDS),
  "level": ("level, dBFS", ONE),
  "lip_correlation": ("lip correlation", PLAIN),
  "detail": ("detail of lips and chin", ONE),
  "face": ("face distance", FINE),
  "colour": ("colour distance", FINE),
}


class Watched:
  """One session: figures of pictures and sound minute by minute, and the little that is kept of all of it."""

  def __init__(self, media: MediaConfig, portrait: np.ndarray | None):
    self.media, self.portrait = media, portrait
    self.minutes: list[Scores] = []
    self.loud: list[np.ndarray] = []  # of every 20 ms
    self.text: list[np.ndarray] = []  # of every unit
    self._audio: list[np.ndarray] = []
    self._video: list[np.ndarray] = []

  def add(self, audio: np.ndarray, video: np.ndarray, text: np.ndarray) -> None:
    """The agent's unit: float32 [samples], uint8 [F, H, W, 3], int32 [n]."""
    self._audio.append(audio)
    self._video.append(video)
    self.text.append(text)
    if len(self._audio) * self.media.unit_ms >= 1000 * MINUTE:
      self.close()

  def close(self) -> None:
    """Ends a minute, which may be a shorter one at the end of the session."""
    if not self._audio:
      return
    audio, video = np.concatenate(self._audio), np.concatenate(self._video)
    pieces = len(audio) * 50 // self.media.sample_rate
    level = levels(audio[: pieces * (self.media.sample_rate // 50)], pieces)
    self.loud.append(level > LOUD)
    speech = turns.speech_intervals(audio, self.media.sample_rate)
    out: Scores = {"lip_correlation": [lips(audio, video, self.media, speech)[1]]}
    out["level"] = [float(10 * np.log10(np.mean(10 ** (level[level > LOUD] / 10))))] if (level > LOUD).any() else []
    out["detail"] = [metrics.gradient_energy(lower_face(video[:: self.media.fps]))]
    if self.portrait is not None:
      shown = video[:: self.media.fps]
      out["face"] = [float(np.median([metrics.face_distance(self.portrait, frame) for frame in shown]))]
      out["colour"] = [float(np.median([metrics.histogram_distance(self.portrait, frame) for frame in shown]))]
    self.minutes.append(out)
    self._audio, self._video = [], []

  def speech(self) -> np.ndarray:
    """The agent's speech over the whole session: `turns.speech_intervals` of all of it."""
    return turns.merge(turns.runs(np.concatenate(self.loud)) * 0.02, turns.SPEECH_GAP, turns.MIN_SPEECH)


def part_of(script: Script, start: float, end: float) -> Script:
  """What of a script begins in [start, end)."""
  inside = lambda time: start <= time < end
  return Script(
    tuple(q for q in script.questions if inside(q.end)),
    tuple(pause for pause in script.pauses if inside(pause[0])),
    tuple(time for time in script.interruptions if inside(time)),
    tuple(o for o in script.opportunities if inside(o.start)),
    tuple(piece for piece in script.speech if inside(piece[0])),
    tuple(span for span in script.idle if inside(span[0])),
    tuple(noise for noise in script.noises if inside(noise.start)),
  )


def evaluate_by_minute(
  agent: Agent, options: EvalConfig, minutes: float, sessions: int, progress: bool = True
) -> dict[str, Any]:
  """`sessions` users of duplex_world for some minutes, side by side: {"variants": {name: what `by_minute` gives}}, with
  the config's name and the options. Raises ConfigError for fewer than two minutes."""
  if minutes < 2:
    raise ConfigError(f"minutes is {minutes:g}: expected at least 2; shorter sessions are what --seconds is for")
  options = dataclasses.replace(options, seconds=minutes * MINUTE, sessions=sessions, batch=sessions,
                                baseline_sessions=sessions)  # fmt: skip
  engine = Engine(agent, sessions, capacity=units_of(agent.config, options))
  users = duplex_world(agent.config, options)[1]
  variants = {name: by_minute(engine, options, users, name, progress) for name in ("model", "metronome")}
  return {"config": agent.config.name, "options": dataclasses.asdict(options), "variants": variants}


def by_minute(
  engine: Engine, options: EvalConfig, make_user: MakeUser, variant: str = "model", progress: bool = True
) -> dict[str, Any]:
  """One batch of sessions, one in every slot of the engine: {"minutes": figures of every minute, "drift": the last
  quarter minus the first, paired by session}."""
  media = engine.agent.config.media
  units = units_of(engine.agent.config, options)
  seeds = [options.seed + i for i in range(engine.slots)]
  users = [make_user(seed) for seed in seeds]
  watched = [Watched(media, user.world.portrait) for user in users]
  played = steps(engine, users, seeds, units, variant)
  for _, answer in tqdm(played, variant, units, unit="unit", disable=not progress):
    for i, session in enumerate(watched):
      session.add(answer.audio[i], answer.video[i], answer.text[i])
  sessions = [_scores(session, user, units, engine) for session, user in zip(watched, users)]
  minutes = [[session[m] for session in sessions] for m in range(len(sessions[0]))]
  return {"minutes": [intervals.figures(parts) for parts in minutes], "drift": drift(sessions)}


def _scores(session: Watched, user: User, units: int, engine: Engine) -> list[Scores]:
  """The scores of every minute of a session that is over."""
  session.close()
  unit = session.media.unit_ms / 1000
  script, speech, text = user.script(units), session.speech(), np.stack(session.text)
  words, stops = timed_words(text, engine.tokenizer, unit), cuts(text, engine.tokenizer, unit)
  out = []
  for minute, shown in enumerate(session.minutes):
    start, end = minute * MINUTE, (minute + 1) * MINUTE
    until = end + AFTERWARDS
    near = [pair for pair in words if start - 1 <= pair[0] < until]
    said = talk_scores(part_of(script, start, end), turns.clip(speech, start, until), near, MINUTE, stops)
    out.append(shown | {name: said[name] for name in TALK})
  return out


def drift(sessions: Sequence[Sequence[Scores]]) -> dict[str, dict[str, float]]:
  """The last quarter of the minutes minus the first, at least a minute each, with paired intervals over sessions; empty
  for one minute."""
  length = len(sessions[0])
  if length < 2:
    return {}
  quarter = max(1, length // 4)
  join = lambda minutes: {name: [x for part in minutes for x in part.get(name, [])] for name in COLUMNS}
  first, last = ([join(part) for part in parts] for parts in (
    [session[:quarter] for session in sessions], [session[-quarter:] for session in sessions]))  # fmt: skip
  return intervals.differences(last, first)


def table(figures: dict[str, Any], variant: str = "model") -> Section:
  """A row for every minute, or for some minutes together, and the drift."""
  minutes = figures["variants"][variant]["minutes"]
  size = -(-len(minutes) // MOST_ROWS)
  rows = []
  for start in range(0, len(minutes), size):
    group = minutes[start : start + size]
    name = f"{start + 1}" if len(group) == 1 else f"{start + 1} to {start + len(group)}"
    rows.append([name, *(form.text(_mean(group, key)) for key, (_, form) in COLUMNS.items())])
  drifted = figures["variants"][variant]["drift"]
  signed = [(drifted.get(key), form._replace(sign=True)) for key, (_, form) in COLUMNS.items()]
  rows.append(["drift", *("-" if found is None else _with_interval(found, form) for found, form in signed)])
  return Section(f"By minute, {variant}", ["minute", *(title for title, _ in COLUMNS.values())], rows)


def page(figures: dict[str, Any]) -> str:
  """The tables as a Markdown page."""
  options = figures["options"]
  intro = (
    f"{options['sessions']} sessions of {options['seconds'] / MINUTE:g} minutes side by side; means over sessions. "
    "Drift is the last quarter minus the first, in points for shares, with its 95 % bootstrap interval where there are "
    f"at least {intervals.LEAST_SESSIONS} sessions. `metronome` says a word every 2.4 s and shows a still picture."
  )
  tables = markdown([table(figures, name) for name in figures["variants"]])
  return (
    f"# {figures['config']}, minute by minute\n\n{intro}\n\n![all figures over the minutes](minutes.png)\n\n{tables}"
  )


def _with_interval(found: dict[str, float], form: Form) -> str:
  return form.text(found | {"n": 1}, interval=True)


def _mean(group: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
  """The mean of some minutes, each by its number of cases."""
  found = [minute[key] for minute in group if minute.get(key, {}).get("n")]
  cases = sum(figure["n"] for figure in found)
  return {"mean": sum(figure["mean"] * figure["n"] for figure in found) / max(cases, 1), "n": cases}


def _curve(minutes: Sequence[dict[str, Any]], key: str, end: str, form: Form) -> np.ndarray:
  """One statistic of a figure over the minutes, NaN where there is none."""
  values = (minute.get(key, {}) for minute in minutes)
  return np.array([form.factor * value[end] if value.get("n") and end in value else np.nan for value in values])


def _limits(key: str, form: Form, found: tuple[float, float]) -> tuple[float, float]:
  """The range of a panel's axis: wide enough that nothing looks like a drift that is none."""
  if form == SHARE:
    return 0.0, 100.0
  if key == "level":
    middle = sum(found) / 2
    return min(found[0], middle - 6), max(found[1], middle + 6)
  return (min(found[0], 0.0), 1.0) if key == "lip_correlation" else (0.0, 1.3 * found[1])


def draw(path: Any, figures: dict[str, Any]) -> None:
  """A panel for every figure over the minutes, for the model and baselines."""
  from matplotlib.figure import Figure

  from wanstreamer_jax.files import save_figure

  figure = Figure(figsize=(14, 8), layout="constrained")
  for axes, (key, (title, form)) in zip(figure.subplots(3, 3).flat, COLUMNS.items()):
    for name, variant in figures["variants"].items():
      minutes = variant["minutes"]
      x = np.arange(1, len(minutes) + 1)
      style = {"color": "#c8553d", "linewidth": 2} if name == "model" else {"linewidth": 1, "linestyle": "--"}
      axes.plot(x, _curve(minutes, key, "mean", form), label=name, **style)
      if name == "model":
        bounds = (_curve(minutes, key, end, form) for end in ("low", "high"))
        axes.fill_between(x, *bounds, color="#c8553d", alpha=0.2)
    axes.set_title(f"{title}{', %' if form == SHARE else ''}", loc="left", fontsize=10)
    axes.set_xlim(1, max(2, len(minutes)))
    axes.set_ylim(*_limits(key, form, axes.get_ylim()))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  name, options = figures["config"], figures["options"]
  figure.suptitle(f"{name}: {options['sessions']} sessions of {options['seconds'] / 60:g} minutes, by minute")
  save_figure(path, figure, dpi=80)
