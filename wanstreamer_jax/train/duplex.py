"""Stage 2: duplex interaction, teacher-forced: one pass over [clean | noisy] per crop, text and flow losses.

A batch is what `data.loader.Loader` reads from a folder of cached latents: arrays [B, K, ...] of the unit fields,
[B, ...] of the session's, and the latents of the units before the crop.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from wanstreamer_jax.config import Config, TrainConfig
from wanstreamer_jax.crops import (
  FIELDS,
  Shown,
  crop_heard,
  crop_history,
  crop_latents,
  crop_world,
  mask_inputs,
  onsets,
  text_entropy,
)
from wanstreamer_jax.flow.path import interpolate, sample_time, velocity
from wanstreamer_jax.model.streamer import Predictions, WanStreamer
from wanstreamer_jax.model.tokens import PAD, Latents, text_valid
from wanstreamer_jax.parallel.mesh import BATCH_AXES, make_mesh
from wanstreamer_jax.train.stage import Batch, Metrics, Stage

FIRST_UNITS, FIRST_WORDS = 22_500, 8_192  # crops start anywhere in the first hour of the clock and of the words


class Draws(NamedTuple):
  """Everything random in the loss of one crop."""

  tau: jax.Array  # [K] flow time of the noisy copy
  noise: Latents  # [K, ...]
  history_level: jax.Array  # [K + previous] flow time of the committed copy
  history_noise: Latents  # [K + previous, ...]
  keep_audio: jax.Array  # bool [K + previous]: whether the committed audio of a unit is shown
  shown: Shown  # what this session has of its user and its world
  first_unit: jax.Array  # int32, added to the crop's place in its session
  first_word: jax.Array  # int32


def draw(key: jax.Array, latents: Latents, config: Config, previous: int) -> Draws:
  """latents: [K + previous, ...] of one crop with the units before it."""
  keys = jax.random.split(key, 8)
  train, flow = config.train, config.flow
  total = latents.audio.shape[0]
  normal = lambda key, units: Latents(
    *(jax.random.normal(k, (units, *x.shape[1:])) for k, x in zip(jax.random.split(key), latents))
  )
  moved = jax.random.bernoulli(keys[6])
  all_shown, *each = jax.random.uniform(keys[5], (4,)) >= jnp.array([train.condition_drop] + 3 * [train.stream_drop])
  portrait, audio, video = (all_shown & one for one in each)
  shown = Shown(world=all_shown, portrait=portrait, user_text=all_shown, user_audio=audio, user_video=video)
  place = jax.random.randint(keys[7], (2,), 0, jnp.array([FIRST_UNITS, FIRST_WORDS])) * moved
  return Draws(
    tau=sample_time(keys[0], (total - previous,), mean=flow.train_mean, std=flow.train_std, shift=flow.train_shift),
    noise=normal(keys[1], total - previous),
    history_level=train.history_noise * jax.random.uniform(keys[2], (total,)),
    history_noise=normal(keys[3], total),
    keep_audio=jax.random.uniform(keys[4], (total,)) >= train.history_drop,
    shown=shown,
    first_unit=place[0],
    first_word=place[1],
  )


def predict(streamer: WanStreamer, row: Batch, draws: Draws) -> tuple[Predictions, Latents]:
  """The teacher-forced pass of one crop. -> (predictions, target velocities [K, ...])."""
  config = streamer.config
  row, latents = mask_inputs(row, draws.shown), crop_latents(row)
  previous = draws.history_level.shape[0] - draws.tau.shape[0]
  clean = jax.tree.map(lambda x: x[previous:], latents)
  noisy = jax.tree.map(lambda x, e: interpolate(x, e, draws.tau), clean, draws.noise)
  shown = jax.tree.map(lambda x, e: interpolate(x, e, draws.history_level), latents, draws.history_noise)
  predictions = streamer.teacher_forced(
    crop_world(row, config),
    crop_heard(streamer, row),
    crop_history(row, shown, draws.history_level, draws.keep_audio, config.layout.commit_delay),
    row["agent_text"],
    noisy,
    draws.tau,
    row["start"] + draws.first_unit,
    draws.first_word,
  )
  return predictions, jax.tree.map(velocity, clean, draws.noise)


def text_losses(logits: jax.Array, text: jax.Array, train: TrainConfig) -> tuple[jax.Array, Metrics]:
  """Cross-entropy of the slots that exist (up to and including the first PAD). logits: [K, n, V]; text: [K, n]."""
  valid, word = text_valid(text), text != PAD
  entropy = text_entropy(logits, text)
  weight = valid * jnp.where(word, 1.0, train.pad_weight)
  words = jnp.maximum(jnp.sum(word), 1)
  onset = onsets(text)
  metrics = {
    "text": jnp.sum(entropy * valid) / jnp.sum(valid),
    "word_entropy": jnp.sum(entropy * word) / words,
    "onset_entropy": jnp.sum(entropy[:, 0] * onset) / jnp.maximum(jnp.sum(onset), 1),
    "word_accuracy": jnp.sum((jnp.argmax(logits, -1) == text) & word) / words,
  }
  return jnp.sum(entropy * weight) / text.shape[0], metrics


def crop_loss(streamer: WanStreamer, row: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
  """The loss of one crop: text cross-entropy per unit, mean squared velocity errors of audio and video."""
  config = streamer.config
  train = config.train
  draws = draw(key, crop_latents(row), config, row["previous_agent_audio_valid"].shape[0])
  predictions, target = predict(streamer, row, draws)
  text, metrics = text_losses(predictions.logits, row["agent_text"], train)
  audio = _masked_mean((predictions.velocity.audio - target.audio) ** 2, row["agent_audio_valid"])
  video = _masked_mean((predictions.velocity.video - target.video) ** 2, row["agent_video_valid"])
  loss = train.text_weight * text + train.audio_weight * audio + train.video_weight * video
  return loss, metrics | {"audio": audio, "video": video}


def _masked_mean(error: jax.Array, valid: jax.Array) -> jax.Array:
  """Mean over the units [K] that exist; error: [K, ...]."""
  per_unit = jnp.mean(error.reshape(error.shape[0], -1), axis=1)
  return jnp.sum(per_unit * valid) / jnp.maximum(jnp.sum(valid), 1)


def duplex_loss(streamer: WanStreamer, batch: Batch, key: jax.Array, config: Config) -> tuple[jax.Array, Metrics]:
  """Mean over the rows of a batch [B, ...]."""
  del config  # the streamer carries it
  rows = batch["agent_text"].shape[0]
  # On a mesh, shard_map inside (the splash kernel) must know that rows are split; elsewhere the name says nothing.
  over_rows = jax.vmap(crop_loss, in_axes=(None, 0, 0), spmd_axis_name=BATCH_AXES)
  loss, metrics = over_rows(streamer, batch, jax.random.split(key, rows))
  return jnp.mean(loss), jax.tree.map(jnp.mean, metrics)


def _init(config: Config, key: jax.Array) -> WanStreamer:
  return WanStreamer(config, rngs=nnx.Rngs(key))


def _loader(config: Config) -> Any:
  from wanstreamer_jax.data.loader import Loader
  from wanstreamer_jax.train import duplex_watch
  from wanstreamer_jax.train.feed import host_rows

  duplex_watch.check(config)
  rows = host_rows(config.data.batch, make_mesh(config.train.mesh))
  return Loader(config.data.path, config, rows, FIELDS)


def _evaluate(streamer: WanStreamer, config: Config, run: pathlib.Path, step: int) -> Metrics:
  from wanstreamer_jax.train.duplex_watch import watch

  return watch(streamer, config, run, step)


def duplex_stage() -> Stage:
  """Teacher-forced duplex training of the WanStreamer; the codecs were trained before and do not appear."""
  return Stage(name="duplex", init=_init, loss=duplex_loss, make_loader=_loader, evaluate=_evaluate)
