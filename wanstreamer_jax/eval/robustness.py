"""Evaluates an agent with users who are changed: other microphones, cameras and voices.

Every row has the same held-out users, with the same seeds, as the clean one beside it; the difference is paired by
user. Effects are those of `data/augment.py`, with one strength each. A deaf and blind agent ends the table.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config, EvalConfig
from wanstreamer_jax.data import augment
from wanstreamer_jax.data.session import World
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.eval import intervals
from wanstreamer_jax.eval.baselines import PUPPETS
from wanstreamer_jax.eval.closed_loop import Act, MakeUser, User
from wanstreamer_jax.eval.evaluate import check, duplex_world, engines, rollouts, units_of
from wanstreamer_jax.eval.intervals import Scores
from wanstreamer_jax.eval.scores import Script
from wanstreamer_jax.eval.sections import PLAIN, SECONDS, SHARE, Form, Section, markdown
from wanstreamer_jax.rollout import Agent

GAIN_DB = -20.0
NOISE_DBFS = -34.0
BLUR = 3.0  # times as small
DROPPED = 0.5  # share of frames that do not arrive
VOICES = ("formant", "flite", "espeak")  # engines of `data.voices`
Effect = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # a unit's sound and pictures, changed
COLUMNS: dict[str, tuple[str, Form]] = {
  "right_answers": ("right answers, mean over kinds", SHARE),
  "answer": ("right answers, all", SHARE),
  "phrasing/composed": ("composed phrasings", SHARE),
  "turn_taking": ("turn-taking", SHARE),
  "without_cause": ("without cause", SHARE),
  "responds": ("turns answered at all", SHARE),
  "response_latency": ("latency", SECONDS),
  "lip_correlation": ("lip correlation", PLAIN),
}


def gain(seed: int) -> Effect:
  """A microphone with 20 dB less gain."""
  return lambda sound, video: (sound * np.float32(10 ** (GAIN_DB / 20)), video)


def noise(seed: int) -> Effect:
  """White or pink noise at -34 dBFS, whatever the level of the speech."""
  rng = np.random.default_rng([seed, 0x2015E])
  bank, place = augment.noise_bank()[int(rng.integers(2))], int(rng.integers(augment.BANK))

  def effect(sound: np.ndarray, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nonlocal place
    added = bank[np.arange(place, place + len(sound)) % augment.BANK]
    place += len(sound)
    return np.clip(sound + added * np.float32(10 ** (NOISE_DBFS / 20)), -1, 1), video

  return effect


def blur(seed: int) -> Effect:
  """Pictures as sharp as pictures three times smaller."""
  return lambda sound, video: (sound, augment.blurred(video[None], BLUR)[0])


def frame_drops(seed: int) -> Effect:
  """Half of the frames do not arrive, at random; the one before is held. The first always arrives."""
  rng, last = np.random.default_rng([seed, 0xD20]), None

  def effect(sound: np.ndarray, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nonlocal last
    frames = []
    for frame in video:
      if last is None or rng.random() >= DROPPED:
        last = frame
      frames.append(last)
    return sound, np.stack(frames)

  return effect


EFFECTS: dict[str, Callable[[int], Effect]] = {
  f"gain {GAIN_DB:.0f} dB": gain,
  f"noise at {NOISE_DBFS:.0f} dBFS": noise,
  f"blur, {BLUR:g} times smaller": blur,
  f"{DROPPED:.0%} of frames dropped": frame_drops,
}


class Changed:
  """A user behind an effect; implements `closed_loop.User`."""

  def __init__(self, user: User, effect: Effect):
    self.user, self.effect = user, effect
    self.world: World = user.world

  def step(self, audio: np.ndarray) -> Act:
    """The user's next unit, changed; the user itself hears the agent unchanged."""
    sound, video, typed = self.user.step(audio)
    return (*self.effect(sound, video), typed)

  def script(self, units: int) -> Script:
    return self.user.script(units)


