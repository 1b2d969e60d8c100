"""Streams a media file through an engine and writes the agent's answer: the main job.

The file is fed unit by unit, like a live user; the engine never sees what comes later. Outputs are written to a hidden
folder inside `out_dir` and moved out when all of them are complete. After Ctrl-C the answer so far is kept under
`interrupted/`; after an error nothing is left.
"""

import asyncio
import contextlib
import dataclasses
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wanstreamer_jax.data.loudness import is_loud, level
from wanstreamer_jax.data.media import MediaReader, MediaUnit, MediaWriter
from wanstreamer_jax.data.media_writer import viewable_scale
from wanstreamer_jax.data.tokenizer import is_one_line
from wanstreamer_jax.engine.interface import PHASES, SlotEngine, UnitOutput
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import DataError, MediaError, UserError
from wanstreamer_jax.serve.film import write_conversation
from wanstreamer_jax.serve.session_log import SessionLog, UnitRow, write_vtt
from wanstreamer_jax.serve.timeline import write_timeline
from wanstreamer_jax.serve.unit_source import MAX_TYPED

PARTIAL = ".partial-"
MAX_EVENT_SECONDS = 24 * 3600.0  # after the start
OUTPUTS = ("agent.mp4", "conversation.mp4", "agent.vtt", "units.jsonl", "timeline.png")


@dataclasses.dataclass(frozen=True)
class TextEvent:
  """The user types `text` at `time` seconds."""

  time: float
  text: str


@dataclasses.dataclass(frozen=True)
class StreamOptions:
  """How to stream. With `realtime`, a unit is fed when its last sample would have been captured."""

  request: Request = dataclasses.field(default_factory=Request)
  events: tuple[TextEvent, ...] = ()
  realtime: bool = False
  progress: bool = True


@dataclasses.dataclass(frozen=True)
class StreamSummary:
  """What happened, for the command line. Milliseconds are of whole steps; `late` counts missed deadlines."""

  files: dict[str, Path]
  units: int
  seconds: float
  transcript: str
  wall_seconds: float
  step_p50: float
  step_p95: float
  damaged: int
  unread: int  # typed tokens for which the clip was too short
  late: int | None = None  # realtime only: answers that came after the next unit was complete
  latency_p50: float | None = None  # realtime only: unit complete -> answer decoded
  latency_p95: float | None = None

  def lines(self) -> list[str]:
    """A few lines for people."""
    units = f"{self.units} unit{'s' if self.units > 1 else ''}"
    rate = f"{self.seconds:.2f} s ({units}) in {self.wall_seconds:.1f} s"
    found = [f"answered {rate}; a unit took {self.step_p50:.0f} ms (p95 {self.step_p95:.0f} ms)"]
    if self.late is not None:
      found.append(
        f"real time: latency {self.latency_p50:.0f} ms (p95 {self.latency_p95:.0f} ms), "
        f"{self.late} of {self.units} deadlines missed"
      )
    if self.damaged:
      found.append(f"{self.damaged} damaged audio packets of the input were replaced by silence")
    if self.unread:
      found.append(f"{self.unread} typed tokens came too late: the clip ended before the agent read them")
    return found + [f"{name}: {path}" for name, path in self.files.items()]


def parse_text_event(value: str) -> TextEvent:
  """`"1.2:hello"` -> hello at 1.2 s. Raises DataError."""
  stamp, colon, text = value.partition(":")
  try:
    seconds = float(stamp)
  except ValueError:
    seconds = math.nan
  if not colon or not 0 <= seconds <= MAX_EVENT_SECONDS:
    raise DataError(f'text event {value[:60]!r}: expected SECONDS:TEXT, for example "1.2:hello"')
  text = " ".join(text.split())
  if not text or not is_one_line(text):
    raise DataError(f"text event {value[:60]!r} has no text or has control characters after the colon")
  if len(text) > MAX_TYPED:
    raise DataError(f"text event at {seconds:g} s has {len(text)} characters: at most {MAX_TYPED}")
  return TextEvent(seconds, text)


