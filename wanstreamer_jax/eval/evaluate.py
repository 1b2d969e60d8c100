"""Evaluates an agent: closed loop, teacher-forced errors, codecs, and their baselines.

It runs on held-out sessions of duplex_world. Their users have voices and looks that never occur in training; some of
their questions have phrasings and sums that never occur there either (`answer/unseen`). The closed loop runs on
`sessions` of them; its baselines, the scripted agent's own scores ("truth"), the teacher-forced errors and the codec
figures on the first `baseline_sessions`. Every figure comes with the number of cases in its mean.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from wanstreamer_jax.config import Config, EvalConfig
from wanstreamer_jax.data.duplex_world.source import world_config
from wanstreamer_jax.data.duplex_world.world import make_session
from wanstreamer_jax.data.session import Session
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.eval import heldout, intervals, metrics
from wanstreamer_jax.eval.baselines import PUPPETS, VARIANTS
from wanstreamer_jax.eval.closed_loop import MakeUser, User, batches, converse, encode_worlds
from wanstreamer_jax.eval.duplex_world import SimulatedUser, scripted_conversation
from wanstreamer_jax.eval.intervals import Scores
from wanstreamer_jax.eval.judged import NAMES as VOICES_OF
from wanstreamer_jax.eval.judged import Voices
from wanstreamer_jax.eval.latent_errors import Tally
from wanstreamer_jax.eval.scores import Conversation, join, score, summarise, with_sharpness
from wanstreamer_jax.eval.turns import speech_intervals
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.rollout import Agent

MakeSession = Callable[[int], Session]
Judge = Callable[[Conversation], Scores]  # more scores of one conversation
MIN_MEL_FRAMES = 1000  # log-mel frames (10 s) that a spectrum's statistics need
SPLIT = "heldout"  # of duplex_world
KEPT = 2  # conversations of each kind that are kept for pictures
SHOWN = ("truth", "model", "shuffled_user")  # variants of which the report has pictures


@dataclasses.dataclass
class Evaluation:
  """What `evaluate` returns: figures for JSON, and a few conversations for pictures by variant ("truth" among them)."""

  figures: dict[str, Any]
  conversations: dict[str, list[Conversation]]


class Collected:
  """Scores and log-mel frames of the agent's speech over many conversations of one kind."""

  def __init__(self, config: Config, tokenizer: TextTokenizer, judge: Judge | None = None):
    """judge: adds scores of every conversation."""
    self.config, self.tokenizer, self.judge = config, tokenizer, judge
    self.scores: list[Scores] = []
    self.mel: list[np.ndarray] = []
    self.shown: list[Conversation] = []

  def add(self, conversations: list[Conversation]) -> None:
    media = self.config.media
    for c in conversations:
      self.scores.append(score(c, media, self.tokenizer) | (self.judge(c) if self.judge else {}))
      self.mel += [
        metrics.mel_levels(
          c.agent_audio[round(start * media.sample_rate) : round(end * media.sample_rate)], media.sample_rate
        )
        for start, end in speech_intervals(c.agent_audio, media.sample_rate)
      ]
    self.shown = (self.shown + conversations)[:KEPT]

  def figures(self) -> dict[str, Any]:
    """Means of everything, with intervals over sessions."""
    return intervals.figures(self.scores) | {"sessions": len(self.scores)}


def speech_distances(found: dict[str, Collected]) -> dict[str, dict[str, float]]:
  """Distance of the spectra of each variant's speech from those of one half of the truth's sessions.

  The other half of the truth is compared as "truth", which gives the floor. All have the same number of log-mel frames,
  since the distance falls with that number. Variants that hardly speak are left out.
  """
  frames = {name: np.concatenate(kept.mel) for name, kept in found.items() if kept.mel}
  frames = {name: mel for name, mel in frames.items() if len(mel) >= MIN_MEL_FRAMES}
  if "truth" not in frames:
    return {}
  reference, frames["truth"] = np.array_split(frames["truth"], 2)  # halves of different sessions
  count = min(len(reference), *map(len, frames.values()))
  pick = lambda mel: mel[np.random.default_rng(0).permutation(len(mel))[:count]]
  distance = lambda mel: metrics.mel_frechet(pick(reference), pick(mel))
  return {name: {"mean": distance(mel), "n": count} for name, mel in frames.items()}


