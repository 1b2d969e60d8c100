"""Writes folders of records in shards, by many processes on many hosts; restartable.

All processes write into `<folder>.partial` on a shared file system. A shard's files get temporary names and are renamed
when they are complete; a note with their sizes and hashes marks the shard as done. The process that finds every shard
done writes the manifest and renames the folder. Repeating an interrupted run makes the missing shards.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import config_to_dict
from wanstreamer_jax.data import labels
from wanstreamer_jax.data.record_folder import (
  FILES,
  FORMAT,
  MANIFEST,
  NEWER_FORMAT,
  dtype_to_json,
  partial_path,
  read_json,
  sha256_of,
  stored_dtype,
)
from wanstreamer_jax.data.records import SessionRecord
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.data.video_pieces import Pieces
from wanstreamer_jax.errors import DataError, one_line
from wanstreamer_jax.files import TEMPORARY, replacing, write_json

PLAN, REPORT = "plan.json", "report.json"
WRITER_OPTIONS = "group_size:1,zstd:3"  # group_size:1 makes random access fast; zstd reads 19 000 units/s, brotli 9 000
UNEVEN_SOURCES = ("recordings", "sounds")  # whose words may be unknown, and whose sessions may end early
WHOLE = (0, 1)  # a share (i, n) is the shards i, i + n, i + 2n, ...


class Entry(NamedTuple):
  """What is written of one session. pieces: those of its compressed fields that are there already; the others are cut
  from the units."""

  units: np.ndarray
  session: SessionRecord
  pieces: dict[str, list[bytes]] = {}


def head(
  kind: str, config: Config, tokenizer: TextTokenizer, unit_dtype: np.dtype, session_dtype: np.dtype, units: int,
  source: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
  """The part of a manifest that is known before the first session, and that a resumed run must find unchanged."""
  pieces = Pieces.of(config, *(name for name in ("user_video", "agent_video") if name in (unit_dtype.names or ())))
  return {
    "format": NEWER_FORMAT if pieces or source.get("name") in UNEVEN_SOURCES else FORMAT,
    **({"pieces": pieces._asdict()} if pieces else {}),
    "kind": kind,
    "units": units,
    "media": config_to_dict(config.media),
    "text": {
      "tokenizer": tokenizer.sha256,
      "vocab": tokenizer.vocab_size,
      "pad": tokenizer.pad_id,
      "cut": tokenizer.cut_id,
      "slots": config.layout.text_slots,
      "user_slots": config.layout.user_text_slots,
      "world": config.layout.world_text,
      "lead": source.get("text_lead", config.data.text_lead),  # None: it differs from session to session
      "leads": config.data.text_leads and list(config.data.text_leads),  # not None: the agent is told its lead
    },
    "source": source,
    **({"labels": labels.for_manifest()} if labels.FIELD in (unit_dtype.names or ()) else {}),
    "unit_dtype": dtype_to_json(unit_dtype),
    "session_dtype": dtype_to_json(session_dtype),
  }


class FolderWriter:
  """Writes a folder of records in `<path>.partial`. Raises DataError when it exists or was begun with other settings.

  finished: the manifest, if the folder is complete already.
  """

  def __init__(self, path: str | pathlib.Path, manifest_head: dict[str, Any]):
    self.path = pathlib.Path(path)
    self.partial = partial_path(self.path)
    self.head = json.loads(json.dumps(manifest_head))
    self.finished: dict[str, Any] | None = None
    if (self.path / MANIFEST).is_file():
      self.finished = read_json(self.path / MANIFEST)
      if self.finished.items() >= self.head.items():
        return
    if self.path.exists():
      raise DataError(f"{self.path} exists already, made with other settings: remove it or choose another --out")
    self.partial.mkdir(parents=True, exist_ok=True)
    plan = self.partial / PLAN
    if plan.exists() and read_json(plan) != self.head:
      raise DataError(f"{self.partial} was begun with other settings: remove it, or repeat them to continue")
    if not plan.exists():
      write_json(plan, self.head)

  def missing(self, shards: int, share: tuple[int, int] = WHOLE) -> list[int]:
    """Shards of a share that are not done yet."""
    return [shard for shard in range(share[0], shards, share[1]) if not self._has(shard)]

  @contextlib.contextmanager
  def beside_others(self) -> Iterator[None]:
    """Ignores errors of work in the partial folder if another process has finished and renamed it meanwhile."""
    try:
      yield
    except (OSError, DataError):
      if not (self.path / MANIFEST).is_file():
        raise

  def finish(self, shards: int, summary: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> dict[str, Any] | None:
    """Writes report and manifest from the shards' notes, renames the folder, returns the manifest.

    Returns None while other hosts are still making shards. Raises DataError when the source gave no session.
    """
    with self.beside_others():
      if not self.path.exists() and not self.missing(shards):
        self._finish([read_json(note_path(self.partial, shard)) for shard in range(shards)], summary)
    return read_json(self.path / MANIFEST) if self.path.exists() else None

  def _finish(
    self, notes: list[dict[str, Any]], summary: Callable[[list[dict[str, Any]]], dict[str, Any]]
  ) -> None:  # fmt: skip
    report = {"sessions": sum(note["sessions"] for note in notes), **_report(notes)}
    if not report["sessions"]:
      raise DataError(self._nothing(report["skipped"]))
    head = {**self.head, "sessions": report["sessions"], "skipped": len(report["skipped"])}
    write_json(self.partial / REPORT, report)
    write_json(self.partial / MANIFEST, {**head, **summary(notes), "shards": notes})
    self.partial.rename(self.path)
    for leftover in (self.path / PLAN, *self.path.glob("shard-*.json"), *self.path.glob(f"*{TEMPORARY}")):
      leftover.unlink(missing_ok=True)

  def write(self, shard: int, sessions: Iterable[Entry], notes: dict[str, Any]) -> None:
    """Writes one shard. notes: JSON values for manifest and report, to which iterating over `sessions` may add."""
    write_shard(self.partial, shard, sessions, notes, self.head)

  def _has(self, shard: int) -> bool:
    note = note_path(self.partial, shard)
    files = read_json(note)["files"].values() if note.exists() else ()
    sizes = [(self.partial / file["name"], file["bytes"]) for file in files]
    return bool(sizes) and all(path.is_file() and path.stat().st_size == size for path, size in sizes)

  def _nothing(self, skipped: list[dict[str, Any]]) -> str:
    shutil.rmtree(self.partial)
    reason = f"; skipped {len(skipped)}, the first: {skipped[0]['where']}: {skipped[0]['reason']}" if skipped else ""
    return f"{self.path}: the source gave no session of {self.head['units']} units{reason}"


def _report(notes: list[dict[str, Any]]) -> dict[str, Any]:
  """Moves what was left out from the notes to a report: {"unused_units": ends of recordings, "skipped":
  [...], "quality": of every recording}."""
  skipped, quality = ([entry for note in notes for entry in note.pop(name, [])] for name in ("skipped", "quality"))
  unused = sum(note.pop("unused_units", 0) for note in notes)
  return {"unused_units": unused, "skipped": skipped, **({"quality": quality} if quality else {})}


def read_report(path: str | pathlib.Path) -> dict[str, Any]:
  """What was left out of a finished folder: {"sessions", "unused_units", "skipped": [{"where", "reason"}, ...]}."""
  return read_json(pathlib.Path(path) / REPORT)


def skip(where: str, reason: object) -> dict[str, Any]:
  """An entry of the report: what was skipped (a line of a manifest, a session), and why."""
  return {"where": where, "reason": one_line(Exception(reason), 500)}


def note_path(folder: pathlib.Path, shard: int) -> pathlib.Path:
  """The file whose presence says that a shard is complete."""
  return folder / f"shard-{shard:05d}.json"


def write_shard(
  folder: pathlib.Path, shard: int, sessions: Iterable[Entry], notes: dict[str, Any], head: dict[str, Any]
) -> None:
  """Writes a shard's files and then the note that marks it as done. Runs in worker processes. head: of the manifest."""
  from array_record.python import array_record_module

  pieces, fps = Pieces(**head["pieces"]) if "pieces" in head else None, head["media"]["fps"]
  compressed = tuple(pieces.quality) if pieces else ()
  names = {kind: f"{kind}-{shard:05d}.array_record" for kind in (*FILES, *compressed)}
  count, files = 0, {}
  known: dict[str, list[Any]] = {"lengths": [], "speakers": []}  # of every session
  try:
    with contextlib.ExitStack() as both:
      temporary = {kind: both.enter_context(replacing(folder / name)) for kind, name in names.items()}
      writers = {kind: array_record_module.ArrayRecordWriter(str(temporary[kind]), WRITER_OPTIONS) for kind in names}
      for units, session, ready in sessions:
        for name in compressed:
          assert pieces is not None
          for piece in ready.get(name) or pieces.cut(units, name, fps):
            writers[name].write(piece)
        for unit in without(units, compressed):
          writers["units"].write(unit.tobytes())
        writers["sessions"].write(session.to_bytes())
        known["lengths"].append(session.truth.get("length", len(units)))
        known["speakers"].append(session.truth.get("speaker", ""))
        count += 1
      for kind, writer in writers.items():
        writer.close()
        size, digest = temporary[kind].stat().st_size, sha256_of(temporary[kind])
        files[kind] = {"name": names[kind], "bytes": size, "sha256": digest}
    known = {name: values for name, values in known.items() if set(values) - {"", len(units) if count else 0}}
    write_json(note_path(folder, shard), {"sessions": count, "files": files, **known, **notes})
  except (RuntimeError, OSError) as error:  # the library's writer errors, such as a full disk
    gone = "" if folder.is_dir() else "the folder is gone, perhaps because another process has finished it: "
    raise DataError(f"cannot write {folder / names['units']}: {gone}{one_line(error)}") from error


def without(units: np.ndarray, fields: Collection[str]) -> np.ndarray:
  """Unit records without some of their fields."""
  if not fields:
    return units
  kept = np.zeros(len(units), stored_dtype(units.dtype, fields))
  for name in kept.dtype.names or ():
    kept[name] = units[name]
  return kept
