"""Reads a folder of unit and session records: `manifest.json` and ArrayRecord shards.

    manifest.json                    format, layouts, media and text settings, source, statistics, shards with hashes
    report.json                      what was skipped when it was made, and why
    units-00000.array_record         session after session, `units` records each
    sessions-00000.array_record      one record per session
    user_video-00000.array_record    if pictures are compressed: a session's pieces (video_pieces.py), one after another

Two kinds share the format: "media" (from `data make`) and "latents" (from `data encode`). `record_writer.py` writes
them in `<folder>.partial`: a folder under its final name is complete. A path like gs://bucket/latents is a folder in an
object store, which `remote.py` copies as it is needed.
"""

import difflib
import functools
import hashlib
import itertools
import json
import os
import pathlib
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import config_to_dict
from wanstreamer_jax.data.records import SessionRecord
from wanstreamer_jax.data.remote import RemoteFolder
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.data.video_pieces import Pieces
from wanstreamer_jax.errors import DataError, one_line
from wanstreamer_jax.files import is_remote

FORMAT = 1
NEWER_FORMAT = 2  # of what older programs would mistake: compressed pictures, text that is unknown, shorter sessions
MANIFEST = "manifest.json"
OLDER_KINDS = {"audio": "source_filter", "video": "native"}  # of the codecs of latents that name none
READER_OPTIONS = "readahead_buffer_size:0"
FILES = ("units", "sessions")


def dtype_to_json(dtype: np.dtype) -> list[list[Any]]:
  """A structured layout as [[name, code, shape], ...]."""
  return [[name, dtype[name].base.str, list(dtype[name].shape)] for name in dtype.names or ()]


def dtype_from_json(fields: list[list[Any]]) -> np.dtype:
  """The layout that `dtype_to_json` wrote."""
  return np.dtype([(name, code, tuple(shape)) for name, code, shape in fields])


def stored_dtype(unit_dtype: np.dtype, compressed: Collection[str]) -> np.dtype:
  """The layout of a unit without its compressed fields."""
  return dtype_from_json([field for field in dtype_to_json(unit_dtype) if field[0] not in compressed])


def partial_path(path: pathlib.Path) -> pathlib.Path:
  """Where a folder is while it is being written."""
  return path.with_name(path.name + ".partial")