def evaluate(
  agent: Agent, options: EvalConfig, make_session: MakeSession, make_user: MakeUser, progress: bool = True,
  variants: tuple[str, ...] = (*VARIANTS, *PUPPETS), judges: bool = False,
) -> Evaluation:  # fmt: skip
  """Runs everything. make_session, make_user: seed -> a held-out session, a reacting user of the same world.

  variants: which of the closed loop's variants to run. judges: whether to judge the voices of model and truth by ear.
  """
  check(options)
  config, begin = agent.config, time.perf_counter()
  tokenizer = tokenizer_of(config)
  few = dataclasses.replace(options, sessions=min(options.sessions, options.baseline_sessions))
  voices = Voices(config.media, tokenizer) if judges else None
  truth, offline = held_out(agent, few, make_session, tokenizer, progress, voices)
  engine_of = engines(agent, units_of(config, options))
  found, seconds = {"truth": truth}, {}
  for variant in variants:
    started = time.perf_counter()
    part = options if variant == "model" else few
    judge = voices.listen(variant) if voices and variant in VOICES_OF else None
    found[variant] = rollouts(engine_of, config, part, make_user, variant, progress, judge)
    if variant not in SHOWN:
      found[variant].shown = []
    seconds[variant] = round(time.perf_counter() - started, 1)
  closed_loop = conversation_figures(found)
  figures = {
    "config": config.name,
    "options": dataclasses.asdict(options),
    "closed_loop": closed_loop,
    **offline,
    **({"voices": voices.judge()} if voices else {}),
    "seconds": seconds | {"total": round(time.perf_counter() - begin, 1)},
  }
  return Evaluation(figures, {name: kept.shown for name, kept in found.items()})


def conversation_figures(found: dict[str, Collected]) -> dict[str, Any]:
  """Figures of all variants, "truth" among them, with those that compare a variant with the truth."""
  for kept in found.values():
    kept.scores = with_sharpness(kept.scores, found["truth"].scores)
  out = {name: kept.figures() for name, kept in found.items()}
  for name, distance in speech_distances(found).items():
    out[name]["speech_mel_frechet"] = distance
  return out


def check(options: EvalConfig) -> None:
  """Raises ConfigError for options that cannot be run."""
  if min(options.sessions, options.baseline_sessions, options.batch) < 2:
    raise ConfigError(
      f"sessions {options.sessions}, baseline_sessions {options.baseline_sessions}, batch {options.batch}: "
      "expected at least 2 of each (shuffled_user swaps users between sessions)"
    )
  if options.seconds < 4:
    raise ConfigError(f"seconds is {options.seconds}: expected at least 4, or no question has time for an answer")


def units_of(config: Config, options: EvalConfig) -> int:
  return round(options.seconds * 1000 / config.media.unit_ms)


def engines(agent: Agent, units: int) -> Callable[[int], Engine]:
  """slots -> an engine for sessions of `units` units, compiled once: most variants have batches of one size."""
  return functools.cache(lambda slots: Engine(agent, slots, capacity=units))


def rollouts(
  engine_of: Callable[[int], Engine], config: Config, options: EvalConfig, make_user: MakeUser, variant: str,
  progress: bool, judge: Judge | None = None,
) -> Collected:  # fmt: skip
  """All closed-loop sessions of one variant. engine_of: see `engines`; judge: of `Collected`."""
  units, kept = units_of(config, options), Collected(config, tokenizer_of(config), judge)
  with tqdm(total=options.sessions, desc=variant, unit="session", disable=not progress) as bar:
    for seeds, count in batches(options.sessions, options.batch, options.seed):
      kept.add(converse(engine_of(len(seeds)), make_user, seeds, units, variant)[:count])
      bar.update(count)
  return kept


