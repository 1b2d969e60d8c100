"""Media records into latent records: what the agent shows and sounds, as codec latents, computed once.

The latent folder keeps the user's media, all text and tracks, and replaces the agent's pictures and sound by
`agent_video_latent` float16 [rows, columns, channels] and `agent_audio_latent` float16 [frames, channels] per unit.
A session adds `portrait_latent` and `voice_latent`. Latents are posterior means. The portrait is the video codec's
first frame, so the session's first unit is encoded from the state behind it; without one the codec is primed with
grey. Sessions are encoded side by side and unit after unit, so memory does not grow with their length.
"""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import nnx

from wanstreamer_jax.codecs.audio_vae import AudioVAE
from wanstreamer_jax.codecs.video_vae import VideoVAE
from wanstreamer_jax.config import Config
from wanstreamer_jax.data import record_folder, records
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.perception.text import TextTokenizer
from wanstreamer_jax.weights import Path, fit_weights, read_weights

REPLACED = ("agent_video", "agent_audio")
STORED = "<f2"  # float16: latents are standardised, so 11 bits are a thousandth of their deviation


def encode(
  media: str | pathlib.Path, audio_vae: AudioVAE, video_vae: VideoVAE, config: Config, out: str | pathlib.Path,
  batch: int = 8, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
  """Writes the latent folder `out` from the media folder `media` and returns its manifest.

  `batch` sessions are encoded side by side. An interrupted call is repeated to continue. Raises DataError when the
  folder is not one of media, was made for another config, or `out` exists.
  """
  source = RecordFolder(media)
  if source.kind != "media":
    raise DataError(f"{media} holds {source.kind}: encode needs the folder that `wanstreamer data make` wrote")
  tokenizer = TextTokenizer(config.data.tokenizer)
  source.check(config, tokenizer)
  unit_dtype, session_dtype = latent_dtypes(source, config)
  origin = {"name": "encode", "media": source.fingerprint(), "codecs": fingerprint(audio_vae, video_vae)}
  head = record_folder.head("latents", config, tokenizer, unit_dtype, session_dtype, source.units, origin)
  head["tracks"], head["text"]["lead"] = source.manifest["tracks"], source.manifest["text"]["lead"]
  writer, begin = record_folder.FolderWriter(out, head), 0
  batch = min(batch, max(source.shard_sessions))
  program = jax.jit(jax.vmap(encode_session, in_axes=(None, None, 0)))
  encoder = lambda inputs: program(audio_vae, video_vae, inputs)
  with tqdm.tqdm(total=source.sessions, unit="session", disable=not progress) as bar:
    for shard, count in enumerate(source.shard_sessions):
      numbers = range(begin, begin + count)
      begin += count
      if not writer.has(shard):
        latents = _encoded(source, numbers, batch, config.layout.portrait, encoder)
        writer.write(shard, _records(source, numbers, latents, unit_dtype, session_dtype), {})
      bar.update(count)
  return writer.finish(len(source.shard_sessions), lambda notes: {"stats": source.manifest["stats"]})


def latent_dtypes(source: RecordFolder, config: Config) -> tuple[np.dtype, np.dtype]:
  """Layouts of latent units and sessions."""
  video = (config.latent_height, config.latent_width, config.video_vae.latent_dim)
  audio = (config.audio_latents, config.audio_vae.latent_dim)
  kept = [field for field in record_folder.dtype_to_json(source.unit_dtype) if field[0] not in REPLACED]
  units = [*kept, ["agent_video_latent", STORED, video], ["agent_audio_latent", STORED, audio]]
  voice = (config.layout.voice_units * audio[0], audio[1])
  sessions = record_folder.dtype_to_json(source.session_dtype)
  sessions += [["portrait_latent", STORED, video], ["voice_latent", STORED, voice]]
  return record_folder.dtype_from_json(units), record_folder.dtype_from_json(sessions)


def fingerprint(*codecs: Any) -> str:
  """A hash over the weights of codecs, in the order of their tree."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(codecs):
    digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
  return digest.hexdigest()


def encode_session(audio_vae: AudioVAE, video_vae: VideoVAE, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """One session's latents: video [K, h, w, Z], audio [K, A, Z], portrait [h, w, Z], voice [V, Z].

  inputs: video uint8 [K, F, H, W, 3], audio int16 [K, S], portrait uint8 [H, W, 3] with portrait_valid, and voice
  int16 [samples] where the layout has one.
  """
  portrait = records.video_to_float(inputs["portrait"])
  first, behind = video_vae.encode_first(portrait[None])
  primed = video_vae.primed_encoder_state(*portrait.shape[:2])
  video_state = jax.tree.map(lambda a, b: jnp.where(inputs["portrait_valid"], a, b), behind, primed)

  def unit(states: tuple[Any, Any], media: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, Any], Any]:
    video, video_state = video_vae.encode(records.video_to_float(media[0]), states[0])
    audio, audio_state = audio_vae.encode(records.audio_to_float(media[1]), states[1])
    return (video_state, audio_state), (video.mean[0], audio.mean)

  states = (video_state, audio_vae.encoder_state())
  _, (video, audio) = jax.lax.scan(unit, states, (inputs["video"], inputs["audio"]))
  voice = jnp.zeros((0, audio.shape[-1]))
  if inputs["voice"].shape[0]:
    voice = audio_vae.encode(records.audio_to_float(inputs["voice"]), audio_vae.encoder_state())[0].mean
  return {"video": video, "audio": audio, "portrait": first.mean[0], "voice": voice}


def _encoded(
  source: RecordFolder, numbers: range, batch: int, portrait: bool, encoder: Any
) -> Iterator[dict[str, np.ndarray]]:
  """Latents of sessions, one after another; batches are filled up so that one program does them all."""
  for begin in range(numbers.start, numbers.stop, batch):
    chosen = [min(number, numbers.stop - 1) for number in range(begin, begin + batch)]
    units = np.stack([source.read_units(number) for number in chosen])
    fixed = np.stack([source.read_session(number).fixed for number in chosen])
    inputs = {"video": units["agent_video"], "audio": units["agent_audio"]}
    inputs |= {"portrait": fixed["portrait"], "voice": fixed["voice"]}
    inputs["portrait_valid"] = fixed["portrait_valid"] & portrait  # primes the codec as a session of this layout does
    latents = jax.device_get(encoder(inputs))
    for row in range(min(batch, numbers.stop - begin)):
      yield {name: values[row] for name, values in latents.items()}


def _records(
  source: RecordFolder, numbers: range, latents: Iterator[dict[str, np.ndarray]], unit_dtype: np.dtype,
  session_dtype: np.dtype,
) -> Iterator[tuple[np.ndarray, records.SessionRecord]]:  # fmt: skip
  for number, values in zip(numbers, latents, strict=True):
    units, fixed = np.zeros(source.units, unit_dtype), np.zeros((), session_dtype)
    media, session = source.read_units(number), source.read_session(number)
    for name in media.dtype.names or ():
      if name not in REPLACED:
        units[name] = media[name]
    for name in session.fixed.dtype.names or ():
      fixed[name] = session.fixed[name]
    for name in ("video", "audio"):
      units[f"agent_{name}_latent"] = _finite(values[name], number)
    for name in ("portrait", "voice"):
      fixed[f"{name}_latent"] = _finite(values[name], number)
    yield units, records.SessionRecord(fixed, session.truth)


def _finite(values: np.ndarray, number: int) -> np.ndarray:
  stored = values.astype(STORED)
  if not np.isfinite(stored).all():
    raise DataError(f"session {number}: the codecs gave latents that are not finite in float16; train them again")
  return stored


def load_codecs(config: Config, audio_vae: Path, video_vae: Path) -> tuple[AudioVAE, VideoVAE]:
  """Both codecs with their weights, each from its training run or from the folder of an exported agent.

  Raises CheckpointError when the weights are missing or of another shape than `config` says.
  """
  abstract = jax.eval_shape(
    lambda: (AudioVAE(config.audio_vae, rngs=nnx.Rngs(0)), VideoVAE(config.video_vae, rngs=nnx.Rngs(0)))
  )
  codecs = []
  for name, path, shapes in zip(("audio_vae.", "video_vae."), (audio_vae, video_vae), abstract):
    values = read_weights(path)[1]
    own = {key.removeprefix(name): value for key, value in values.items() if key.startswith(name)}
    codecs.append(jax.device_put(fit_weights(own or values, shapes, path)))
  return codecs[0], codecs[1]
