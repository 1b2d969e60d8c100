"""Batches of crops, whose order is a pure function of (seed, step).

Row r of global batch b is element b * batch + r of one endless sequence: every epoch a fresh permutation of the
sessions, every element a crop of `config.data.units` consecutive units at a drawn start. Host h of H reads its
contiguous share of the rows, so the sequence does not depend on the number of hosts, and a loader's whole state is
the step. Grain reads ahead (`train/feed.py`).
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.perception.text import TextTokenizer

PREVIOUS = 2  # units before a crop whose latents it carries: the largest commit_delay
ORDER, START = 0, 1  # what a random stream of the loader decides
LATENTS = ("agent_video_latent", "agent_audio_latent")
CARRIED = (*LATENTS, "agent_video_valid", "agent_audio_valid")  # also of the units before a crop, as `previous_*`


def last_units(past: np.ndarray, axis: int = 0) -> np.ndarray:
  """The newest PREVIOUS units of a past; zeros, which say invalid, stand for units before the session."""
  kept = past[(slice(None),) * axis + (slice(max(0, past.shape[axis] - PREVIOUS), None),)]
  missing = [(PREVIOUS - kept.shape[axis] if a == axis else 0, 0) for a in range(past.ndim)]
  return np.pad(kept, missing)


@dataclasses.dataclass(frozen=True)
class _Crops:
  """Element (session, start) -> arrays."""

  folder: RecordFolder
  units: int
  fields: tuple[str, ...]

  def read(self, session: int, start: int) -> dict[str, np.ndarray]:
    before = min(PREVIOUS, start) if self.folder.kind == "latents" else 0
    units = self.folder.read_units(session, start - before, before + self.units)
    fixed = self.folder.read_session(session).fixed
    crop = {name: units[name][before:] for name in self.fields}
    crop |= {name: fixed[name] for name in self.folder.session_dtype.names or ()}
    crop |= {"session": np.asarray(session, np.int32), "start": np.asarray(start, np.int32)}
    if self.folder.kind == "latents":
      crop |= {f"previous_{name}": last_units(units[name][:before]) for name in CARRIED}
    return crop


class Loader:
  """Batches of crops from a folder of records.

  `batch_at(step)` gives this host's rows of a global batch as a dict of arrays [rows, units, ...] for the unit
  fields, [rows, ...] for the session's (world_text, portrait or its latent, voice, ...), and `session`, `start`
  int32 [rows]. From latents folders also `previous_*` [rows, 2, ...] for the fields of CARRIED: the two units before
  the crop. Integers are as stored: uint8 video, int16 audio, float16 latents
  (`records.video_to_float`, `records.audio_to_float`).

  `fields` limits the unit fields that are returned; None is all. With `config.data.shuffle` off, sessions come in
  order and crops start at 0. Raises DataError for records that are missing, damaged, of another format or made for
  another config, and for sessions shorter than a crop.
  """

  def __init__(
    self, path: str | pathlib.Path, config: Config, host: int = 0, hosts: int = 1, fields: Sequence[str] | None = None
  ):
    folder = RecordFolder(path)
    folder.check(config, TextTokenizer(config.data.tokenizer))
    data = config.data
    if folder.units < data.units:
      raise DataError(f"{path}: sessions of {folder.units} units, but data.units is {data.units}; make longer ones")
    if data.batch % hosts or not 0 <= host < hosts:
      raise DataError(f"host {host} of {hosts} with data.batch {data.batch}: the batch must split evenly over hosts")
    known = folder.unit_dtype.names or ()
    unknown = sorted(set(fields or ()) - set(known))
    if unknown:
      raise DataError(f"{path} ({folder.kind}) has no field {unknown[0]!r}: it has {', '.join(known)}")
    self.folder, self.batch, self.rows = folder, data.batch, data.batch // hosts
    self.units, self._first = data.units, host * self.rows
    self._crops = _Crops(folder, data.units, tuple(fields or known))
    self._seed, self._shuffle = data.seed, data.shuffle
    self._permutation = functools.lru_cache(maxsize=2)(self._permute)

  def places(self, step: int) -> list[tuple[int, int]]:
    """(session, start) of this host's rows of a global batch, in order."""
    first = step * self.batch + self._first
    return [self._place(first + row) for row in range(self.rows)]

  def _place(self, index: int) -> tuple[int, int]:
    """Element `index` of the endless sequence."""
    epoch, position = divmod(index, self.folder.sessions)
    if not self._shuffle:
      return position, 0
    start = np.random.default_rng([self._seed, START, index]).integers(self.folder.units - self.units + 1)
    return int(self._permutation(epoch)[position]), int(start)

  def _permute(self, epoch: int) -> np.ndarray:
    return np.random.default_rng([self._seed, ORDER, epoch]).permutation(self.folder.sessions)

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    """This host's rows of global batch `step`; see the class."""
    crops = [self._crops.read(session, start) for session, start in self.places(step)]
    return {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}


def bench(loader: Loader, seconds: float = 5.0) -> dict[str, Any]:
  """Reads batches for about that long and returns units/s, MB/s and how many times real time one session that is."""
  loader.batch_at(0)
  begin, step, size = time.perf_counter(), 0, 0
  while (elapsed := time.perf_counter() - begin) < seconds:
    step += 1
    size += sum(array.nbytes for array in loader.batch_at(step).values())
  rate = step * loader.rows * loader.units / elapsed
  unit_seconds = loader.folder.manifest["media"]["unit_ms"] / 1000
  return {"units_per_second": rate, "mb_per_second": size / elapsed / 1e6, "times_real_time": rate * unit_seconds}