def behind(make_user: MakeUser, make: Callable[[int], Effect]) -> MakeUser:
  """Users behind an effect."""
  return lambda seed: Changed(make_user(seed), make(seed))


def evaluate_robustness(agent: Agent, options: EvalConfig, progress: bool = True) -> dict[str, Any]:
  """Scores of `baseline_sessions` clean users and of every change of them: {"rows": {name: {"figures", "difference"}},
  "left_out": {name: why}}, with the config's name and the options.

  Voices of an engine that is not installed are left out and named.
  """
  check(options)
  few = dataclasses.replace(options, sessions=min(options.sessions, options.baseline_sessions))
  config, engine_of = agent.config, engines(agent, units_of(agent.config, options))

  def run(make_user: MakeUser, variant: str = "model") -> list[Scores]:
    return rollouts(engine_of, config, few, make_user, variant, progress).scores

  clean_users = duplex_world(config, few)[1]
  clean = run(clean_users)
  rows, left_out = {"clean": _row(clean, None)}, {}
  for name, make in EFFECTS.items():
    rows[name] = _row(run(behind(clean_users, make)), clean)
  for engine in VOICES:
    name = f"voices of {engine}"
    if engine == config.data.voices:
      left_out[name] = "these are the clean users' voices"
      continue
    try:
      spoken = duplex_world(with_voices(config, engine), few)[1]
    except UserError as error:
      left_out[name] = str(error)
      continue
    rows[name] = _row(run(spoken), clean)
  for variant in PUPPETS:
    rows[variant] = _row(run(clean_users, variant), clean)
  return {"config": config.name, "options": dataclasses.asdict(few), "rows": rows, "left_out": left_out}


def with_voices(config: Config, engine: str) -> Config:
  """A config whose users speak with one engine. Raises UserError for one that this package does not know."""
  changed = config.replace()
  changed.data.voices = engine
  return changed.freeze()


def _row(parts: Sequence[Scores], clean: Sequence[Scores] | None) -> dict[str, Any]:
  difference = intervals.differences(parts, clean) if clean is not None else {}
  return {"figures": intervals.figures(parts) | {"sessions": len(parts)}, "difference": difference}


def table(figures: dict[str, Any]) -> Section:
  """Changes below one another; differences from the clean users in brackets with their intervals."""
  rows = []
  for name, row in figures["rows"].items():
    cells = []
    for key, (_, form) in COLUMNS.items():
      cells.append(form.text(row["figures"].get(key)) + _difference(row["difference"].get(key), form))
    rows.append([f"{name} (n={row['figures']['sessions']})", *cells])
  return Section("Robustness", ["", *(title for title, _ in COLUMNS.values())], rows)


def _difference(found: dict[str, float] | None, form: Form) -> str:
  """(-5 [-9, -1]), in points for shares."""
  signed = form._replace(sign=True)
  if not found or signed.value(found["mean"]) == "-":
    return ""
  bounds = f" [{signed.value(found['low'])}, {signed.value(found['high'])}]" if "low" in found else ""
  return f" ({signed.value(found['mean'])}{bounds})"


def page(figures: dict[str, Any]) -> str:
  """The table as a Markdown page."""
  options = figures["options"]
  intro = (
    f"The same {options['sessions']} held-out users, {options['seconds']:g} s each, in every row. In brackets: the "
    "difference from the clean users, in points for shares, with its 95 % bootstrap interval, paired by user. The last "
    "rows are no agents: metronomes, and silence."
  )
  left_out = "".join(f"\n- {note}" for note in notes(figures))
  return f"# Robustness of {figures['config']}\n\n{intro}\n\n{markdown([table(figures)])}{left_out}\n"


def notes(figures: dict[str, Any]) -> list[str]:
  """What was left out, and why."""
  return [f"left out: {name}: {why}" for name, why in figures["left_out"].items()]
