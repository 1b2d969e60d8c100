"""Defines `SessionSource`, and writes the sessions of any as a folder of media records.

Many processes and hosts may share the work; an interrupted call continues; the bytes are always the same.
"""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import functools
import multiprocessing
import pathlib
import signal
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import tqdm

from wanstreamer_jax.config import Config
from wanstreamer_jax.data import labels, lateness, record_writer, records
from wanstreamer_jax.data.lateness import MAX_LATE
from wanstreamer_jax.data.record_writer import WHOLE
from wanstreamer_jax.data.session import AGENT, USER, Session, Word
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import DataError, MediaError

MIN_SHARDS = 16  # of a source with as many items, so that many processes can share the work
MAX_SHARD_ITEMS = 32  # more would lose more work when a process is killed
EARLY_WORDS = 20_000  # of the source that are placed before any session is made


@dataclasses.dataclass(frozen=True)
class ItemReport:
  """What a source says after the last session of an item."""

  unused_units: int = 0  # at its end, which give no session
  quality: dict[str, Any] | None = None  # of a recording: an entry of report.json (`quality.py`)


class SessionSource(Protocol):
  """Numbered items that each give sessions of one common length. It is pickled for worker processes."""

  @property
  def items(self) -> int: ...

  @property
  def units(self) -> int:
    """Per session."""
    ...

  @property
  def tracks(self) -> tuple[str, ...]:
    """Names of the per-frame tracks to store, for both sides."""
    ...

  def sessions(self, item: int) -> Generator[Session, None, ItemReport | int | None]:
    """The sessions of one item, always the same ones. Returns a report, or only how many units at its end are unused.

    Raises DataError or MediaError for an item that cannot be read."""
    ...

  def spoken(self) -> Iterator[tuple[Word, ...]]:
    """The agent's words, as far as they are known without media: one tuple for each of some items, or of all."""
    ...

  def where(self, item: int) -> str:
    """The name of an item in messages: its line or its seed."""
    ...

  def describe(self) -> dict[str, Any]:
    """Name, split, seeds, hashes: JSON values for the manifest, which a resumed call must find unchanged."""
    ...


