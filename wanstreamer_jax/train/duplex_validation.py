"""Validates the duplex stage by rollouts on held-out users. Its teacher-forced losses alone would mislead.

The agent answers recorded users and sees its own past, not the truth. It prints how much the agent writes and speaks
beside the scripted agent, and how many words were right; the same again (`_augmented`) with the users changed as
`config.augment` changes them in training. It draws strips of frames and log-spectra above the true ones. Accuracies of
readouts (`train/readouts.py`), where there are any, come from a teacher-forced pass.
"""

import functools
import pathlib

import jax
import numpy as np

from wanstreamer_jax import rollout
from wanstreamer_jax.codecs.interface import AudioCodec, VideoCodec
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.encode import fingerprint
from wanstreamer_jax.data.loader import Crop, CropLoader
from wanstreamer_jax.data.loudness import is_loud
from wanstreamer_jax.data.mixture import Mixture
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.records import audio_to_float, video_to_float
from wanstreamer_jax.data.rendered import is_rendered
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.errors import ConfigError, DataError
from wanstreamer_jax.files import save_figure
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.teacher_forcing import crop_past, crop_world, last_units
from wanstreamer_jax.train.stage import Metrics
from wanstreamer_jax.weights.agent import load_codecs, resolve, with_streamer

SESSIONS = 4
MAX_UNITS = 100
FILM_EVERY = 5  # units between the frames of a film strip


def validate(streamer: WanStreamer, config: Config, run: pathlib.Path, step: int) -> Metrics:
  """Rolls out on `data.heldout` with the codecs of `train.codecs`; nothing where either is not set."""
  if not (config.data.heldout and config.train.codecs):
    return {}
  audio_codec, video_codec = codecs(config)
  batch = _held_out(config)
  spoken, truth = _roll(streamer, audio_codec, video_codec, batch)
  path = run / "pictures" / f"rollout_{step:06d}.png"
  path.parent.mkdir(parents=True, exist_ok=True)
  _draw(path, config, batch.agent_text, spoken, truth)
  should = {
    "should_write": float((batch.agent_text != config.model.pad).any(-1)[batch.agent_text_valid].mean()),
    "should_sound": float(np.apply_along_axis(is_loud, -1, np.asarray(truth[0]))[_heard(batch)].mean()),
  }
  metrics = _answers(spoken, batch, config.model.pad) | should
  if config.augment.on:
    heard, _ = _roll(streamer, audio_codec, video_codec, _held_out(config, augment=True))
    changed = _answers(heard, batch, config.model.pad)
    metrics |= {f"{name}_augmented": value for name, value in changed.items()}
  return metrics | _teacher_forced(streamer, config, batch)


def _teacher_forced(streamer: WanStreamer, config: Config, batch: Crop) -> Metrics:
  """What the stage reports of words and readouts, on held-out sessions, with nothing hidden; {} without readouts."""
  if streamer.readouts is None:
    return {}
  from wanstreamer_jax.train.duplex import held_out_metrics

  found = jax.device_get(held_out_metrics(streamer, batch))
  return {f"{name}_heldout": float(ratio.value) for name, ratio in found.items()}


def _answers(spoken: rollout.AgentUnit, batch: Crop, pad: int) -> Metrics:
  """How much the agents wrote and sounded, and how many of the true words stand in their places; where words are not
  known and where there is no sound, nothing is compared (NaN if that is everywhere)."""
  known = batch.agent_text_valid  # [B, K]
  text, words = np.asarray(spoken.text), (batch.agent_text != pad) & known[..., None]
  sounded = np.apply_along_axis(is_loud, -1, np.asarray(spoken.audio))
  return {
    "writes": float((text != pad).any(-1)[known].mean()), "sounds": float(sounded[_heard(batch)].mean()),
    "words_in_place": float((text == batch.agent_text)[words].mean()),
  }  # fmt: skip


def _heard(batch: Crop) -> np.ndarray:
  """Units in which the true agent has a sound: bool [B, K]."""
  return batch.agent_audio_valid[:, -batch.agent_text.shape[1] :]


def check(config: Config) -> None:
  """Raises before the first step what `validate` would raise after many: for codecs or records that cannot be read, and
  for latents that other codecs made."""
  rendered = is_rendered(config)
  if rendered and not config.train.codecs:
    raise ConfigError(
      f"data.path {config.data.path} is rendered and encoded while training runs: set train.codecs to the codecs, an "
      "exported agent or AUDIO_RUN,VIDEO_RUN"
    )
  if not rendered and bool(config.train.codecs) != bool(config.data.heldout):
    given, missing = ("train.codecs", "data.heldout") if config.train.codecs else ("data.heldout", "train.codecs")
    raise ConfigError(f"{given} is set, but {missing} is not: evaluations while training need both")
  if config.data.heldout and config.train.codecs:
    _held_out(config)
    made_by = fingerprint(*codecs(config))
    trained_on = [] if rendered else Mixture(config.data.path).folders
    for folder in (*trained_on, RecordFolder(config.data.heldout)):
      if folder.manifest["source"].get("codecs") != made_by:
        raise DataError(
          f"the latents in {folder.path} were made by other codecs than {config.train.codecs}: encode them again, or "
          "set train.codecs to the codecs that made them"
        )