def by_unit(events: Sequence[TextEvent], unit_s: float, units: int) -> dict[int, list[str]]:
  """Typed texts by unit index. Raises DataError for an event past the end."""
  found: dict[int, list[str]] = {}
  for event in sorted(events, key=lambda event: event.time):
    unit = int(event.time / unit_s + 1e-9)
    if unit >= units:
      raise DataError(
        f"text event {event.text!r} at {event.time:g} s is past the end of the clip ({units * unit_s:g} s)"
      )
    found.setdefault(unit, []).append(event.text)
  return found


def stream_file(
  engine: SlotEngine, source: str | Path, out_dir: str | Path, options: StreamOptions | None = None
) -> StreamSummary:
  """Streams `source` through `engine`; writes agent.mp4, agent.vtt, units.jsonl, timeline.png, conversation.mp4.

  engine: of one slot, with a capacity of all the file's units where the layout has no window. The answer has as many
  units as the input. Raises UserError (of some kind) with nothing left behind; after Ctrl-C, raises
  KeyboardInterrupt with the work so far under `out_dir/interrupted`.
  """
  options, media = options or StreamOptions(), engine.media
  reader = MediaReader(source, media)
  check_capacity(engine, len(reader))
  typed = by_unit(options.events, media.unit_ms / 1000, len(reader))
  began = time.perf_counter()
  with staged(Path(out_dir)) as folder:
    log = SessionLog(folder / "units.jsonl", media)
    try:
      answer(engine, reader, typed, options, folder / "agent.mp4", log)
    finally:
      log.close()
      if log.rows:
        write_vtt(folder / "agent.vtt", log)
        write_timeline(folder / "timeline.png", log, title=Path(source).name)
    write_conversation(folder / "conversation.mp4", reader, folder / "agent.mp4", log, progress=options.progress)
  files = {name: Path(out_dir) / name for name in OUTPUTS}
  wall = time.perf_counter() - began
  return summarise(files, log, reader, wall, options.realtime, engine.unread(0))


def check_capacity(engine: SlotEngine, units: int) -> None:
  """Raises DataError for a file whose history is longer than the engine can keep: nothing is forgotten in silence."""
  if engine.capacity is not None and units > engine.capacity:
    raise DataError(
      f"the file has {units} units, but this engine keeps the history of {engine.capacity} (its layout has no window): "
      f"make it with capacity={units}"
    )


def answer(
  engine: SlotEngine,
  reader: MediaReader,
  typed: dict[int, list[str]],
  options: StreamOptions,
  path: Path,
  log: SessionLog,
) -> None:
  """The loop over units. After Ctrl-C the video so far is completed before KeyboardInterrupt is raised."""
  media, stopped = engine.media, None
  engine.check(options.request)
  engine.prepare()
  engine.join(0, options.request)
  pace = Pace(media.unit_ms / 1000, options.realtime)
  bar = tqdm(total=len(reader), desc="streaming", unit="unit", disable=None if options.progress else True)
  with bar, MediaWriter(path, media, scale=viewable_scale(media.height, media.width)) as writer:
    try:
      for index, user in enumerate(reader):
        texts = typed.get(index, [])
        engine.commit()
        pace.wait(index)
        unit = engine.step(user, texts)
        latency = pace.latency(index)
        writer.write(unit.video, unit.audio)
        log.add(row(index, user, unit, texts, latency, media.unit_ms), user.audio, unit.audio)
        bar.update()
    except KeyboardInterrupt as error:
      if not writer.frames:
        raise
      stopped = error
  if stopped is not None:
    raise stopped


