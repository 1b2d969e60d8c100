"""Crops of latent records as the teacher-forced pass takes them: what training and evaluation share.

A row is one crop of a session: unit fields [K, ...], the session's own fields, and the agent's side of the two units
before it as `previous_*` [2, ...] (`data/loader.py` says which). Everything is unbatched.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.records import audio_to_float, video_to_float
from wanstreamer_jax.model.streamer import History, UserTokens, WanStreamer, WorldArrays
from wanstreamer_jax.model.tokens import PAD, Latents
from wanstreamer_jax.model.ulysses import CONTEXT
from wanstreamer_jax.parallel.mesh import constrain

Row = dict[str, Any]


def with_previous(row: Row, name: str) -> jax.Array:
  """A field of the P units before the crop and of the crop: [P + K, ...]."""
  return jnp.concatenate([row[f"previous_{name}"], row[name]])


def crop_latents(row: Row) -> Latents:
  """The agent's latents of the P units before the crop and of the crop: float32 [P + K, ...]."""
  join = lambda name: with_previous(row, name).astype(jnp.float32)
  return Latents(join("agent_video_latent"), join("agent_audio_latent"))


class Shown(NamedTuple):
  """Which inputs of a session the model is shown, bools. Training leaves some out: none may be taken for granted."""

  world: jax.Array  # text and voice
  portrait: jax.Array
  user_text: jax.Array
  user_audio: jax.Array
  user_video: jax.Array


def mask_inputs(row: Row, shown: Shown) -> Row:
  """The row without the inputs that are not shown: text is PAD, media are invalid."""
  text = {"world_text": shown.world, "user_text": shown.user_text}
  media = {"voice_valid": shown.world, "portrait_valid": shown.portrait}
  media |= {"user_audio_valid": shown.user_audio, "user_video_valid": shown.user_video}
  masked = {name: jnp.where(keep, row[name], PAD) for name, keep in text.items()}
  return row | masked | {name: row[name] & keep for name, keep in media.items()}


def crop_world(row: Row, config: Config) -> WorldArrays:
  """WORLD of the session."""
  empty = WorldArrays.empty(config)
  return WorldArrays(
    text=row["world_text"],
    portrait=row["portrait_latent"].astype(jnp.float32) if config.layout.portrait else empty.portrait,
    portrait_valid=row["portrait_valid"],
    voice=row["voice_latent"].astype(jnp.float32) if config.layout.voice_units else empty.voice,
    voice_valid=row["voice_valid"],
  )


def crop_heard(streamer: WanStreamer, row: Row) -> UserTokens:
  """The user's side, perceived."""
  samples = audio_to_float(row["user_audio"]).reshape(-1)
  audio, video, _ = streamer.perceive(samples, video_to_float(row["user_video"]), streamer.hear.initial_state())
  return UserTokens(audio, video, row["user_text"], row["user_audio_valid"], row["user_video_valid"])


def crop_history(row: Row, shown: Latents, level: jax.Array, keep_audio: jax.Array, delay: int) -> History:
  """What every unit is shown of the agent's past: latents of unit k - delay, and of unit k - 1 for REFEED.

  shown: latents [P + K, ...], perhaps noised; level: their flow time [P + K]; keep_audio: bool [P + K].
  """
  units = row["agent_text"].shape[0]
  total = level.shape[0]
  previous = total - units
  heard = with_previous(row, "agent_audio_valid") & keep_audio
  valid = jnp.stack([with_previous(row, "agent_video_valid"), heard], axis=1)
  at = lambda x, d: x[previous - d : total - d]
  past = lambda d: (jax.tree.map(lambda x: at(x, d), shown), at(level, d), at(valid, d))
  return History(*past(delay), *past(1))


def text_entropy(streamer: WanStreamer, hidden: jax.Array, text: jax.Array) -> tuple[jax.Array, ...]:
  """Cross-entropy in nats of every text slot, whether its word is the likeliest one, and log Z of its logits.

  hidden: [K, n, D], as in `Predictions.text`; text: int32 [K, n] -> float32, bool and float32 [K, n].

  Slot after slot, computed again for the gradient: a minute's logits of all slots, over 152k words, are 0.7 GB a copy.
  """

  def slot(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
    logits = constrain(streamer.logits(constrain(inputs[0], CONTEXT)), CONTEXT)  # [K, V]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, inputs[1][:, None], axis=-1)[:, 0]
    return log_z - chosen, jnp.argmax(logits, axis=-1) == inputs[1], log_z

  entropy, best, log_z = jax.lax.map(jax.checkpoint(slot), (hidden.swapaxes(0, 1), text.T))
  return entropy.T, best.T, log_z.T


def onsets(text: jax.Array) -> jax.Array:
  """bool [K]: units whose first word follows a unit without words. text: int32 [K, n]."""
  word = text[:, 0] != PAD
  return word & ~jnp.concatenate([jnp.zeros(1, bool), word[:-1]])
