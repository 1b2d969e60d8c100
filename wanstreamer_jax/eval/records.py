"""Evaluates an agent on held-out records: errors, and streaming beside recorded users.

Teacher-forced errors are those of `latent_errors.py`. Then the agent meets every recorded user, who does not react to
it (open loop), and `scores.score` judges it by what `recorded_script.py` finds in the recording. Baselines and the
recorded agent ("truth") come from the same run. In latent records the recorded agent is what the codec makes of its
latents.
"""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.encode import fingerprint
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.records import LATER, audio_to_float, session_from_truth, unit_field
from wanstreamer_jax.data.session import AGENT, USER, MediaUnit
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.eval import duplex_world, heldout
from wanstreamer_jax.eval.baselines import PUPPETS, VARIANTS, Answers, Lockstep, Puppets
from wanstreamer_jax.eval.closed_loop import batches
from wanstreamer_jax.eval.evaluate import Collected, Evaluation, conversation_figures, engines
from wanstreamer_jax.eval.intervals import Scores
from wanstreamer_jax.eval.latent_errors import Tally
from wanstreamer_jax.eval.recorded_script import backchannel_scores, script_of, speech_of
from wanstreamer_jax.eval.scores import Conversation, Script, spoken, timed_words
from wanstreamer_jax.eval.turns import speech_intervals
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.teacher_forcing import crop_world

Judge = Callable[[Conversation], Scores]  # more scores of one conversation


class RecordsOptions(NamedTuple):
  """What is run. sessions: how many of the folder's, from the first on; baseline_sessions: how many of these for the
  baselines. seconds: of each session; None is all of it. seed: of the agents' noise. stream: whether to stream, or only
  to measure errors."""

  sessions: int = 100
  baseline_sessions: int = 30
  batch: int = 10
  seconds: float | None = None
  seed: int = 0
  stream: bool = True


class Batch(NamedTuple):
  """Sessions side by side. rows: their records, with latents, [B, U, ...]; `counted` of them count. lengths: the units
  of each that exist."""

  numbers: list[int]
  counted: int
  rows: heldout.Arrays
  lengths: list[int]
  truths: list[dict[str, Any]]
  worlds: list[WorldArrays]


def evaluate_records(
  agent: Agent, path: str | pathlib.Path, options: RecordsOptions, judge: Judge | None = None, progress: bool = True
) -> Evaluation:
  """Runs everything. judge: adds scores, such as those of a recogniser (`real_speech.py`).

  Raises DataError for a folder that was made for another agent, and for one with fewer than two sessions.
  """
  config, begin = agent.config, time.perf_counter()
  tokenizer = tokenizer_of(config)
  folder = RecordFolder(path)
  folder.check(config, tokenizer)
  if folder.sessions < 2:
    raise DataError(
      f"{path} has {folder.sessions} session: expected at least 2 (shuffled_user swaps users between them)"
    )
  codecs = check_codecs(folder, agent)
  units = units_of(folder, config, options)
  found: dict[str, Collected] = {}
  tally, engine_of = Tally(agent.streamer, options.seed), engines(agent, units)
  variants = (*VARIANTS, *PUPPETS) if options.stream else ()
  sessions = min(options.sessions, folder.sessions)
  with tqdm(total=sessions, desc="records", unit="session", disable=not progress) as bar:
    for batch in read(agent, folder, options, units):
      for crop, speaking in heldout.crops(batch.rows, config.data.units):
        tally.add(crop, speaking, batch.counted)
      if options.stream:
        recorded = recorded_agents(agent, batch)
        scripts = [_script(batch, row, recorded.audio[row], config) for row in range(len(batch.numbers))]
      for name in ("truth", *variants) if options.stream else ():
        count = batch.counted if name in ("truth", "model") else _baselines(batch, options)
        if count:
          engine = engine_of(len(batch.numbers))
          did = recorded if name == "truth" else _stream(engine, batch, name, units, options.seed)
          kept = found.setdefault(name, Collected(config, tokenizer, _judge(config, tokenizer, judge)))
          kept.add([_conversation(batch, row, script, did) for row, script in enumerate(scripts[:count])])
      bar.update(batch.counted)
  loop = conversation_figures(found) if found else {}
  source = {"path": str(path), "kind": folder.kind, "fingerprint": folder.fingerprint(), "codecs": codecs}
  figures = {
    "config": config.name,
    "records": source | {"sessions": folder.sessions, "units": units},
    "options": options._asdict() | {"sessions": sessions},
    "open_loop": loop,
    "teacher_forced": tally.result(),
    "seconds": {"total": round(time.perf_counter() - begin, 1)},
  }
  return Evaluation(figures, {name: kept.shown for name, kept in found.items()})


def check_codecs(folder: RecordFolder, agent: Agent) -> str:
  """Whether latents were made by the agent's codecs: "same", "other" (rounding to bfloat16 on export is enough), or,
  for media, "own". Others are said on the screen: then latent errors and the truth's pictures and sound are off."""
  if folder.kind == "media":
    return "own"
  if folder.manifest["source"].get("codecs") == fingerprint(agent.audio_codec, agent.video_codec):
    return "same"
  print(f"note: the latents of {folder.path} were made by other codec weights than this agent's (or before rounding)")
  return "other"


def units_of(folder: RecordFolder, config: Config, options: RecordsOptions) -> int:
  """Units of every session that are used."""
  wanted = folder.units if options.seconds is None else round(options.seconds * 1000 / config.media.unit_ms)
  return max(1, min(wanted, folder.units))