@dataclasses.dataclass(frozen=True)
class _MakeJob:
  """What a worker needs besides the number of its shard."""

  source: SessionSource
  config: Config
  unit_dtype: np.dtype
  session_dtype: np.dtype
  folder: pathlib.Path
  head: dict[str, Any]  # of the manifest
  skip_bad: bool

  @property
  def shard_items(self) -> int:
    """Items in a shard: a function of the source alone, so that the number of workers does not change the files."""
    return min(MAX_SHARD_ITEMS, -(-self.source.items // MIN_SHARDS))

  def shards(self) -> int:
    return -(-self.source.items // self.shard_items)


def make(
  config: Config, source: SessionSource, out: str | pathlib.Path, workers: int = 1, share: tuple[int, int] = WHOLE,
  skip_bad: bool = False, progress: bool = True, late: float = MAX_LATE,
) -> dict[str, Any] | None:  # fmt: skip
  """Writes every session of `source` to the folder `out` and returns its manifest.

  workers: processes of this call that make shards; the files are the same for any number.
  share: (i, n) makes every n-th shard from the i-th on, while other calls, perhaps on other hosts, make the others. The
    call that finds all shards present finishes the folder; the others return None.
  skip_bad: leave out what cannot be read and list it in report.json; otherwise it raises DataError or MediaError.
  late: the largest share of the agent's words that may end later than they begin to sound.

  Repeat an interrupted call to continue it; repeating a finished one does nothing. Raises DataError when `out` is
  another folder, or was begun with other settings, and, before anything is made, for a tokenizer that does not fit the
  config and for a text that is too fast for its slots.
  """
  tokenizer = tokenizer_of(config)
  unit_dtype, session_dtype = records.unit_dtype(config, source.tracks), records.session_dtype(config)
  head = record_writer.head("media", config, tokenizer, unit_dtype, session_dtype, source.units, source.describe())
  head["tracks"] = list(source.tracks)
  writer = record_writer.FolderWriter(out, head)
  if writer.finished:
    return writer.finished
  known = _first_words(source)
  stats = lateness.placed(known, config.layout.text_slots, tokenizer, config.media.unit_ms / 1000)
  lateness.check_late(stats, late, config, known)
  job = _MakeJob(source, config, unit_dtype, session_dtype, writer.partial, writer.head, skip_bad)
  todo, own = writer.missing(job.shards(), share), len(range(share[0], job.shards(), share[1]))
  bar = tqdm.tqdm(total=own, initial=own - len(todo), unit="shard", disable=not progress)
  with bar, writer.beside_others():
    for _ in _run(job, todo, workers):
      bar.update()
  return writer.finish(job.shards(), functools.partial(summarise, config=config, late=late))


def _first_words(source: SessionSource) -> list[tuple[Word, ...]]:
  """About EARLY_WORDS words of the source, before any session is made."""
  found, count = [], 0
  for words in source.spoken():
    found.append(words)
    count += len(words)
    if count >= EARLY_WORDS:
      break
  return found


def _run(job: _MakeJob, todo: list[int], workers: int) -> Iterator[int]:
  """Makes the shards, in this process or in worker processes, and yields the number of each when it is done."""
  if workers <= 1 or len(todo) <= 1:
    for shard in todo:
      yield _make_shard(job, shard)
    return
  others = set(multiprocessing.active_children())
  context = multiprocessing.get_context("spawn")  # never fork a process that may have started JAX
  pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(todo)), context, _start_worker, (job,))
  try:
    for future in concurrent.futures.as_completed([pool.submit(_make_shard_in_worker, shard) for shard in todo]):
      yield future.result()
  except BaseException as error:
    for worker in set(multiprocessing.active_children()) - others:
      worker.terminate()  # an unfinished shard has only a temporary name
    if isinstance(error, concurrent.futures.process.BrokenProcessPool):
      raise DataError("a worker process died, perhaps out of memory: repeat with fewer --workers") from error
    raise
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


_worker_job: list[_MakeJob] = []  # of this worker process: sent once, as a manifest with all words is large


def _start_worker(job: _MakeJob) -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupts are left to the parent
  _worker_job.append(job)


def _make_shard_in_worker(shard: int) -> int:
  return _make_shard(_worker_job[0], shard)


def _make_shard(job: _MakeJob, shard: int) -> int:
  tokenizer = tokenizer_of(job.config)
  notes: dict[str, Any] = {"skipped": [], "unused_units": 0, "quality": []}
  items = range(shard * job.shard_items, min((shard + 1) * job.shard_items, job.source.items))
  sessions = (session for item in items for session in _sessions(job, item, notes))
  record_writer.write_shard(job.folder, shard, _to_records(job, tokenizer, sessions, notes), notes, job.head)
  return shard


def _sessions(job: _MakeJob, item: int, notes: dict[str, Any]) -> Iterator[Session]:
  """The sessions of one item; `notes` records an item that gave none. Sessions before a damaged place are kept."""
  where, given, sessions = job.source.where(item), 0, job.source.sessions(item)
  while True:
    try:
      session = next(sessions)
    except StopIteration as end:
      report = end.value if isinstance(end.value, ItemReport) else ItemReport(end.value or 0)
      unused = report.unused_units
      notes["unused_units"] += unused
      notes["quality"] += [{"where": where, **report.quality}] if report.quality else []
      if not given:
        notes["skipped"].append(record_writer.skip(where, f"{unused} units, shorter than a session"))
      return
    except (DataError, MediaError) as error:
      if not job.skip_bad:
        raise type(error)(f"{where}: {error}; or pass --skip-bad to leave such items out") from error
      notes["skipped"].append(record_writer.skip(where, error))
      return
    given += 1
    yield session


def _to_records(
  job: _MakeJob, tokenizer: TextTokenizer, sessions: Iterable[Session], notes: dict[str, Any]
) -> Iterator[record_writer.Entry]:
  """Records of sessions; adds their statistics to `notes`."""
  text = {USER: records.TextStats(), AGENT: records.TextStats()}
  truncated, speech = 0, np.zeros(3, np.int64)
  for session in sessions:
    units, stats = records.session_to_units(session, job.config, tokenizer, job.unit_dtype)
    record, lost = records.session_record(session, job.config, tokenizer, job.session_dtype)
    text = {side: text[side] + stats[side] for side in text}
    truncated += lost
    user, agent = units["user_speaking"], units["agent_speaking"]
    speech += [user.sum(), agent.sum(), (user & agent).sum()]
    notes["text"] = {side: dataclasses.asdict(text[side]) for side in text}
    notes["world_tokens_cut"] = truncated
    notes["labels"] = add_counts(notes.get("labels", {}), labels.label_counts(units[labels.FIELD]))
    tokens = token_counts(units["agent_text"], tokenizer.pad_id)
    notes["agent_tokens"] = add_counts(notes.get("agent_tokens", {}), tokens)
    notes["speaking_frames"] = dict(zip(("user", "agent", "both"), speech.tolist()))
    yield record_writer.Entry(units, record)


def summarise(notes: list[dict[str, Any]], config: Config, late: float = MAX_LATE) -> dict[str, Any]:
  """Sums of the shards' counts, for the manifest: text statistics (spill), speech frames.

  Raises DataError when more than the share `late` of the agent's words is late.
  """
  stats = functools.reduce(add_counts, ({k: v for k, v in n.items() if k in COUNTS} for n in notes if "text" in n))
  lateness.check_late(records.TextStats(**stats["text"][AGENT]), late, config)
  return {"stats": stats}


COUNTS = ("text", "world_tokens_cut", "speaking_frames", "labels", "agent_tokens")


def token_counts(text: np.ndarray, pad: int) -> dict[str, int]:
  """{token id: how often it is in a text}, without PAD."""
  ids, times = np.unique(text[text != pad], return_counts=True)
  return {str(token): int(count) for token, count in zip(ids, times)}


def add_counts(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
  """Sums of nested counts."""
  return {
    key: add_counts(a.get(key, {}), b.get(key, {})) if isinstance((a | b)[key], dict) else a.get(key, 0) + b.get(key, 0)
    for key in dict.fromkeys((*a, *b))  # a shard of an older version has fewer counts
  }
