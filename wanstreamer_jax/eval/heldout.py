"""Loads held-out sessions as rows of latents, and the codecs' reconstructions of them."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.encode import encode_session
from wanstreamer_jax.data.loader import PREVIOUS, SESSION_FIELDS, UNIT_FIELDS, WITH_PAST, Crop, pad_before
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
from wanstreamer_jax.eval.scores import lower_face
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
  return jax.vmap(functools.partial(encode_session, agent.audio_codec, agent.video_codec))(inputs)


def with_latents(agent: Agent, batch: Arrays) -> Arrays:
  """Adds the codecs' latents to a batch of `session_arrays` [B, U, ...]."""
  inputs = {"video": batch["agent_video"], "audio": batch["agent_audio"]}
  inputs |= {"portrait": batch["portrait"], "voice": batch["voice"]}
  inputs["portrait_valid"] = batch["portrait_valid"] & agent.config.layout.portrait
  found = jax.device_get(encode_batch(agent, inputs))
  names = {"video": "agent_video_latent", "audio": "agent_audio_latent", "portrait": "portrait_latent"}
  return batch | {new: found[old] for old, new in names.items()} | {"voice_latent": found["voice"]}


def crops(batch: Arrays, units: int) -> Iterator[tuple[Crop, np.ndarray]]:
  """Consecutive crops [B, units, ...] of whole sessions [B, U, ...] with their latents, and beside each whether the
  agent speaks, bool [B, units, F]; a remainder is left out. Sessions are numbered by their row."""
  sessions, total = batch["agent_text"].shape[:2]
  units = min(units, total)
  padded = {name: pad_before(batch[name], PREVIOUS, axis=1) for name in WITH_PAST}
  for start in range(0, total - units + 1, units):
    fields = {name: batch[name][:, start : start + units] for name in UNIT_FIELDS}
    fields |= {name: x[:, start : start + PREVIOUS + units] for name, x in padded.items()}
    fields |= {name: batch[name] for name in SESSION_FIELDS}
    place = {"session": np.arange(sessions, dtype=np.int32), "start": np.full(sessions, start, np.int32)}
    yield Crop(**place, **fields), batch["agent_speaking"][:, start : start + units]


@jax.jit
def decode_batch(agent: Agent, latents: Latents, worlds: WorldArrays) -> tuple[jax.Array, jax.Array]:
  """Latents [B, U, ...] through both decoders: audio float32 [B, U, samples], video uint8 [B, U, F, H, W, 3]."""

  def session(latents: Latents, world: WorldArrays) -> tuple[jax.Array, jax.Array]:
    def unit(states: tuple[Any, Any], z: Latents) -> tuple[tuple[Any, Any], tuple[jax.Array, jax.Array]]:
      audio, audio_state = agent.audio_codec.decode(z.audio, states[0])
      video, video_state = agent.video_codec.decode(z.video[None], states[1])
      return (audio_state, video_state), (audio, video_to_uint8(video))

    states = (agent.audio_codec.decoder_state(), prime_video_decoder(agent, world))
    return jax.lax.scan(unit, states, latents)[1]

  return jax.vmap(session)(latents, worlds)


def codec_scores(reference: Arrays, audio: np.ndarray, video: np.ndarray, rate: int) -> dict[str, list[float]]:
  """Codec metrics of every session: audio [B, U, samples] float, video uint8 [B, U, F, H, W, 3] against the truth.
  sharpness: detail of lips and chin over that of the truth."""
  names = ("psnr", "ssim", "sharpness", "si_sdr", "log_mel_distance", "log_spectral_distance")
  out: dict[str, list[float]] = {name: [] for name in names}
  for index in range(len(audio)):
    film = reference["agent_video"][index].reshape(-1, *video.shape[3:])
    sound = audio_to_float(reference["agent_audio"][index]).reshape(-1)
    shown, heard = video[index].reshape(film.shape), audio[index].reshape(-1)
    scores = (
      metrics.psnr(film, shown),
      metrics.ssim(film, shown),
      metrics.gradient_energy(lower_face(shown)) / max(metrics.gradient_energy(lower_face(film)), 1e-9),
      metrics.si_sdr(sound, heard),
      metrics.log_mel_distance(sound, heard, rate),
      metrics.log_spectral_distance(sound, heard),
    )
    for name, score in zip(names, scores):
      out[name].append(score)
  return out
