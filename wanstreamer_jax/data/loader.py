"""Batches of crops: the rows of global batches that one host reads, in the order of `mixture.py`.

A loader's whole state is the step. Grain reads ahead and places batches on the devices (`train/prefetch.py`).
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.mixture import Mixture, Place
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.records import session_dtype, unit_dtype
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.model.streamer import WorldArrays

FIELDS = (
  "user_video", "user_audio", "user_text", "user_video_valid", "user_audio_valid",
  "agent_text", "agent_video_latent", "agent_audio_latent", "agent_video_valid", "agent_audio_valid",
)  # fmt: skip


def duplex_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of what the loader reads from a folder of latents for one global batch (`data/loader.py`)."""
  rows, units = config.data.batch, config.data.units
  latents = {
    "agent_video_latent": (config.latent_height, config.latent_width, config.video_vae.latent_dim),
    "agent_audio_latent": (config.audio_latents, config.audio_vae.latent_dim),
  }
  empty = jax.eval_shape(lambda: WorldArrays.empty(config))
  fields: dict[str, tuple[tuple[int, ...], Any]] = {
    "session": ((), np.int32),
    "start": ((), np.int32),
    "portrait_latent": (empty.portrait.shape, np.float16),
    "voice_latent": (empty.voice.shape, np.float16),
  }
  for name in LATENTS:
    fields[name] = ((units, *latents[name]), np.float16)
  unit, session = unit_dtype(config, ()), session_dtype(config)
  for name in set(FIELDS) - set(LATENTS):
    fields[name] = ((units, *unit[name].shape), unit[name].base)
  for name in CARRIED:
    shape, dtype = fields[name]
    fields[f"previous_{name}"] = ((PREVIOUS, *shape[1:]), dtype)
  for name in session.names or ():
    fields[name] = (session[name].shape, jax.dtypes.canonicalize_dtype(session[name].base))
  return {name: jax.ShapeDtypeStruct((rows, *shape), dtype) for name, (shape, dtype) in fields.items()}


PREVIOUS = 2  # units before a crop whose latents it carries: the largest commit_delay
LATENTS = ("agent_video_latent", "agent_audio_latent")
CARRIED = (*LATENTS, "agent_video_valid", "agent_audio_valid")  # also of the units before a crop, as `previous_*`


def last_units(past: np.ndarray, axis: int = 0) -> np.ndarray:
  """The newest PREVIOUS units of a past; zeros, which say invalid, stand for units before the session."""
  kept = past[(slice(None),) * axis + (slice(max(0, past.shape[axis] - PREVIOUS), None),)]
  missing = [(PREVIOUS - kept.shape[axis] if a == axis else 0, 0) for a in range(past.ndim)]
  return np.pad(kept, missing)


def read_crop(folder: RecordFolder, session: int, start: int, units: int, fields: Sequence[str]) -> dict[str, Any]:
  """`units` units of a session from `start` on: the given unit fields, the session's, and `session` and `start`."""
  before = min(PREVIOUS, start) if folder.kind == "latents" else 0
  read = folder.read_units(session, start - before, before + units)
  fixed = folder.read_session(session).fixed
  crop = {name: read[name][before:] for name in fields}
  crop |= {name: fixed[name] for name in folder.session_dtype.names or ()}
  crop |= {"session": np.asarray(session, np.int32), "start": np.asarray(start, np.int32)}
  if folder.kind == "latents":
    crop |= {f"previous_{name}": last_units(read[name][:before]) for name in CARRIED}
  return crop


class Loader:
  """Batches of crops from folders of records.

  path: as `data.path`. rows: which rows of every global batch this host reads (`prefetch.host_rows`); all by default.
  `batch_at(step)` gives them as a dict of arrays [rows, units, ...] for the unit fields, [rows, ...] for the session's
  (world_text, portrait or its latent, voice, ...), and `session`, `start` int32 [rows]. From latents folders also
  `previous_*` [rows, 2, ...] for the fields of CARRIED: the two units before the crop. Integers are as stored: uint8
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
    known = mixture.fields()
    unknown = sorted(set(fields or ()) - set(known))
    if mixture.kind == "media" and set(unknown) & set(LATENTS):
      raise DataError(
        f"{self.folders[0].path} holds media, but this stage trains on latents: make them once with `wanstreamer data "
        f"encode {self.folders[0].path} --audio-vae A --video-vae V --out DIR`, and set data.path to DIR"
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
      read_crop(self.folders[folder], session, start, self.units, self.fields)
      for folder, session, start in self.places(step)
    ]
    return {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}