def read(agent: Agent, folder: RecordFolder, options: RecordsOptions, units: int) -> Iterator[Batch]:
  """The sessions in batches of one size; the last one is filled up with others."""
  for found, count in batches(min(options.sessions, folder.sessions), min(options.batch, folder.sessions), 0):
    numbers = [number % folder.sessions for number in found]
    sessions = [folder.read_session(number) for number in numbers]
    units_read = [folder.read_units(number, 0, units) for number in numbers]
    fields = [_unit_fields(read, folder) | _fields(session.fixed) for read, session in zip(units_read, sessions)]
    rows = heldout.stack(fields)
    if folder.kind == "media":
      rows = heldout.with_latents(agent, rows)
    crop = next(heldout.crops(rows, units))[0]
    worlds = [crop_world(jax.tree.map(lambda x, i=i: x[i], crop), agent.config) for i in range(len(numbers))]
    lengths = [min(units, int(folder.lengths[number])) for number in numbers]
    yield Batch(numbers, count, rows, lengths, [session.truth for session in sessions], worlds)


def _unit_fields(read: np.ndarray, folder: RecordFolder) -> heldout.Arrays:
  return _fields(read) | {name: unit_field(read, name, folder.manifest) for name in LATER}


def _fields(record: np.ndarray) -> heldout.Arrays:
  return {name: np.asarray(record[name]) for name in record.dtype.names or ()}


def _baselines(batch: Batch, options: RecordsOptions) -> int:
  """How many sessions of a batch the baselines run on."""
  return max(0, min(batch.counted, options.baseline_sessions - batch.numbers[0]))


def _script(batch: Batch, row: int, agent_audio: np.ndarray, config: Config) -> Script:
  """What the recorded user of one session called for: as its events say, if the source wrote down what was asked
  (duplex_world does), else as the recorded agent, whose sound is [U, samples], took it."""
  media, truth, units = config.media, batch.truths[row], batch.lengths[row]
  seconds = units * media.unit_ms / 1000
  if any(event["kind"] == "question" and "act" in event["detail"] for event in truth["events"]):
    session = session_from_truth(truth)
    return duplex_world.script_of(session.events, session.user.speech, seconds)
  sound = {USER: audio_to_float(batch.rows["user_audio"][row]), AGENT: agent_audio}
  user, agent = (speech_of(truth, side, x[:units].reshape(-1), media.sample_rate) for side, x in sound.items())
  return script_of(truth, user, agent, seconds)


def _judge(config: Config, tokenizer: TextTokenizer, judge: Judge | None) -> Judge:
  """Backchannels and overlap, and what `judge` adds."""

  def scores(c: Conversation) -> Scores:
    rate, seconds = config.media.sample_rate, len(c.agent_audio) / config.media.sample_rate
    words = [start for start, _ in spoken(timed_words(c.agent_text, tokenizer, config.media.unit_ms / 1000))]
    out = backchannel_scores(c.script, speech_intervals(c.agent_audio, rate), words, seconds)
    return out | (judge(c) if judge else {})

  return scores


def _conversation(batch: Batch, row: int, script: Script, agents: Answers) -> Conversation:
  """One row, as long as the session. agents: what all of them did, [B, U, ...]."""
  rows, units = batch.rows, batch.lengths[row]
  flat = lambda x, axes: x[row, :units].reshape(-1, *x.shape[2 + axes :])
  return Conversation(
    batch.numbers[row], script, flat(audio_to_float(rows["user_audio"]), 1), flat(rows["user_video"], 1),
    flat(agents.audio, 1), flat(agents.video, 1), agents.text[row, :units],
    rows["portrait"][row] if rows["portrait_valid"][row] else None,
  )  # fmt: skip


def recorded_agents(agent: Agent, batch: Batch) -> Answers:
  """What the recorded agents did, [B, U, ...]: their media, or what the agent's decoders make of their latents."""
  rows = batch.rows
  if "agent_audio" in rows:
    return Answers(audio_to_float(rows["agent_audio"]), rows["agent_video"], rows["agent_text"])
  latents = Latents(*(jnp.asarray(rows[f"agent_{name}_latent"], jnp.float32) for name in ("video", "audio")))
  worlds = jax.tree.map(lambda *leaves: np.stack(leaves), *batch.worlds)
  audio, video = jax.device_get(heldout.decode_batch(agent, latents, worlds))
  return Answers(audio * rows["agent_audio_valid"][..., None], video, rows["agent_text"])


def _stream(engine: Engine, batch: Batch, variant: str, units: int, seed: int) -> Answers:
  """What the agents of one variant do beside the recorded users: [B, U, ...]. seed: of session 0."""
  seeds = [seed + number for number in batch.numbers]
  agents: Lockstep | Puppets
  if variant in PUPPETS:
    portraits = [x if valid else None for x, valid in zip(batch.rows["portrait"], batch.rows["portrait_valid"])]
    agents = Puppets(engine.agent.config, engine.tokenizer, portraits, seeds, variant)
  else:
    agents = Lockstep(engine, batch.worlds, seeds, variant)
  seconds = engine.agent.config.media.unit_ms / 1000
  answers: list[Answers] = []
  for unit in range(units):
    typed = [_typed(truth, unit, seconds) for truth in batch.truths]
    answers.append(agents.step([_user(batch.rows, row, unit) for row in range(len(batch.numbers))], typed))
  return Answers(*(np.stack(parts, axis=1) for parts in zip(*answers)))


def _user(rows: heldout.Arrays, row: int, unit: int) -> MediaUnit:
  video = rows["user_video"][row, unit] if rows["user_video_valid"][row, unit] else None
  audio = audio_to_float(rows["user_audio"][row, unit]) if rows["user_audio_valid"][row, unit] else None
  return MediaUnit(video, audio)


def _typed(truth: dict[str, Any], unit: int, seconds: float) -> list[str]:
  """What the recorded user typed in one unit."""
  return [word["text"] for word in truth[USER]["words"] if int(word["written"] / seconds + 1e-6) == unit]
