"""Training data that are rendered while training runs: `data.path = "world://SEED"`.

Nothing is stored. Processes render sessions of duplex_world (`render.py`), a thread encodes them with the codecs on the
device, and a reservoir in memory keeps them as latent records, the newest ones that fit. `RenderedLoader.batch_at` cuts
crops from random sessions of the reservoir, as `CropLoader` reads them from a folder. The user's pictures are nearly
all of a session (74 of 76 MB of a minute at 128x128). A single accelerator keeps them in its own memory, where crops
are cut, so that they are sent to it once and not with every batch.

Which sessions are there at a step depends on the speed of the machine, so a continued run does not repeat an
undisturbed one bit for bit: it begins with an empty reservoir and with the first seed again.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.codecs.interface import AudioCodec, VideoCodec
from wanstreamer_jax.config import Config
from wanstreamer_jax.data import labels, records
from wanstreamer_jax.data.device_crops import PICTURES, cut_pictures, varied, without_pictures
from wanstreamer_jax.data.duplex_world.source import DuplexSource, world_config
from wanstreamer_jax.data.duplex_world.world import WorldConfig, transcript
from wanstreamer_jax.data.encode import (
  codec_inputs,
  encode_session,
  fingerprint,
  latent_dtypes,
  latent_records,
  unknown_given_past,
)
from wanstreamer_jax.data.loader import Crop, make_renaming, read_crop
from wanstreamer_jax.data.make import add_counts, token_counts
from wanstreamer_jax.data.render import Recorder, Rendered, Renderer
from wanstreamer_jax.data.session import Session, Side, World
from wanstreamer_jax.data.sounds import SoundSource
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import ConfigError, DataError, one_line_with_type

NAMES = ("world", "voices", "sounds")  # what can be rendered: duplex_world, and sounds without pictures (sounds.py)
EXPECTED = "world://SEED (voices:// or sounds:// for the audio codec), with the first seed, as in world://0"
ENDLESS = 2**31  # sessions
SPARE_CORES = 2  # for the process that trains, where it copies whole batches
MEMORY_SHARE = 0.4  # of the machine's, and of the accelerator's, for the reservoir
SIDE_BY_SIDE = 16  # sessions that are encoded together, at most
COPIERS = 4  # threads that copy sessions into records: a minute at 128x128 is 80 MB
AT_ONCE = 5  # units of a session that a codec encodes in one call on an accelerator, at most
COUNTED = 200  # sessions whose words and labels are counted
STREAM = 5  # number of this random stream, beside those of mixture.py and augment.py
REPORT = 30.0  # seconds between two lines about the reservoir


class Origin(NamedTuple):
  """What is rendered, and from which seed on."""

  name: str
  seed: int


def rendered_origin(path: str) -> Origin | None:
  """What a `data.path` like "world://SEED" renders; None for folders. Raises DataError for no seed."""
  name, colon, seed = path.rstrip("/").partition("://")
  if not colon or name not in NAMES:
    return None
  if not seed.isdecimal():
    raise DataError(f"data.path is {path!r}: expected {EXPECTED}")
  return Origin(name, int(seed))


def is_rendered(config: Config) -> bool:
  """Whether the training data are made while it trains."""
  return rendered_origin(config.data.path) is not None


class Limits(NamedTuple):
  """What rendering may use."""

  workers: int  # processes
  memory: int  # bytes of sessions that are kept

  @classmethod
  def of_machine(cls, on_device: bool = False) -> "Limits":
    """All cores but two, and less than half of the memory. Where the accelerator keeps the pictures, it is the
    accelerator's memory, and all cores: batches cost this machine little then."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if on_device:
      memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", memory)
    return cls(max(1, cores - (0 if on_device else SPARE_CORES)), int(MEMORY_SHARE * memory))


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
  """A session of the reservoir, which reads like a folder that holds only it.

  pictures: uint8 [K, frames, H, W, 3] on the accelerator, if that keeps them; in `units` they have size 0 then. seen:
  whether the user and the agent were seen; all sessions whose user was not share their pictures there.
  """

  number: int
  units: np.ndarray  # latent records [K]
  record: records.SessionRecord
  manifest: dict[str, Any]
  pictures: jax.Array | None = None
  seen: tuple[bool, bool] = (True, True)

  @property
  def nbytes(self) -> int:
    return self.units.nbytes + (0 if self.pictures is None or not self.seen[0] else self.pictures.nbytes)

  def read_units(self, session: int, start: int = 0, count: int | None = None) -> np.ndarray:
    return self.units[start : None if count is None else start + count]

  def read_session(self, session: int) -> records.SessionRecord:
    return self.record


