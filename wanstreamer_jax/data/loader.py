"""Loads batches of crops: the rows of each global batch that this host reads. `mixture.py` defines their order.

`CropLoader` reads what the Transformer trains on, typed: a `Crop`. `Loader` reads any fields of any records, as a dict.
The whole state of either is the step. Grain reads ahead and places batches on the devices (`train/prefetch.py`).
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.augment import augment_audio, augment_video, draws
from wanstreamer_jax.data.mixture import Mixture, Place
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.records import LATER, SessionRecord, session_dtype, unit_dtype, unit_field
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.model.streamer import WorldArrays

PREVIOUS = 2  # units before a crop whose latents it carries: the largest commit_delay


class Crop(NamedTuple):
  """K consecutive units of one session, as stored: a row from the loader to the loss. A batch has a leading axis B.

  P = PREVIOUS: the agent's side also has the units before the crop, zeros (invalid) where the session had not begun.
  Sizes of pictures, sound and latents are those of one unit. On the host NumPy arrays, on the devices jax's.
  """

  session: Any  # int32, its number in its folder
  start: Any  # int32, the session's unit that the crop begins with
  world_text: Any  # int32 [world_text], PAD-filled
  portrait_latent: Any  # float16 [h, w, Z]
  portrait_valid: Any  # bool
  voice_latent: Any  # float16 [voice_units * A, Z]
  voice_valid: Any  # bool
  user_video: Any  # uint8 [K, frames, H, W, 3]
  user_video_valid: Any  # bool [K]
  user_audio: Any  # int16 [K, samples]
  user_audio_valid: Any  # bool [K]
  user_text: Any  # int32 [K, user_text_slots], PAD-filled
  user_labels: Any  # int32 [K, L], what is known of the user (labels.py); -1 is unknown
  agent_text: Any  # int32 [K, text_slots], PAD-filled
  agent_text_valid: Any  # bool [K], whether it is known what the agent said
  agent_video_latent: Any  # float16 [P + K, h, w, Z]
  agent_video_valid: Any  # bool [P + K]
  agent_audio_latent: Any  # float16 [P + K, A, Z]
  agent_audio_valid: Any  # bool [P + K]


LATENTS = ("agent_video_latent", "agent_audio_latent")
WITH_PAST = (*LATENTS, "agent_video_valid", "agent_audio_valid")  # begin PREVIOUS units before the crop
SESSION_FIELDS = ("world_text", "portrait_latent", "portrait_valid", "voice_latent", "voice_valid")
UNIT_FIELDS = tuple(name for name in Crop._fields if name.startswith(("user_", "agent_")))


def batch_shapes(config: Config) -> Crop:
  """The shapes and dtypes of one global batch of crops: a Crop of `jax.ShapeDtypeStruct`."""
  units, empty = config.data.units, jax.eval_shape(lambda: WorldArrays.empty(config))
  shapes: dict[str, tuple[tuple[int, ...], Any]] = {
    "session": ((), np.int32),
    "start": ((), np.int32),
    "portrait_latent": (empty.portrait.shape, np.float16),
    "voice_latent": (empty.voice.shape, np.float16),
    "agent_video_latent": ((config.latent_height, config.latent_width, config.video_codec.latent_dim), np.float16),
    "agent_audio_latent": ((config.audio_latents, config.audio_codec.latent_dim), np.float16),
  }
  for dtype in (session_dtype(config), unit_dtype(config, ())):
    shapes |= {name: (dtype[name].shape, dtype[name].base) for name in set(dtype.names or ()) - set(shapes)}
  axes = {name: (units + PREVIOUS * (name in WITH_PAST),) if name in UNIT_FIELDS else () for name in Crop._fields}
  leaf = lambda name, shape, dtype: jax.ShapeDtypeStruct((config.data.batch, *axes[name], *shape), dtype)
  return Crop(**{name: leaf(name, *shapes[name]) for name in Crop._fields})


def read_fields(folder: RecordFolder, session: int, start: int, units: int, fields: Sequence[str]) -> dict[str, Any]:
  """`units` units of a session from `start` on: the given unit fields, the session's, and `session` and `start`."""
  read, fixed = folder.read_units(session, start, units, fields), folder.read_session(session).fixed
  found = {name: unit_field(read, name, folder.manifest) for name in fields}
  found |= {name: fixed[name] for name in folder.session_dtype.names or ()}
  return found | {"session": np.asarray(session, np.int32), "start": np.asarray(start, np.int32)}


class Readable(Protocol):
  """What crops are read from: a folder of latents, or sessions in memory (`rendered.py`)."""

  @property
  def manifest(self) -> dict[str, Any]: ...

  def read_units(self, session: int, start: int = 0, count: int | None = None) -> np.ndarray: ...

  def read_session(self, session: int) -> SessionRecord: ...