class Pace:
  """The wall clock of a stream: unit k is complete k + 1 units after the start, and its answer due one unit later."""

  def __init__(self, unit_s: float, realtime: bool):
    self.unit_s, self.realtime = unit_s, realtime
    self.begin = time.perf_counter()

  def wait(self, index: int) -> None:
    """Sleeps until unit `index` is complete; not at all when late or not in real time."""
    if self.realtime:
      time.sleep(max(0.0, self.begin + (index + 1) * self.unit_s - time.perf_counter()))

  def latency(self, index: int) -> float | None:
    """Milliseconds since unit `index` was complete, waiting in the queue included; None when not in real time."""
    return (time.perf_counter() - self.begin - (index + 1) * self.unit_s) * 1000 if self.realtime else None


def row(
  index: int, user: MediaUnit, unit: UnitOutput, typed: list[str], latency: float | None, unit_ms: int
) -> UnitRow:
  """One line of units.jsonl."""
  return UnitRow(
    unit=index,
    start=round(index * unit_ms / 1000, 3),
    times={phase: round(unit.times[phase], 3) for phase in PHASES},
    text=unit.text,
    typed=tuple(typed),
    speaking=unit.speaking,
    user_speaking=user.audio is not None and is_loud(user.audio),
    level=round(level(unit.audio), 1),
    user_level=None if user.audio is None else round(level(user.audio), 1),
    latency=None if latency is None else round(latency, 3),
  )


def sweep(out_dir: Path) -> None:
  """Removes what killed processes have left."""
  for left in out_dir.glob(f"{PARTIAL}*"):
    try:
      os.kill(int(left.name.removeprefix(PARTIAL)), 0)  # raises if that process is gone
    except ProcessLookupError:
      shutil.rmtree(left, ignore_errors=True)
    except (OSError, ValueError):
      continue


@contextlib.contextmanager
def staged(out_dir: Path) -> Iterator[Path]:
  """A hidden folder in `out_dir`; its files move out on success, to `interrupted/` on Ctrl-C, else they are deleted."""
  folder, new = out_dir / f"{PARTIAL}{os.getpid()}", not out_dir.exists()
  sweep(out_dir)
  try:
    folder.mkdir(parents=True)
  except OSError as error:
    raise UserError(f"cannot write into {out_dir}: {error.strerror}; give another --out folder") from error
  try:
    yield folder
    for file in sorted(folder.iterdir()):
      if (out_dir / file.name).is_dir():
        raise UserError(f"{out_dir / file.name} is a folder, but a file is to be written there: move it away")
    for file in sorted(folder.iterdir()):
      file.replace(out_dir / file.name)
  except (KeyboardInterrupt, asyncio.CancelledError) as stopped:
    if not any(file.stat().st_size for file in folder.iterdir()):
      raise
    kept = out_dir / "interrupted"
    shutil.rmtree(kept, ignore_errors=True)
    folder.replace(kept)
    raise KeyboardInterrupt(f"interrupted; the answer up to then is in {kept}") from stopped
  except OSError as error:
    raise MediaError(f"cannot write into {out_dir}: {error.strerror or error}") from error
  finally:
    shutil.rmtree(folder, ignore_errors=True)
    if new and not any(out_dir.iterdir()):
      out_dir.rmdir()


def summarise(
  files: dict[str, Path], log: SessionLog, reader: MediaReader, wall: float, realtime: bool, unread: int
) -> StreamSummary:
  """Figures of the whole session."""
  steps = [sum(row.times.values()) for row in log.rows]
  latencies = [row.latency for row in log.rows if row.latency is not None]
  unit_ms = log.media.unit_ms
  return StreamSummary(
    files=files,
    units=len(log.rows),
    seconds=len(log.rows) * unit_ms / 1000,
    transcript="".join(row.text for row in log.rows).strip(),
    wall_seconds=wall,
    step_p50=float(np.percentile(steps, 50)),
    step_p95=float(np.percentile(steps, 95)),
    damaged=reader.info.damaged,
    unread=unread,
    late=sum(latency > unit_ms for latency in latencies) if realtime else None,
    latency_p50=float(np.percentile(latencies, 50)) if realtime else None,
    latency_p95=float(np.percentile(latencies, 95)) if realtime else None,
  )