class Encoder:
  """Latent records of media records in memory. The codecs are on the default device.

  manifest: what the manifest of a folder of these latents would say of classes and codecs. on_device: whether the
  device keeps the user's pictures.
  """

  def __init__(
    self, config: Config, recorder: Recorder, audio_codec: AudioCodec, video_codec: VideoCodec, on_device: bool = False
  ):
    self._portrait, self._codecs, self._on_device = config.layout.portrait, (audio_codec, video_codec), on_device
    self._dtypes = latent_dtypes(recorder, config)
    self._pool = concurrent.futures.ThreadPoolExecutor(COPIERS)
    media = config.media  # the pictures of all sessions without any
    shape = (config.data.session_units, media.frames, media.height, media.width, 3)
    self._blank = jnp.zeros(shape, jnp.uint8) if on_device else None
    self.manifest = head(recorder, audio_codec, video_codec)
    most = 1 if jax.default_backend() == "cpu" else AT_ONCE
    at_once = max(n for n in range(1, most + 1) if config.data.session_units % n == 0)
    session = functools.partial(encode_session, at_once=at_once)
    self._program = jax.jit(jax.vmap(session, in_axes=(None, None, 0)))

  def encode(self, made: Sequence[Rendered]) -> list[Kept]:
    """Sessions, encoded side by side. Raises DataError for latents that float16 does not hold."""
    inputs = codec_inputs([one.units for one in made], [one.fixed for one in made], self._portrait)
    latents = jax.device_get(self._program(*self._codecs, inputs))
    rows = [{name: values[row] for name, values in latents.items()} for row in range(len(made))]
    return list(self._pool.map(self._record, made, rows))

  def _record(self, one: Rendered, latents: dict[str, np.ndarray]) -> Kept:
    units, fixed = latent_records(one.units, one.fixed, latents, *self._dtypes)
    shown = lambda side: bool(one.units[f"{side}_video_valid"].any())
    pictures, seen = None, (shown("user"), shown("agent"))
    if self._on_device:
      pictures = jax.device_put(np.ascontiguousarray(units[PICTURES])) if seen[0] else self._blank
      units = without_pictures(units)
    return Kept(one.number, units, records.SessionRecord(fixed, {}), self.manifest, pictures, seen)


