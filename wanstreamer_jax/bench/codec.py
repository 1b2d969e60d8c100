"""`wanstreamer bench codec`: how near audio codecs come to sounds of several kinds.

Every codec gets the same sounds (data/sounds.py, of seeds that no training data has), at its own sample rate. The
figure is the log-mel distance, after the codec's delay was taken out; beside the codecs stands silence, which is what a
codec that does nothing gives. A mel distance does not tell whether words can be understood: see docs/codecs.md.
"""

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanstreamer_jax.codecs.interface import AudioCodec
from wanstreamer_jax.codecs.losses import in_step, mel_distance
from wanstreamer_jax.codecs.make import make_audio_codec
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.sounds import KINDS, Speech, sound
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.parallel.machine import describe
from wanstreamer_jax.weights.agent import resolve
from wanstreamer_jax.weights.store import load_weights, read_weights

FIRST_SEED = 1_000_000_000  # of the judged sounds: `data make` numbers its sessions from 0
SILENCE = "silence"
TIMED_UNITS = 60


class Trial(NamedTuple):
  """One codec's figures. distances: nats by kind of sound; the times are milliseconds of a unit, best of ten."""

  name: str
  codec: str
  distances: dict[str, float]
  encode_ms: float = 0.0
  decode_ms: float = 0.0


def read_codec(path: str) -> tuple[Config, AudioCodec]:
  """The audio codec of a training run, an export or an exported agent, with its config. Raises CheckpointError."""
  config, _ = read_weights(resolve(path))
  abstract = jax.eval_shape(lambda: make_audio_codec(config.audio_codec, rngs=nnx.Rngs(0)))
  try:
    return config, jax.device_put(load_weights(resolve(path), abstract))
  except CheckpointError as error:
    raise CheckpointError(f"{path} has no audio codec: {error}") from error


def judged(config: Config, seconds: float, clips: int, speech: Speech) -> dict[str, np.ndarray]:
  """{kind: sounds [clips, samples]}, whole units of the config's media."""
  units = max(1, round(1000 * seconds / config.media.unit_ms))
  make = lambda kind, i: sound(kind, units * config.media.samples, FIRST_SEED + i, config.media, speech)
  return {kind: np.stack([make(kind, i) for i in range(clips)]) for kind in KINDS}


def try_codec(name: str, config: Config, codec: AudioCodec, sounds: dict[str, np.ndarray]) -> Trial:
  """Distances of a codec's reconstructions from `sounds`, and its times."""
  rate, delay = config.media.sample_rate, config.audio_codec.delay

  @jax.jit
  def distance(codec: AudioCodec, clip: jax.Array) -> jax.Array:
    latents = codec.encode(clip, codec.encoder_state())[0].mean
    decoded, _ = codec.decode(latents, codec.decoder_state())
    return mel_distance(*in_step(clip, decoded, delay), rate)

  distances = {kind: float(np.mean([distance(codec, clip) for clip in clips])) for kind, clips in sounds.items()}
  return Trial(name, described(config, codec), distances, *unit_times(config, codec, sounds["voice"][0]))


def described(config: Config, codec: AudioCodec) -> str:
  """Kind, rate, size and delay in words."""
  made, size = config.audio_codec, sum(leaf.size for leaf in jax.tree.leaves(codec))
  rate, delay = made.sample_rate / made.hop, 1000 * made.delay / made.sample_rate
  return f"{made.kind}, {rate:g} Hz x {made.latent_dim}, {size / 1e6:.2f} M parameters, {delay:g} ms late"


def unit_times(config: Config, codec: AudioCodec, clip: np.ndarray) -> tuple[float, float]:
  """Milliseconds that encoding and decoding a unit take, each the best tenth of TIMED_UNITS."""
  encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
  before, after = codec.encoder_state(), codec.decoder_state()
  units, times = clip.reshape(-1, config.media.samples), []
  for i in range(TIMED_UNITS):
    unit = jnp.asarray(units[i % len(units)])
    start = time.perf_counter()
    posterior, before = jax.block_until_ready(encode(unit, before))
    middle = time.perf_counter()
    _, after = jax.block_until_ready(decode(posterior.mean, after))
    times.append((middle - start, time.perf_counter() - middle))
  encoding, decoding = np.quantile(1000 * np.asarray(times), 0.1, axis=0)
  return float(encoding), float(decoding)


def silence(config: Config, sounds: dict[str, np.ndarray]) -> Trial:
  """What silence would score."""
  far = jax.jit(lambda clip: mel_distance(clip, jnp.zeros_like(clip), config.media.sample_rate))
  return Trial(SILENCE, "no sound at all", {kind: float(np.mean(list(map(far, x)))) for kind, x in sounds.items()})


def table(trials: Sequence[Trial]) -> list[str]:
  """Markdown rows: one per codec, a column for each kind of sound."""
  rows = [f"| codec | {' | '.join(KINDS)} | encode / decode, ms a unit |", f"|{'---|' * (len(KINDS) + 2)}"]
  for trial in trials:
    timed = f"{trial.encode_ms:.2f} / {trial.decode_ms:.2f}" if trial.encode_ms else ""
    scores = " | ".join(f"{trial.distances[kind]:.3f}" for kind in KINDS)
    rows.append(f"| {trial.name} ({trial.codec}) | {scores} | {timed} |")
  return rows


def bench_codec_command(paths: Sequence[str], seconds: float, clips: int, folder: str, as_json: bool) -> None:
  """Prints the table, or JSON. Raises CheckpointError for a path without an audio codec, DataError without speech."""
  speech = Speech(folder)
  trials: list[Trial] = []
  _ = folder and speech.voices
  for path in paths:
    config, codec = read_codec(path)
    sounds = judged(config, seconds, clips, speech)
    if not trials:
      trials.append(silence(config, sounds))
    trials.append(try_codec(path, config, codec, sounds))
  if as_json:
    print(json.dumps({"machine": describe(), "trials": [trial._asdict() for trial in trials]}, indent=2))
    return
  print(*(f"{name}: {value}" for name, value in describe().items()), sep=", ")
  print(f"log-mel distance in nats (1 nat is 8.7 dB), {clips} clips of {seconds:g} s of each kind, speech: ", end="")
  print(folder or "the formant voices")
  print(*table(trials), sep="\n")