@functools.lru_cache(maxsize=1)
def codecs(config: Config) -> tuple[AudioCodec, VideoCodec]:
  """train.codecs: "AUDIO_RUN,VIDEO_RUN", or one exported agent."""
  audio, _, video = config.train.codecs.partition(",")
  return load_codecs(config, resolve(audio), resolve(video or audio))


@functools.lru_cache(maxsize=2)
def _held_out(config: Config, augment: bool = False) -> Crop:
  """Held-out sessions from their start; augment: with users changed as in training, always in the same way."""
  units = min(MAX_UNITS, RecordFolder(config.data.heldout).units)
  data, train = config.data.replace(shuffle=False, batch=SESSIONS, units=units, shares=1), config.train
  own = config.replace(data=data, train=train.replace(accumulate=1)).freeze()  # training's batch may be cut into more
  return CropLoader(config.data.heldout, own, augment=augment).batch_at(0)


def _roll(
  streamer: WanStreamer, audio_codec: AudioCodec, video_codec: VideoCodec, batch: Crop
) -> tuple[rollout.AgentUnit, tuple[jax.Array, jax.Array]]:
  """What the agent does, and what the decoders make of the true latents (audio [B, K, S], video [B, K, F, H, W, 3]).

  By `rollout`, not by the engine: these weights may be sharded over the training mesh, an engine's lie on one device.
  """
  parts = (streamer, audio_codec, video_codec)
  found = [_session(parts, jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(SESSIONS)]
  return jax.tree.map(lambda *xs: np.stack(xs), *found)


@jax.jit
def _session(parts: tuple[WanStreamer, AudioCodec, VideoCodec], crop: Crop) -> tuple:
  """One row of `_roll`."""
  agent = with_streamer(*parts)
  world, units = crop_world(crop, agent.config), crop.user_audio.shape[0]
  state = rollout.start_session(agent, jax.random.key(0), world, capacity=units)
  users = rollout.UserUnit(
    audio_to_float(crop.user_audio), video_to_float(crop.user_video), crop.user_text, crop.user_audio_valid,
    crop.user_video_valid,
  )  # fmt: skip
  _, spoken = rollout.rollout(agent, state, users)

  def decode(state, latents):
    audio, video, state = rollout.render(agent, state, latents)
    return state, (audio, video)

  true = last_units(crop_past(crop).latents, units)
  return spoken._replace(trace={}), jax.lax.scan(decode, state, true)[1]


def _draw(path: pathlib.Path, config: Config, text: np.ndarray, spoken: rollout.AgentUnit, truth: tuple) -> None:
  """Per session: the agent's film and log-spectrum, then the truth's; words where they are written."""
  from matplotlib.figure import Figure

  tokenizer = tokenizer_of(config)
  rows = [("agent", spoken.audio, spoken.video, spoken.text), ("truth", *truth, text)]
  figure = Figure(figsize=(26, 16))
  axes = figure.subplots(4 * 2, 2, height_ratios=[1.0, 1.6] * 4)
  for session in range(SESSIONS):
    column, top = session % 2, 4 * (session // 2)
    for index, (name, audio, video, ids) in enumerate(rows):
      film, sound = axes[top + 2 * index][column], axes[top + 2 * index + 1][column]
      frames = np.clip((video[session][::FILM_EVERY, 0] + 1) / 2, 0, 1)
      film.imshow(np.concatenate(list(frames), axis=1), aspect="auto")
      film.axis("off")
      film.set_title(name, loc="left", fontsize=9)
      samples = audio[session].reshape(-1)
      hiss = 1e-6 * np.random.default_rng(0).standard_normal(len(samples))
      sound.specgram(samples + hiss, NFFT=512, noverlap=256, Fs=config.media.sample_rate, vmin=-140, vmax=-40)
      sound.set_ylim(0, 5000)
      for unit in np.flatnonzero((ids[session] != tokenizer.pad_id).any(-1)):
        words = tokenizer.captions([int(i) for i in ids[session][unit] if i != tokenizer.pad_id])
        sound.text(unit * config.media.unit_ms / 1000, 4200 - 500 * (unit % 4), words, fontsize=7, color="white")
  figure.tight_layout()
  save_figure(path, figure, dpi=60)