class Reservoir:
  """Sessions that are rendered meanwhile, the newest that fit into memory; a `with` block ends the rendering.

  path: for messages. keep: what is kept of sessions that were just rendered, so many together.
  """

  def __init__(
    self, path: str, recorder: Recorder, limits: Limits, together: int, keep: Callable[[list[Rendered]], list[Kept]]
  ):
    self.path, self.limits, self.together, self._keep = path, limits, together, keep
    self.kept: collections.deque[Kept] = collections.deque()
    self._changed, self._closed = threading.Condition(), False
    self._error: DataError | None = None
    self._rendered = self._sessions = self._used = self._bytes = 0  # units, sessions, units, bytes that are kept
    self._began = self._said = time.monotonic()
    print(
      f"rendering {path} by {limits.workers} processes; the newest sessions stay in memory, up to "
      f"{limits.memory / 1e9:.1f} GB",
      flush=True,
    )
    self._renderer = Renderer(recorder, limits.workers)
    self._thread = threading.Thread(target=self._fill, daemon=True)
    self._thread.start()

  def choose(self, rng: np.random.Generator, rows: int, units: int) -> list[tuple[Kept, int]]:
    """`rows` random sessions, none twice where there are enough, and first units for crops of `units`; waits for the
    first sessions. Raises DataError when they failed.

    As many crops are of sessions with pictures as of those without (`data.camera_off`) and of those that show the user
    alone (`data.agent_unseen`), where there are such. A start before a session or too near its end is moved inside, so
    that its first and last units come as often as others.
    """
    with self._changed:
      self._changed.wait_for(lambda: self._error or self._closed or len(self.kept) >= min(rows, self.together))
      if self._error is not None:
        raise self._error
      if self._closed:
        raise DataError(f"{self.path} is no longer rendered")
      chosen = _of_each_kind(rng, list(self.kept), rows)
      self._used += units * rows
      if time.monotonic() > self._said + REPORT:
        self._said = time.monotonic()
        print(self.summary(), flush=True)
    last = len(chosen[0].units) - units
    starts = rng.integers(-(units // 2), last + units // 2 + 1, rows).clip(0, last)
    return list(zip(chosen, starts.tolist()))

  def _fill(self) -> None:
    """Keeps what is rendered, until this is closed. What fails later than the first sessions is said, and training goes
    on with the others: a lent machine does not come back."""
    made: list[Rendered] = []
    while not self._closed:
      try:
        made.append(self._renderer.take())
        if len(made) == self.together:
          whole, made = made, []
          self._add(self._keep(whole))
      except EOFError as end:
        if not self._closed:
          print(f"{end}; training goes on with {len(self.kept)} sessions", flush=True)
        return
      except Exception as error:
        problem = error if isinstance(error, DataError) else DataError(f"encoding failed: {one_line_with_type(error)}")
        with self._changed:
          if not self.kept:
            self._error = problem
            self._changed.notify_all()
            return
        print(f"warning: {problem}", flush=True)

  def _add(self, found: list[Kept]) -> None:
    """Adds sessions and drops the oldest ones that do not fit any more."""
    with self._changed:
      self.kept.extend(found)
      self._rendered += sum(len(kept.units) for kept in found)
      self._sessions += len(found)
      self._bytes += sum(kept.nbytes for kept in found)
      while len(self.kept) > len(found) and self._bytes > self.limits.memory:
        self._bytes -= self.kept.popleft().nbytes
      self._changed.notify_all()

  def summary(self) -> str:
    """How much was rendered, and how often it was used."""
    rate = self._rendered / max(time.monotonic() - self._began, 1e-9)
    users, agents = (sum(kept.seen[side] for kept in self.kept) for side in (0, 1))
    return (
      f"rendered {self._sessions} sessions ({self._rendered} units, {rate:.0f} units/s) by {self.limits.workers} "
      f"processes, {len(self.kept)} kept, users seen in {users} and agents in {agents} of them; each unit was used "
      f"{self._used / max(self._rendered, 1):.1f} times on average"
    )

  def close(self) -> None:
    """Ends the rendering and says how much it was."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
    self._renderer.close()
    self._thread.join()
    print(self.summary(), flush=True)

  def __enter__(self) -> "Reservoir":
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()


def _of_each_kind(rng: np.random.Generator, kept: list[Kept], rows: int) -> list[Kept]:
  """`rows` random sessions, as many of each kind that there is (who was seen); chance decides which have one more."""
  kinds = [[one for one in kept if one.seen == seen] for seen in sorted({one.seen for one in kept})]
  more, chosen = set(rng.permutation(len(kinds))[: rows % len(kinds)].tolist()), []
  for number, kind in enumerate(kinds):
    count = rows // len(kinds) + (number in more)
    chosen += [kind[int(i)] for i in rng.choice(len(kind), count, replace=len(kind) < count)]
  return chosen


class RenderedLoader:
  """Batches of crops of sessions that are rendered meanwhile; a `with` block ends the rendering.

  rows: of every global batch that this host reads; all by default. augment: change the user of every session, once.
  on_device: whether the device keeps the user's pictures; by default a single accelerator does. Then the user of every
  crop is changed a little too.
  manifest: what the manifest of a folder of these latents would say of classes and codecs. Raises DataError for another
  `data.path`, ConfigError for sessions shorter than a crop and for voices that are not installed.
  """

  def __init__(
    self, config: Config, audio_codec: AudioCodec, video_codec: VideoCodec, rows: Sequence[int] | None = None,
    augment: bool = False, limits: Limits | None = None, on_device: bool | None = None,
  ):  # fmt: skip
    check_length(config)
    if on_device is None:
      on_device = jax.default_backend() != "cpu" and jax.device_count() == 1
    limits, recorder = limits or Limits.of_machine(on_device), recorder_of(config, augment)
    encoder = Encoder(config, recorder, audio_codec, video_codec, on_device)
    self.config, self.manifest, self.augment = config, encoder.manifest, augment
    self.rows = range(config.data.batch) if rows is None else rows
    self.renaming = make_renaming(config) if augment else None
    together = min(SIDE_BY_SIDE, limits.workers)
    self.reservoir = Reservoir(config.data.path, recorder, limits, together, encoder.encode)

  def batch_at(self, step: int) -> Crop:
    """This host's rows of global batch `step`: arrays [rows, ...]; waits for the first sessions.

    Raises DataError when rendering has failed."""
    data = self.config.data
    chosen = self.reservoir.choose(random_of(data.seed, step), len(self.rows), data.units)
    crops = [read_crop(kept, kept.number, start, data.units) for kept, start in chosen]
    if self.renaming is not None:
      crops = self.renaming.batch(crops, step, list(self.rows))
    batch = Crop(*map(np.stack, zip(*crops)))
    pictures = tuple(kept.pictures for kept, _ in chosen if kept.pictures is not None)
    if not pictures:
      return batch
    starts = np.array([start for _, start in chosen], np.int32)
    seen, heard = cut_pictures(pictures, starts, data.units), jnp.asarray(batch.user_audio)
    if self.augment:
      seen, heard = varied(seen, heard, np.array([data.seed, step], np.uint32), self.config.media.sample_rate)
    return batch._replace(user_video=seen, user_audio=heard)

  def __enter__(self) -> "RenderedLoader":
    return self

  def __exit__(self, *_: Any) -> None:
    self.reservoir.close()


def random_of(seed: int, step: int) -> np.random.Generator:
  """What is random in a batch, apart from which sessions are there."""
  return np.random.default_rng([seed, STREAM, step])


def check_length(config: Config) -> None:
  """Raises ConfigError for sessions that are shorter than a crop."""
  if config.data.session_units < config.data.units:
    raise ConfigError(
      f"data.session_units is {config.data.session_units}, shorter than a crop of data.units {config.data.units}"
    )


def recorder_of(config: Config, augment: bool = False, fields: tuple[str, ...] = ()) -> Recorder:
  """What makes the media records of `data.path`. Raises DataError for a path of folders, ConfigError for voices that
  are not installed. fields: of the units; all by default."""
  origin = rendered_origin(config.data.path)
  if origin is None:
    raise DataError(f"data.path is {config.data.path!r}: expected {EXPECTED}")
  source: Any = DuplexSource.of(config, "train", origin.seed, ENDLESS) if origin.name == "world" else None
  if source is None:
    source = SoundSource.of(config, origin.seed, ENDLESS, name=origin.name)
  return Recorder(config, source, augment, fields)


def head(recorder: Recorder, audio_codec: AudioCodec, video_codec: VideoCodec) -> dict[str, Any]:
  """What the manifest of a folder of these latents would say of classes and codecs."""
  origin = {**recorder.source.describe(), "codecs": fingerprint(audio_codec, video_codec)}
  return {"source": origin, "labels": labels.for_manifest(), **unknown_given_past(audio_codec, video_codec)}


def manifest(config: Config, audio_codec: AudioCodec, video_codec: VideoCodec) -> dict[str, Any]:
  """`head` and the counts of classes and words that weights are made from, as in a folder's manifest."""
  return {**head(recorder_of(config), audio_codec, video_codec), "stats": counted(config)}


def counted(config: Config, sessions: int = COUNTED) -> dict[str, Any]:
  """{"labels", "agent_tokens"} of the first sessions, as in a manifest's statistics, from their scripts: without
  media, and with formant voices, whose words are those of any voice at slightly other times."""
  origin = rendered_origin(config.data.path)
  seed = origin.seed if origin else 0
  world, tokenizer = dataclasses.replace(world_config(config), voices="formant", agent_voices=""), tokenizer_of(config)
  stats: dict[str, Any] = {"labels": {}, "agent_tokens": {}}
  for number in range(sessions):
    session = _without_media(seed + number, world)
    known = labels.session_labels(session, tokenizer, config.media.unit_ms / 1000)
    tokens = token_counts(_agent_text(session, config, tokenizer), tokenizer.pad_id)
    stats["labels"] = add_counts(stats["labels"], labels.label_counts(known))
    stats["agent_tokens"] = add_counts(stats["agent_tokens"], tokens)
  return stats


def _without_media(seed: int, world: WorldConfig) -> Session:
  script = transcript(seed, world)
  user, agent = Side(None, None, script.typed, script.speech), Side(None, None, script.agent)
  return Session(user, agent, World(), script.events, world.units, seed, events_complete=True)


def _agent_text(session: Session, config: Config, tokenizer: TextTokenizer) -> np.ndarray:
  """int32 [units, slots]."""
  seconds, slots = config.media.unit_ms / 1000, config.layout.text_slots
  return records.text_to_units(session.agent.words, session.units, slots, tokenizer, seconds)[0]
