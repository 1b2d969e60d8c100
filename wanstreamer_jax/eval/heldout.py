"""Held-out sessions as rows of latents, and the codecs' reconstructions of the same media."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.encode import encode_session
from wanstreamer_jax.data.loader import CARRIED, FIELDS, last_units
from wanstreamer_jax.data.records import (
  audio_to_float,
  session_dtype,
  session_record,
  session_to_units,
  unit_dtype,
  video_to_uint8,
)
from wanstreamer_jax.data.session import Session
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.eval import metrics
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.rollout import Agent, prime_video_decoder

Arrays = dict[str, np.ndarray]


def session_arrays(session: Session, config: Config, tokenizer: TextTokenizer) -> Arrays:
  """One session as its records: unit fields [U, ...] and the session's own fields."""
  units, _ = session_to_units(session, config, tokenizer, unit_dtype(config, ()))
  record, _ = session_record(session, config, tokenizer, session_dtype(config))
  fields = {name: units[name] for name in units.dtype.names or ()}
  return fields | {name: np.asarray(record.fixed[name]) for name in record.fixed.dtype.names or ()}


def stack(sessions: Sequence[Arrays]) -> Arrays:
  """Sessions of one length side by side: every field gets a leading axis."""
  return {name: np.stack([session[name] for session in sessions]) for name in sessions[0]}


@jax.jit
def encode_batch(agent: Agent, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Latents of sessions [B, ...]: what `data.encode` caches."""
  return jax.vmap(functools.partial(encode_session, agent.audio_vae, agent.video_vae))(inputs)


def with_latents(agent: Agent, batch: Arrays) -> Arrays:
  """Adds the codecs' latents to a batch of `session_arrays` [B, U, ...]."""
  inputs = {"video": batch["agent_video"], "audio": batch["agent_audio"]}
  inputs |= {"portrait": batch["portrait"], "voice": batch["voice"]}
  inputs["portrait_valid"] = batch["portrait_valid"] & agent.config.layout.portrait
  found = jax.device_get(encode_batch(agent, inputs))
  names = {"video": "agent_video_latent", "audio": "agent_audio_latent", "portrait": "portrait_latent"}
  return batch | {new: found[old] for old, new in names.items()} | {"voice_latent": found["voice"]}


def crops(batch: Arrays, units: int) -> Iterator[Arrays]:
  """Consecutive crops [B, units, ...] of whole sessions [B, U, ...] with their latents; a remainder is left out.

  Rows are those of `data.loader`, with `agent_speaking` beside them.
  """
  total = batch["agent_text"].shape[1]
  units = min(units, total)
  fixed = ("world_text", "portrait_latent", "portrait_valid", "voice_latent", "voice_valid")
  for start in range(0, total - units + 1, units):
    rows = {name: batch[name][:, start : start + units] for name in (*FIELDS, "agent_speaking")}
    rows |= {name: batch[name] for name in fixed}
    rows["start"] = np.full(len(batch["agent_text"]), start, np.int32)
    rows |= {f"previous_{name}": last_units(batch[name][:, :start], axis=1) for name in CARRIED}
    yield rows


@jax.jit
def decode_batch(agent: Agent, latents: Latents, worlds: WorldArrays) -> tuple[jax.Array, jax.Array]:
  """Latents [B, U, ...] through both decoders: audio float32 [B, U, samples], video uint8 [B, U, F, H, W, 3]."""

  def session(latents: Latents, world: WorldArrays) -> tuple[jax.Array, jax.Array]:
    def unit(states: tuple[Any, Any], z: Latents) -> tuple[tuple[Any, Any], tuple[jax.Array, jax.Array]]:
      audio, audio_state = agent.audio_vae.decode(z.audio, states[0])
      video, video_state = agent.video_vae.decode(z.video[None], states[1])
      return (audio_state, video_state), (audio, video_to_uint8(video))

    states = (agent.audio_vae.decoder_state(), prime_video_decoder(agent, world))
    return jax.lax.scan(unit, states, latents)[1]

  return jax.vmap(session)(latents, worlds)


def codec_scores(reference: Arrays, audio: np.ndarray, video: np.ndarray, rate: int) -> dict[str, list[float]]:
  """Codec metrics of every session: audio [B, U, samples] float, video uint8 [B, U, F, H, W, 3] against the truth."""
  names = ("psnr", "ssim", "si_sdr", "log_mel_distance", "log_spectral_distance")
  out: dict[str, list[float]] = {name: [] for name in names}
  for index in range(len(audio)):
    film = reference["agent_video"][index].reshape(-1, *video.shape[3:])
    sound = audio_to_float(reference["agent_audio"][index]).reshape(-1)
    shown, heard = video[index].reshape(film.shape), audio[index].reshape(-1)
    scores = (
      metrics.psnr(film, shown),
      metrics.ssim(film, shown),
      metrics.si_sdr(sound, heard),
      metrics.log_mel_distance(sound, heard, rate),
      metrics.log_spectral_distance(sound, heard),
    )
    for name, score in zip(names, scores):
      out[name].append(score)
  return out