def read_crop(folder: Readable, session: int, start: int, units: int) -> Crop:
  """One crop of latents."""
  before = min(PREVIOUS, start)
  read, fixed = folder.read_units(session, start - before, before + units), folder.read_session(session).fixed
  fields: dict[str, Any] = {name: unit_field(read, name, folder.manifest)[before:] for name in UNIT_FIELDS}
  fields |= {name: pad_before(read[name], PREVIOUS - before) for name in WITH_PAST}
  fields |= {name: fixed[name] for name in SESSION_FIELDS}
  return Crop(session=np.asarray(session, np.int32), start=np.asarray(start, np.int32), **fields)


def pad_before(x: np.ndarray, units: int, axis: int = 0) -> np.ndarray:
  """Adds units of zeros, which say invalid, in front: they stand for units before the session."""
  return np.pad(x, [(units if a == axis else 0, 0) for a in range(x.ndim)])


def augmented(crop: Crop, config: Config, step: int, row: int) -> Crop:
  """A crop with the user's stream as `config.augment` changes it in one row of a global batch."""
  rngs = draws(config.data.seed, step, row)
  return crop._replace(
    user_audio=augment_audio(crop.user_audio, crop.user_audio_valid, config.media.sample_rate, config.augment, rngs),
    user_video=augment_video(crop.user_video, crop.user_video_valid, config.augment, rngs),
  )


class CropLoader:
  """Batches of crops from folders of latents; arguments and errors are those of `Loader`.

  augment: change the user's stream as `config.augment` says, as training does. rename: give agents of duplex_world
  other personas, as it says too.
  """

  def __init__(
    self, path: str | os.PathLike[str], config: Config, rows: Sequence[int] | None = None, augment: bool = False,
    rename: bool = False,
  ):  # fmt: skip
    self.loader = Loader(path, config, rows, UNIT_FIELDS)
    self.folders, self.config, self.augment = self.loader.folders, config, augment
    self.renaming = make_renaming(config) if rename else None

  def batch_at(self, step: int) -> Crop:
    """This host's rows of global batch `step`: arrays [rows, ...]."""
    places, units = self.loader.places(step), self.loader.units
    crops = [read_crop(self.folders[folder], session, start, units) for folder, session, start in places]
    if self.augment:
      crops = [augmented(crop, self.config, step, row) for row, crop in zip(self.loader.rows, crops)]
    if self.renaming is not None:
      renamed = self.renaming.batch(crops, step, list(self.loader.rows))
      made = [self.folders[folder].read_session(session).truth.get("source", "") for folder, session, _ in places]
      ours = [source.startswith("duplex_world/") for source in made]
      crops = [new if own else crop for crop, new, own in zip(crops, renamed, ours)]
    return Crop(*map(np.stack, zip(*crops)))


def make_renaming(config: Config) -> Any:
  """`duplex_world.renaming.Renaming`, or None where nothing is to be renamed."""
  if not config.augment.rename:
    return None
  from wanstreamer_jax.data.duplex_world.renaming import Renaming  # which needs crops; and only duplex_world needs it

  return Renaming(config)


class Loader:
  """Batches of crops from folders of records.

  path: as `data.path`. rows: which rows of every global batch this host reads (`prefetch.host_rows`); all by default.
  `batch_at(step)` gives them as a dict of arrays [rows, units, ...] for the unit fields, [rows, ...] for the session's
  (world_text, portrait or its latent, voice, ...), and `session`, `start` int32 [rows]. Numbers are as stored: uint8
  video, int16 audio, float16 latents (`records.video_to_float`, `records.audio_to_float`).

  `fields` limits the unit fields that are returned; None is all that the folders have in common. With
  `config.data.shuffle` off, sessions come in order and crops start at 0. Raises DataError for records that are missing,
  damaged, of another format or made for another config, that cannot be mixed, and for sessions shorter than a crop.
  """

  def __init__(
    self, path: str | os.PathLike[str], config: Config, rows: Sequence[int] | None = None,
    fields: Sequence[str] | None = None,
  ):  # fmt: skip
    mixture = Mixture(os.fspath(path))
    mixture.check(config)
    self.folders, self.order = mixture.folders, mixture.order(config)
    self.batch, self.units = config.data.batch, config.data.units
    self.rows = range(self.batch) if rows is None else rows
    if config.data.shuffle:  # else they are read in order, and few may be wanted: each is fetched when it is read
      mixture.fetch(config, self.rows)
    known = mixture.fields()
    unknown = sorted(set(fields or ()) - set(known) - set(LATER))
    if mixture.kind == "media" and set(unknown) & set(LATENTS):
      raise DataError(
        f"{self.folders[0].path} holds media, but this stage trains on latents: make them once with `wanstreamer data "
        f"encode {self.folders[0].path} --audio-codec A --video-codec V --out DIR`, and set data.path to DIR"
      )
    if unknown:
      raise DataError(f"{path} ({mixture.kind}) has no field {unknown[0]!r}: it has {', '.join(known)}")
    self.fields = tuple(fields or known)

  def places(self, step: int) -> list[Place]:
    """The crops of this host's rows of a global batch, in order."""
    return [self.order.place(step * self.batch + row) for row in self.rows]

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    """This host's rows of global batch `step`; see the class."""
    crops = [
      read_fields(self.folders[folder], session, start, self.units, self.fields)
      for folder, session, start in self.places(step)
    ]
    return {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}
