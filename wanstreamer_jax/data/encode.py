"""Encodes media records into latent records, and the world of a session into arrays.

`encode` computes latents once for training. The latent folder keeps the user's media, all text and tracks; the agent's
video and audio become `agent_video_latent` float16 [rows, columns, channels] and `agent_audio_latent` float16
[frames, channels] per unit. A session adds `portrait_latent` and `voice_latent`. Latents are posterior means. The
portrait is the video codec's first frame, so the session's first unit is encoded from the state after it; without a
portrait the codec is primed with grey. Sessions are encoded side by side and unit after unit, so that memory does not
grow with their length. The user's pictures are stored as `data.user_video` says; media that have them in the same form
give their pieces as they are.

`world_arrays` is the same for a world that is given at run time: text to ids, portrait and voice to latents.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from wanstreamer_jax.codecs.interface import AudioCodec, VideoCodec
from wanstreamer_jax.config import Config
from wanstreamer_jax.data import record_writer, records
from wanstreamer_jax.data.record_folder import RecordFolder, codec_kinds, dtype_from_json, dtype_to_json
from wanstreamer_jax.data.record_writer import WHOLE
from wanstreamer_jax.data.records import video_to_float
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.parallel.renamed import former_order
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.rollout import Agent

LEADS = ("lead", "leads")  # of the manifest's text; older ones have the first only
REPLACED = ("agent_video", "agent_audio")
STORED = "<f2"  # float16: latents are standardised, and 11 bits resolve a thousandth of their deviation


def encode(
  media: str | pathlib.Path, audio_codec: AudioCodec, video_codec: VideoCodec, config: Config, out: str | pathlib.Path,
  batch: int = 8, share: tuple[int, int] = WHOLE, skip_bad: bool = False, progress: bool = True,
) -> dict[str, Any] | None:  # fmt: skip
  """Writes the latent folder `out` from the media folder `media` and returns its manifest.

  batch: sessions that are encoded side by side. share: (i, n) encodes every n-th shard from the i-th on, as in
  `make`; the result is None while other calls have not made theirs. skip_bad: leave out sessions that cannot be read or
  encoded, and list them in report.json (the manifest's statistics still count them).

  Repeat an interrupted call to continue it; repeating a finished one does nothing. Raises DataError when the folder
  does not hold media or was made for another config, or when `out` is another folder.
  """
  source = RecordFolder(media)
  if source.kind != "media":
    raise DataError(f"{media} holds {source.kind}: encode needs the folder that `wanstreamer data make` wrote")
  tokenizer = tokenizer_of(config)
  source.check(config, tokenizer)
  unit_dtype, session_dtype = latent_dtypes(source, config)
  origin = {"name": "encode", "media": source.fingerprint(), "codecs": fingerprint(audio_codec, video_codec)}
  head = record_writer.head("latents", config, tokenizer, unit_dtype, session_dtype, source.units, origin)
  head |= {"labels": source.manifest["labels"]} if "labels" in head else {}  # the numbers are copied as they are
  head["tracks"], head["format"] = source.manifest["tracks"], max(head["format"], source.manifest["format"])
  of_source = {name: source.manifest["text"][name] for name in LEADS if name in source.manifest["text"]}
  head["text"] = {name: value for name, value in head["text"].items() if name not in LEADS} | of_source
  head |= unknown_given_past(audio_codec, video_codec) | codec_kinds(config)
  writer = record_writer.FolderWriter(out, head)
  if writer.finished:
    return writer.finished
  program = jax.jit(jax.vmap(encode_session, in_axes=(None, None, 0)))
  job = _EncodeJob(
    source, min(batch, max(source.shard_sessions)), config.layout.portrait, unit_dtype, session_dtype,
    lambda inputs: program(audio_codec, video_codec, inputs), skip_bad, _carried(source, writer.head),
  )  # fmt: skip
  counts = source.shard_sessions
  begins = [0, *itertools.accumulate(counts)]
  todo = writer.missing(len(counts), share)
  bar = tqdm.tqdm(total=sum(counts[shard] for shard in todo), unit="session", disable=not progress)
  with bar, writer.beside_others():
    for shard in todo:
      skipped: list[dict[str, Any]] = []
      numbers = range(begins[shard], begins[shard + 1])
      writer.write(shard, _encoded(job, numbers, skipped), {"skipped": skipped})
      bar.update(counts[shard])
  return writer.finish(len(counts), lambda notes: {"stats": source.manifest["stats"]})


@dataclasses.dataclass(frozen=True)
class _EncodeJob:
  """What the encoding of every shard needs."""

  source: RecordFolder
  batch: int
  portrait: bool  # whether the layout has one
  unit_dtype: np.dtype
  session_dtype: np.dtype
  encoder: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]  # arrays [batch, ...]
  skip_bad: bool
  carried: tuple[str, ...]  # fields whose pieces are copied


def _carried(source: RecordFolder, head: dict[str, Any]) -> tuple[str, ...]:
  """Compressed fields of the source that the new folder, whose manifest begins with `head`, stores in the same form."""
  if source.pieces is None or head.get("pieces", {}).get("units") != source.pieces.units:
    return ()
  return tuple(name for name, crf in head["pieces"]["quality"].items() if source.pieces.quality.get(name) == crf)


class Media(Protocol):
  """What holds media records."""

  @property
  def unit_dtype(self) -> np.dtype: ...

  @property
  def session_dtype(self) -> np.dtype: ...


def latent_dtypes(source: Media, config: Config) -> tuple[np.dtype, np.dtype]:
  """Layouts of latent units and sessions."""
  video = (config.latent_height, config.latent_width, config.video_codec.latent_dim)
  audio = (config.audio_latents, config.audio_codec.latent_dim)
  kept = [field for field in dtype_to_json(source.unit_dtype) if field[0] not in REPLACED]
  units = [*kept, ["agent_video_latent", STORED, video], ["agent_audio_latent", STORED, audio]]
  voice = (config.layout.voice_units * audio[0], audio[1])
  sessions = dtype_to_json(source.session_dtype)
  sessions += [["portrait_latent", STORED, video], ["voice_latent", STORED, voice]]
  return dtype_from_json(units), dtype_from_json(sessions)


def unknown_given_past(audio_codec: AudioCodec, video_codec: VideoCodec) -> dict[str, Any]:
  """{"residual_std": {"audio": [Z], "video": [Z]}} for the manifest; codecs that measured none are left out."""
  stated = {"audio": audio_codec.standard, "video": video_codec.standard}
  measured = {name: np.asarray(standard.residual_std[...]).tolist() for name, standard in stated.items()}
  measured = {name: values for name, values in measured.items() if min(values) > 0}
  return {"residual_std": measured} if measured else {}


def fingerprint(*codecs: Any) -> str:
  """A hash over the weights of codecs on which latents depend: all, but for decoders that others may replace and for
  what `residual_std` says of the latents. It goes by the names that leaves had once, so older latents still fit."""
  digest = hashlib.sha256()
  for codec in codecs:
    for name, leaf in sorted(named_leaves(codec).items(), key=lambda item: former_order(item[0])):
      other = name.startswith("decoder.") and getattr(codec, "decoder_is_exchangeable", False)
      if not other and not name.endswith("standard.residual_std"):
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
  return digest.hexdigest()


def encode_session(
  audio_codec: AudioCodec, video_codec: VideoCodec, inputs: dict[str, jax.Array], at_once: int = 1
) -> dict[str, jax.Array]:
  """One session's latents: video [K, h, w, Z], audio [K, A, Z], portrait [h, w, Z], voice [V, Z].

  inputs: video uint8 [K, F, H, W, 3], audio int16 [K, S], portrait uint8 [H, W, 3] with portrait_valid, and voice
  int16 [samples] where the layout has one. The agent's audio is encoded as much earlier as its codec decodes it
  late, so that what is decoded is in step with the picture; the codec hears silence in the last `cfg.delay` samples.
  at_once: units in one call of the codecs, which divides K: more are faster on a GPU and take more memory.
  """
  portrait = records.video_to_float(inputs["portrait"])
  first, behind = video_codec.encode_first(portrait[None])
  primed = video_codec.primed_encoder_state(*portrait.shape[:2])
  video_state = jax.tree.map(lambda a, b: jnp.where(inputs["portrait_valid"], a, b), behind, primed)

  def unit(states: tuple[Any, Any], media: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, Any], Any]:
    video, video_state = video_codec.encode(records.video_to_float(media[0]), states[0])
    audio, audio_state = audio_codec.encode(records.audio_to_float(media[1]), states[1])
    return (video_state, audio_state), (video.mean, audio.mean)

  states = (video_state, audio_codec.encoder_state())
  sound, units = advanced(inputs["audio"], audio_codec.cfg.delay), inputs["audio"].shape[0]
  parts = inputs["video"].reshape(units // at_once, -1, *inputs["video"].shape[2:]), sound.reshape(units // at_once, -1)
  _, (video, audio) = jax.lax.scan(unit, states, parts)  # [parts, at_once, h, w, Z], [parts, at_once * A, Z]
  video, audio = video.reshape(units, *video.shape[2:]), audio.reshape(units, -1, audio.shape[-1])
  voice = jnp.zeros((0, audio.shape[-1]))
  if inputs["voice"].shape[0]:
    voice = audio_codec.encode(records.audio_to_float(inputs["voice"]), audio_codec.encoder_state())[0].mean
  return {"video": video, "audio": audio, "portrait": first.mean[0], "voice": voice}


def advanced(audio: jax.Array, delay: int) -> jax.Array:
  """Sound of K units [K, S], `delay` samples earlier; silence at the end."""
  flat = audio.reshape(-1)
  return jnp.concatenate([flat[delay:], jnp.zeros(delay, audio.dtype)]).reshape(audio.shape)


def _encoded(job: _EncodeJob, numbers: range, skipped: list[dict[str, Any]]) -> Iterator[record_writer.Entry]:
  """Latent sessions of media sessions. The last batch is filled up, so that one program serves all batches."""
  readable = _readable(job, numbers, skipped)
  while chosen := list(itertools.islice(readable, job.batch)):
    full = [*chosen, *[chosen[-1]] * (job.batch - len(chosen))]
    inputs = codec_inputs([units for _, units, _ in full], [session.fixed for _, _, session in full], job.portrait)
    latents = jax.device_get(job.encoder(inputs))
    for row, (number, media, session) in enumerate(chosen):
      with _skipping(job, number, skipped):
        own = {name: values[row] for name, values in latents.items()}
        units, fixed = latent_records(media, session.fixed, own, job.unit_dtype, job.session_dtype)
        pieces = {name: job.source.read_pieces(number, name) for name in job.carried}
        yield record_writer.Entry(units, records.SessionRecord(fixed, session.truth), pieces)


def _readable(
  job: _EncodeJob, numbers: range, skipped: list[dict[str, Any]]
) -> Iterator[tuple[int, np.ndarray, records.SessionRecord]]:
  fields = [name for name in job.source.unit_dtype.names or () if name not in job.carried]
  for number in numbers:
    with _skipping(job, number, skipped):
      yield number, job.source.read_units(number, fields=fields), job.source.read_session(number)


@contextlib.contextmanager
def _skipping(job: _EncodeJob, number: int, skipped: list[dict[str, Any]]) -> Iterator[None]:
  """With `skip_bad`, reports a DataError of one session in `skipped`; else raises it with the session's number."""
  where = f"session {number} of {job.source.path}"
  try:
    yield
  except DataError as error:
    if not job.skip_bad:
      raise DataError(f"{where}: {error}; or pass --skip-bad to leave such sessions out") from error
    skipped.append(record_writer.skip(where, error))


def codec_inputs(units: Sequence[np.ndarray], fixed: Sequence[np.ndarray], portrait: bool) -> dict[str, np.ndarray]:
  """What `encode_session` takes of several sessions: arrays [sessions, ...].

  units, fixed: their media records. portrait: whether the layout has one.
  """
  inputs = {name: np.stack([own[f"agent_{name}"] for own in units]) for name in ("video", "audio")}
  inputs |= {name: np.stack([own[name] for own in fixed]) for name in ("portrait", "voice", "portrait_valid")}
  inputs["portrait_valid"] &= portrait
  return inputs


def latent_records(
  media: np.ndarray, fixed: np.ndarray, latents: dict[str, np.ndarray], unit_dtype: np.dtype, session_dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
  """One session's records (units, fixed part) with latents in place of the agent's pictures and sound.

  media, fixed: its media records. The layouts are those of `latent_dtypes`. Raises DataError for latents that float16
  does not hold.
  """
  units, whole = np.zeros(len(media), unit_dtype), np.zeros((), session_dtype)
  for name in media.dtype.names or ():
    if name not in REPLACED:
      units[name] = media[name]
  for name in fixed.dtype.names or ():
    whole[name] = fixed[name]
  for name in ("video", "audio"):
    units[f"agent_{name}_latent"] = _finite(latents[name])
  for name in ("portrait", "voice"):
    whole[f"{name}_latent"] = _finite(latents[name])
  return units, whole


def _finite(values: np.ndarray) -> np.ndarray:
  stored = values.astype(STORED)
  if not np.isfinite(stored).all():
    raise DataError("the codecs' latents are not finite in float16; train the codecs again")
  return stored


def world_arrays(agent: Agent, tokenizer: TextTokenizer, world: World, cut: bool = False) -> WorldArrays:
  """A session's world as the model takes it: text as ids, portrait and voice as latents.

  cut: shorten a text that has more tokens than the layout has room for, as training records do; else raise DataError.
  """
  config, empty = agent.config, WorldArrays.empty(agent.config)
  result = empty._replace(text=jnp.asarray(world_text(config, tokenizer, world, cut)))
  if world.portrait is not None and config.layout.portrait:
    portrait = _encode_portrait(agent.video_codec, world.portrait)
    result = result._replace(portrait=portrait, portrait_valid=jnp.ones((), bool))
  if world.voice is not None and config.layout.voice_units:
    samples = np.zeros(config.layout.voice_units * config.media.samples, np.float32)
    samples[: len(world.voice)] = world.voice[: len(samples)]
    result = result._replace(voice=_encode_voice(agent.audio_codec, samples), voice_valid=jnp.ones((), bool))
  return result


def world_text(config: Config, tokenizer: TextTokenizer, world: World, cut: bool = False) -> np.ndarray:
  """The world's text as PAD-filled ids: int32 [layout.world_text]. cut: as in `world_arrays`."""
  capacity = config.layout.world_text
  told = records.told_world(config, world)
  ids = tokenizer.encode(told.text()) if told.fields and capacity else []
  if len(ids) > capacity and not cut:
    raise DataError(
      f"the world text has {len(ids)} tokens: this model takes {capacity} (layout.world_text); shorten the fields"
    )
  text = np.full(capacity, tokenizer.pad_id, np.int32)
  text[: len(ids[:capacity])] = ids[:capacity]
  return text


@jax.jit
def _encode_portrait(video_codec: VideoCodec, portrait: jax.Array) -> jax.Array:
  """uint8 [H, W, 3] -> [h, w, Z]."""
  return video_codec.encode_first(video_to_float(portrait)[None])[0].mean[0]


@jax.jit
def _encode_voice(audio_codec: AudioCodec, samples: jax.Array) -> jax.Array:
  """float32 [S] -> [T, Z]."""
  return audio_codec.encode(samples, audio_codec.encoder_state())[0].mean