def sha256_of(path: pathlib.Path) -> str:
  """The hash of a file's bytes."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: pathlib.Path) -> Any:
  """The values of a JSON file. Raises DataError for a file that is missing or not JSON."""
  try:
    return json.loads(path.read_text())
  except OSError as error:
    raise DataError(f"{path}: {error.strerror}; make it with `wanstreamer data make`") from error
  except ValueError as error:
    raise DataError(f"{path}: not JSON ({one_line(error)})") from error


def _shapes(config: Config, kind: str) -> dict[str, list[int]]:
  """Shapes of the fields that do not follow from the media alone."""
  shapes = {"voice": [config.layout.voice_units * config.media.samples]}
  if kind == "latents":
    shapes["agent_video_latent"] = [config.latent_height, config.latent_width, config.video_codec.latent_dim]
    shapes["agent_audio_latent"] = [config.audio_latents, config.audio_codec.latent_dim]
  return shapes


def _no_records(path: pathlib.Path) -> str:
  """The message for a path that is not a folder of records."""
  if path.is_dir():
    return f"{path} holds no records: no {MANIFEST}; give a folder that `wanstreamer data make` or `encode` wrote"
  if partial_path(path).is_dir():
    return f"{partial_path(path)} is not finished: repeat the command that makes it"
  known = [str(manifest.parent) for manifest in path.parent.glob(f"*/{MANIFEST}")]
  near = difflib.get_close_matches(str(path), known, n=1)
  return f"no folder {path}; " + (f"did you mean {near[0]}?" if near else "make it with `wanstreamer data make`")


def codec_kinds(config: Config) -> dict[str, Any]:
  """{"codecs": {"audio": kind, "video": kind}} for the manifest of latents; nothing for the kinds of older ones."""
  kinds = {"audio": config.audio_codec.kind, "video": config.video_codec.kind}
  return {} if kinds == OLDER_KINDS else {"codecs": kinds}


class RecordFolder:
  """Random access to a folder of records. Opening checks the manifest and every shard's presence and size.

  Attributes: path (as given), manifest (dict), kind ("media" or "latents"), sessions, units (per session), unit_dtype,
  session_dtype, pieces (how pictures are compressed, or None), lengths (int [sessions], the units of each that exist;
  the others at its end are invalid). Raises DataError for a folder that is missing, incomplete, damaged or of another
  format. Safe to share by threads and to pickle.
  """

  def __init__(self, path: str | pathlib.Path):
    self._remote = RemoteFolder(os.fspath(path), MANIFEST) if is_remote(path) else None
    self.path: str | pathlib.Path = pathlib.Path(path) if self._remote is None else self._remote.path
    self._local = pathlib.Path(path) if self._remote is None else self._remote.local
    if not (self._local / MANIFEST).is_file():
      raise DataError(_no_records(self._local))
    self.manifest = read_json(self._local / MANIFEST)
    found = self.manifest.get("format") if isinstance(self.manifest, dict) else None
    if found not in (FORMAT, NEWER_FORMAT):
      known = f"{FORMAT} or {NEWER_FORMAT}"
      raise DataError(f"{self._name(MANIFEST)}: format {found!r}, expected {known}; make the records again")
    try:
      self.kind: str = self.manifest["kind"]
      self.units: int = self.manifest["units"]
      self.unit_dtype = dtype_from_json(self.manifest["unit_dtype"])
      self.session_dtype = dtype_from_json(self.manifest["session_dtype"])
      self.pieces = Pieces(**self.manifest["pieces"]) if self.manifest.get("pieces") else None
      self._compressed = tuple(self.pieces.quality) if self.pieces else ()
      self._stored_dtype = stored_dtype(self.unit_dtype, self._compressed)
      self._ends = list(itertools.accumulate(shard["sessions"] for shard in self.manifest["shards"]))
      kinds = (*FILES, *self._compressed)
      self._files = [{kind: shard["files"][kind] for kind in kinds} for shard in self.manifest["shards"]]
    except (KeyError, TypeError, ValueError) as error:
      raise DataError(f"{self._name(MANIFEST)}: incomplete or damaged ({one_line(error)}); make it again") from error
    if not self._ends:
      raise DataError(f"{self._name(MANIFEST)} lists no shards and hence no session; make it again")
    self.sessions = self._ends[-1]
    self.lengths = np.array(self._of_sessions("lengths", self.units), np.int64)
    self._lock = threading.Lock()
    self._check_sizes()

  def __getstate__(self) -> dict[str, Any]:
    return {"path": self.path}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state["path"])  # type: ignore[misc]

  def __len__(self) -> int:
    return self.sessions

  def read_units(
    self, session: int, start: int = 0, count: int | None = None, fields: Collection[str] | None = None
  ) -> np.ndarray:
    """`count` consecutive unit records of a session from `start` on, by default all of them: [count] of unit_dtype.

    fields: what is needed. Compressed pictures that are not are left out of the dtype, which saves decoding them.
    """
    shard, row = self._locate(session)
    count = self.units - start if count is None else count
    if not 0 <= start <= start + count <= self.units:
      raise DataError(f"units {start}..{start + count} of a session: expected a range within 0..{self.units}")
    first = row * self.units + start
    blobs = self._read(shard, "units", first, first + count)
    stored = np.frombuffer(b"".join(blobs), self._stored_dtype)
    wanted = [name for name in self._compressed if fields is None or name in fields]
    if not wanted:
      return stored
    left_out = set(self._compressed) - set(wanted)
    units = np.zeros(count, stored_dtype(self.unit_dtype, left_out))
    for name in stored.dtype.names or ():
      units[name] = stored[name]
    for name in wanted:
      valid = stored[f"{name}_valid"]
      units[name][valid] = self._pictures(name, session, start, count)[valid]
    return units

  def read_pieces(self, session: int, field: str, start: int = 0, count: int | None = None) -> list[bytes]:
    """The pieces of a compressed field that hold `count` units of a session from `start` on, by default all."""
    assert self.pieces is not None
    shard, row = self._locate(session)
    stop = self.units if count is None else start + count
    first = row * self.pieces.count(self.units)
    return self._read(shard, field, first + start // self.pieces.units, first + self.pieces.count(stop))

  def _pictures(self, field: str, session: int, start: int, count: int) -> np.ndarray:
    """Compressed pictures: uint8 [count, F, H, W, 3]."""
    assert self.pieces is not None
    begin = start // self.pieces.units * self.pieces.units
    end = min(self.units, self.pieces.count(start + count) * self.pieces.units)
    blobs = self.read_pieces(session, field, start, count)
    try:
      found = self.pieces.join(blobs, end - begin, self.unit_dtype[field].shape)
    except DataError as error:
      raise DataError(f"{self.path}: {field} of session {session}: {error}; make it again") from error
    return found[start - begin : start - begin + count]

  def read_session(self, session: int) -> SessionRecord:
    """The fixed part and the ground truth of a session."""
    shard, row = self._locate(session)
    return SessionRecord.from_bytes(self._read(shard, "sessions", row, row + 1)[0], self.session_dtype)

  @property
  def shard_sessions(self) -> list[int]:
    """Sessions in each shard."""
    return [end - begin for begin, end in zip([0, *self._ends], self._ends)]

  def speakers(self) -> list[str]:
    """Who the agent is in every session; "" where that is not known."""
    return self._of_sessions("speakers", "")

  def _of_sessions(self, name: str, default: Any) -> list[Any]:
    """What the shards say of each of their sessions; the default where one says nothing."""
    values: list[Any] = []
    for shard in self.manifest["shards"]:
      values += shard.get(name, [default] * shard["sessions"])
    return values

  def fetch(self, sessions: range) -> None:
    """Copies the shards that hold some sessions to this machine, if the folder is in an object store."""
    if self._remote is not None and sessions:
      first, last = self._locate(sessions.start)[0], self._locate(sessions.stop - 1)[0]
      self._remote.fetch_all(file for files in self._files[first : last + 1] for file in files.values())

  def fingerprint(self) -> str:
    """A hash over the hashes of all files: equal for equal contents."""
    return hashlib.sha256("".join(file["sha256"] for file in self._all_files()).encode()).hexdigest()

  def verify(self) -> None:
    """Reads every file and compares its hash with the manifest's. Raises DataError with the first that differs."""
    for file in self._all_files():
      if sha256_of(self._file(file)) != file["sha256"]:
        raise DataError(f"{self._name(file['name'])}: its contents do not match the manifest's hash; make it again")

  def check(self, config: Config, tokenizer: TextTokenizer) -> None:
    """Raises DataError when the records were made for other media, text slots or another tokenizer."""
    text, layout = self.manifest["text"], config.layout
    if text["vocab"] > config.model.vocab:
      raise DataError(f"{self.path} has {text['vocab']} token ids, but model.vocab is {config.model.vocab}: raise it")
    if text["pad"] != config.model.pad:
      raise DataError(
        f"{self.path} pads with token {text['pad']}, but model.pad is {config.model.pad}: set data.tokenizer and "
        "model.pad to those of the records, or make the records again"
      )
    self.check_media(config)
    self._check_codecs(config)
    dtypes = (self.unit_dtype, self.session_dtype)
    shapes = {name: list(dtype[name].shape) for dtype in dtypes for name in dtype.names or ()}
    self._same(shapes, _shapes(config, self.kind))
    slots = {"slots": layout.text_slots, "user_slots": layout.user_text_slots, "world": layout.world_text}
    lead: dict[str, Any] = {} if text["lead"] is None else {"lead": config.data.text_lead}
    lead["leads"] = config.data.text_leads and list(config.data.text_leads)  # None in older records, too
    self._same(text, {**slots, **lead, "tokenizer": tokenizer.sha256, "cut": tokenizer.cut_id})

  def check_media(self, config: Config) -> None:
    """Raises DataError when the records have other pictures, rates or units than the config."""
    self._same(self.manifest["media"], config_to_dict(config.media))

  def _check_codecs(self, config: Config) -> None:
    if self.kind != "latents":
      return
    stored, wanted = (kinds.get("codecs", OLDER_KINDS) for kinds in (self.manifest, codec_kinds(config)))
    for name in stored:
      if stored[name] != wanted[name]:
        raise DataError(
          f"{self.path} holds latents of the {name} codec {stored[name]}, but {name}_codec.kind is {wanted[name]}: "
          "encode the records again with this config, or change the config"
        )

  def _same(self, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
      if stored.get(name) != value:
        raise DataError(
          f"{self.path} was made with {name} = {stored.get(name)}, but the config has {value}: make the records again "
          f"with this config, or change the config"
        )

  def _all_files(self) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(files.values() for files in self._files)

  def _name(self, file: str) -> str:
    """A file of the folder as messages name it."""
    return f"{self.path}/{file}"

  def _file(self, file: dict[str, Any]) -> pathlib.Path:
    """A file of the manifest on this machine."""
    return self._local / file["name"] if self._remote is None else self._remote.fetch(file)

  def _check_sizes(self) -> None:
    remote = None if self._remote is None else self._remote.sizes()
    for file in self._all_files():
      path = self._local / file["name"]
      size = remote.get(file["name"]) if remote is not None else path.stat().st_size if path.is_file() else None
      if size is None:
        raise DataError(f"{self._name(file['name'])}: missing; copy the whole folder, or make it again")
      if size != file["bytes"]:
        raise DataError(
          f"{self._name(file['name'])}: {size} bytes, but the manifest says {file['bytes']}; make it again"
        )

  def _locate(self, session: int) -> tuple[int, int]:
    """(shard, row in it) of a session."""
    if not 0 <= session < self.sessions:
      raise DataError(f"session {session} of {self.path}: expected 0..{self.sessions - 1}")
    shard = int(np.searchsorted(self._ends, session, side="right"))
    return shard, session - (self._ends[shard - 1] if shard else 0)

  def _read(self, shard: int, kind: str, start: int, stop: int) -> list[bytes]:
    file = self._files[shard][kind]
    try:
      blobs = self._reader(self._file(file)).read(list(range(start, stop))) if stop > start else []
    except (RuntimeError, ValueError, IndexError) as error:
      raise DataError(
        f"{self._name(file['name'])}: damaged at record {start} ({one_line(error)}); make it again"
      ) from error
    size = self._stored_dtype.itemsize
    if kind == "units" and any(len(blob) != size for blob in blobs):
      raise DataError(f"{self._name(file['name'])}: damaged at record {start} (not {size} bytes); make it again")
    return blobs

  def _reader(self, path: pathlib.Path) -> Any:
    with self._lock:
      return self._readers(path)

  @functools.cached_property
  def _readers(self) -> Callable[[pathlib.Path], Any]:
    """Opens files when they are first read, and keeps up to 256 of them open."""
    from array_record.python import array_record_module

    @functools.lru_cache(maxsize=256)
    def reader(path: pathlib.Path) -> Any:
      return array_record_module.ArrayRecordReader(str(path), READER_OPTIONS)

    return reader