def held_out(
  agent: Agent, options: EvalConfig, make_session: MakeSession, tokenizer: TextTokenizer, progress: bool,
  voices: Voices | None = None,
) -> tuple[Collected, dict[str, Any]]:  # fmt: skip
  """The scripted sessions: their own scores, the codecs' figures on them, and the teacher-forced errors. voices: keeps
  the voice of the truth and what the codec makes of it."""
  config = agent.config
  truth = Collected(config, tokenizer, voices.listen("truth") if voices else None)
  tally = Tally(agent.streamer, options.seed)
  codecs: dict[str, list[Scores]] = {"codec": [], "copy_previous": [], "shuffled": []}
  with tqdm(total=options.sessions, desc="truth", unit="session", disable=not progress) as bar:
    for seeds, count in batches(options.sessions, options.batch, options.seed):
      sessions = [make_session(seed) for seed in seeds]
      conversations = [scripted_conversation(session, config, tokenizer) for session in sessions[:count]]
      truth.add(conversations)
      rows = heldout.stack([heldout.session_arrays(session, config, tokenizer) for session in sessions])
      rows = heldout.with_latents(agent, rows)
      for crop, speaking in heldout.crops(rows, config.data.units):
        tally.add(crop, speaking, count)
      audio, video = reconstructed(agent, rows, tokenizer, sessions)
      for name, scores in codec_figures(rows, audio[:count], video[:count], config.media.sample_rate):
        codecs[name].append(scores)
      if voices:
        for row, conversation in enumerate(conversations):
          voices.listen("codec")(dataclasses.replace(conversation, agent_audio=audio[row].reshape(-1)))
      bar.update(count)
  figures = {name: summarise(join(parts)) for name, parts in codecs.items()}
  return truth, {"teacher_forced": tally.result(), "codecs": figures}


def reconstructed(
  agent: Agent, rows: heldout.Arrays, tokenizer: TextTokenizer, sessions: list[Session]
) -> tuple[np.ndarray, np.ndarray]:
  """What the codecs make of the true media: audio [B, U, samples], video [B, U, F, H, W, 3]."""
  latents = Latents(jnp.asarray(rows["agent_video_latent"]), jnp.asarray(rows["agent_audio_latent"]))
  worlds = encode_worlds(agent, tokenizer, [session.world for session in sessions])
  stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *worlds)
  return jax.device_get(heldout.decode_batch(agent, latents, stacked))


def codec_figures(
  rows: heldout.Arrays, audio: np.ndarray, video: np.ndarray, rate: int
) -> Iterator[tuple[str, Scores]]:
  """Codec metrics of the reconstruction, and of the baselines: the true media one unit late, and another session's."""
  count, true_audio, true_video = len(audio), heldout.audio_to_float(rows["agent_audio"]), rows["agent_video"]
  yield "codec", heldout.codec_scores(rows, audio, video, rate)
  late = lambda x: np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], axis=1)[:count]
  yield "copy_previous", heldout.codec_scores(rows, late(true_audio), late(true_video), rate)
  other = lambda x: np.roll(x, 1, axis=0)[:count]
  yield "shuffled", heldout.codec_scores(rows, other(true_audio), other(true_video), rate)


def duplex_world(config: Config, options: EvalConfig) -> tuple[MakeSession, MakeUser]:
  """Held-out sessions and reacting users of duplex_world, as long as `options` say."""
  world = dataclasses.replace(world_config(config), units=units_of(config, options))

  def user(seed: int) -> User:
    return SimulatedUser(seed, world, SPLIT)

  return lambda seed: make_session(seed, world, SPLIT), user


def evaluate_agent(agent: Agent, options: EvalConfig, progress: bool = True, judges: bool = False) -> Evaluation:
  """The evaluation of an agent on duplex_world. judges: also judges voices by ear (`judged.py`)."""
  return evaluate(agent, options, *duplex_world(agent.config, options), progress, judges=judges)
