"""Sessions into a folder of media records: any `Source`, many processes, resumable, the same bytes every time."""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import functools
import multiprocessing
import pathlib
import signal
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import tqdm

from wanstreamer_jax.config import Config
from wanstreamer_jax.data import record_folder, records
from wanstreamer_jax.data.session import AGENT, USER, Session
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.perception.text import TextTokenizer

SHARDS, LARGEST = 16, 32  # at least so many shards, for many processes; at most so many items in one, to lose little


class Source(Protocol):
  """Numbered items that each give sessions of one common length. Goes to worker processes by pickle."""

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

  def sessions(self, item: int) -> Iterator[Session]:
    """The sessions of one item, always the same ones."""
    ...

  def describe(self) -> dict[str, Any]:
    """Name, split, seeds, hashes: JSON values for the manifest, and what a resumed run must find unchanged."""
    ...


@dataclasses.dataclass(frozen=True)
class _Job:
  """What a worker needs besides the shard's number."""

  source: Source
  config: Config
  unit_dtype: np.dtype
  session_dtype: np.dtype
  folder: pathlib.Path

  @property
  def shard_items(self) -> int:
    """Items in a shard; a function of the source alone, so that workers do not change the files."""
    return min(LARGEST, -(-self.source.items // SHARDS))

  def shards(self) -> int:
    return -(-self.source.items // self.shard_items)


def make(
  config: Config, source: Source, out: str | pathlib.Path, workers: int = 1, progress: bool = True
) -> dict[str, Any]:
  """Writes every session of `source` to the folder `out` and returns its manifest.

  `workers` > 1 makes shards in that many processes; the files are the same for any number. An interrupted call is
  repeated to continue. Raises DataError when `out` exists, or was begun with other settings.
  """
  tokenizer = TextTokenizer(config.data.tokenizer)
  unit_dtype, session_dtype = records.unit_dtype(config, source.tracks), records.session_dtype(config)
  head = record_folder.head("media", config, tokenizer, unit_dtype, session_dtype, source.units, source.describe())
  head["tracks"] = list(source.tracks)
  writer = record_folder.FolderWriter(out, head)
  job = _Job(source, config, unit_dtype, session_dtype, writer.partial)
  todo = [shard for shard in range(job.shards()) if not writer.has(shard)]
  with tqdm.tqdm(total=job.shards(), initial=job.shards() - len(todo), unit="shard", disable=not progress) as bar:
    for _ in _run(job, todo, workers):
      bar.update()
  return writer.finish(job.shards(), summarise)


def _run(job: _Job, todo: list[int], workers: int) -> Iterator[int]:
  """Makes the shards, here or in processes, and yields each number when it is done."""
  if workers <= 1 or len(todo) <= 1:
    for shard in todo:
      yield _make_shard(job, shard)
    return
  others = set(multiprocessing.active_children())
  context = multiprocessing.get_context("spawn")  # never fork a process that may have started JAX
  pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(todo)), context, _leave_interrupts_to_parent)
  try:
    for future in concurrent.futures.as_completed([pool.submit(_make_shard, job, shard) for shard in todo]):
      yield future.result()
  except BaseException as error:
    for worker in set(multiprocessing.active_children()) - others:
      worker.terminate()  # half a shard is under a temporary name
    if isinstance(error, concurrent.futures.process.BrokenProcessPool):
      raise DataError("a worker process died, perhaps out of memory: repeat with fewer --workers") from error
    raise
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make_shard(job: _Job, shard: int) -> int:
  tokenizer = TextTokenizer(job.config.data.tokenizer)
  notes: dict[str, Any] = {}
  items = range(shard * job.shard_items, min((shard + 1) * job.shard_items, job.source.items))
  sessions = (session for item in items for session in job.source.sessions(item))
  record_folder.write_shard(job.folder, shard, _to_records(job, tokenizer, sessions, notes), notes)
  return shard


def _to_records(
  job: _Job, tokenizer: TextTokenizer, sessions: Iterable[Session], notes: dict[str, Any]
) -> Iterator[tuple[np.ndarray, records.SessionRecord]]:
  """Records of sessions; counts into `notes` on the way."""
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
    notes["speaking_frames"] = dict(zip(("user", "agent", "both"), speech.tolist()))
    yield units, record


def summarise(notes: list[dict[str, Any]]) -> dict[str, Any]:
  """Sums of the shards' counts, for the manifest: text statistics (spill), speech frames."""
  return {"stats": functools.reduce(_add, ({k: v for k, v in n.items() if k in COUNTS} for n in notes if "text" in n))}


COUNTS = ("text", "world_tokens_cut", "speaking_frames")


def _add(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
  return {key: _add(a[key], b[key]) if isinstance(a[key], dict) else a[key] + b[key] for key in a}
