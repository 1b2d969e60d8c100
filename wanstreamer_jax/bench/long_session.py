"""`wanstreamer bench session`: runs one long session faster than real time. Simulated users come and go.

It checks that an hour goes as well as a minute: time of a unit, memory, no compilation, the clock, and the face.
"""

import json
import os
import resource
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.duplex_world.source import world_config
from wanstreamer_jax.data.session import World
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.engine.interface import UnitOutput
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.files import save_figure, write_json
from wanstreamer_jax.parallel.machine import describe
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.serve.watched_user import WatchedUser

STILLS = (0.1, 1, 10, 30, 60)  # minutes


class Minute(NamedTuple):
  """A minute of the session (the last one may be shorter)."""

  minute: float  # at its end
  p50_ms: float  # of a unit
  p95_ms: float
  cpu_ms: float  # median over all cores: what other programs of the machine do not change
  memory_mb: float


class Watched:
  """What is noted of a session while it runs."""

  def __init__(self, media: MediaConfig):
    self.media = media
    self.units = self.samples = self.frames = 0
    self.minutes: list[Minute] = []
    self.stills: dict[float, np.ndarray] = {}  # by the minute in which they were shown
    self._wall: list[float] = []  # milliseconds of the units since the last whole minute
    self._cpu: list[float] = []

  @property
  def elapsed(self) -> float:
    """Minutes of the session so far."""
    return self.units * self.media.unit_ms / 60_000

  def add(self, output: UnitOutput, cpu_ms: float) -> None:
    """One unit more."""
    self.units += 1
    self.samples, self.frames = self.samples + len(output.audio), self.frames + len(output.video)
    self._wall.append(sum(output.times.values()))
    self._cpu.append(cpu_ms)
    if len(self._wall) == 60_000 // self.media.unit_ms:
      self._end_minute()
    self.stills |= {at: output.video[-1] for at in STILLS if at <= self.elapsed and at not in self.stills}
    self._newest = output.video[-1]

  def finish(self) -> None:
    """After the last unit."""
    if self._wall:
      self._end_minute()
    self.stills[self.elapsed] = self._newest

  def _end_minute(self) -> None:
    p50, p95 = (float(value) for value in np.percentile(self._wall, (50, 95)))
    self.minutes.append(Minute(self.elapsed, p50, p95, float(np.median(self._cpu)), resident_mb()))
    self._wall, self._cpu = [], []

  def drifts(self) -> dict[str, float]:
    """Milliseconds by which what was sent is longer than what was heard."""
    heard = self.units * self.media.unit_ms
    return {
      "audio_drift_ms": 1000 * self.samples / self.media.sample_rate - heard,
      "video_drift_ms": 1000 * self.frames / self.media.fps - heard,
    }

  def growth(self, window: float) -> dict[str, float]:
    """The last minute over the first whole one in which the agent's window (minutes) was full."""
    last = self.minutes[-1]
    first = next((row for row in self.minutes if row.minute >= window + 1), last)
    return {
      "last_minute_over_first_after_window": last.p50_ms / first.p50_ms,
      "of_cpu_time": last.cpu_ms / first.cpu_ms,
      "memory_growth_mb": last.memory_mb - first.memory_mb,
    }


def bench_session(agent: Agent, minutes: float) -> tuple[dict[str, Any], dict[float, np.ndarray]]:
  """(plain values, ready for JSON, with one row for every minute; the agent's picture at STILLS and at the end)."""
  config, media = agent.config, agent.config.media
  units = round(minutes * 60_000 / media.unit_ms)
  engine, user = Engine(agent, capacity=units + 1), WatchedUser(world_config(config), seed=0)
  engine.prepare()
  user.prepare()
  engine.join(0, Request(session_world(user)))
  compiled, watched = compilations(), Watched(media)
  for _ in tqdm(range(units), desc="session", unit="unit"):
    watched.add(*answer(engine, user))
  watched.finish()
  result = {
    "machine": describe(), "config": config.name, "kv_cache": config.model.kv_cache, "units": units,
    **watched.drifts(), "unit_drift": int(np.asarray(engine.states.unit)[0]) - units,
    "compiled_after_start": len(compiled), **watched.growth((config.layout.window or 0) * media.unit_ms / 60_000),
    "minutes": [row._asdict() for row in watched.minutes],
  }  # fmt: skip
  return result, watched.stills


def answer(engine: Engine, user: WatchedUser) -> tuple[UnitOutput, float]:
  """One unit of the conversation, and the milliseconds that all cores worked on the answer."""
  unit, typed, _ = user.take()
  begin = time.process_time()
  output = engine.step(unit, typed)
  busy = 1000 * (time.process_time() - begin)
  user.observe_agent(output.audio)
  return output, busy


def session_world(user: WatchedUser) -> World:
  """The world of the first user's agent."""
  assert user.user is not None
  return user.user.world


def compilations() -> list[str]:
  """A list that grows with every program that this process compiles from now on."""
  found: list[str] = []

  def listen(event: str, duration_secs: float, **_: str | int) -> None:
    if "backend_compile" in event:
      found.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  return found


def resident_mb() -> float:
  """Memory of this process now (Linux), or the most it ever had."""
  try:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
  except OSError:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw(path: Path, result: dict[str, Any], stills: dict[float, np.ndarray]) -> None:
  """Time and memory over the minutes, and the face."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(12, 6.2), layout="constrained")
  above, below = figure.subfigures(2, 1)  # type: ignore[misc]
  for axes, (minute, picture) in zip(np.atleast_1d(above.subplots(1, len(stills))), sorted(stills.items())):
    axes.imshow(picture)
    axes.set_title(f"{60 * minute:.0f} s" if minute < 1 else f"{minute:g} min", fontsize=10)
    axes.axis("off")
  time, memory = below.subplots(1, 2)
  minutes = [row["minute"] for row in result["minutes"]]
  for name, colour in (("p50_ms", "#4292c6"), ("p95_ms", "#c994c7")):
    time.plot(minutes, [row[name] for row in result["minutes"]], ".-", color=colour, label=name[:3])
  time.set(xlabel="minutes of the session", ylabel="ms a unit", xlim=(0, None), ylim=(0, None))
  time.legend(frameon=False)
  memory.plot(minutes, [row["memory_mb"] for row in result["minutes"]], ".-", color="#178f82")
  memory.set(xlabel="minutes of the session", ylabel="memory of the process, MB", xlim=(0, None), ylim=(0, None))
  save_figure(path, figure, dpi=100)


def bench_session_command(agent: Agent, minutes: float, out: Path) -> None:
  """Writes session.json and session.png, and prints what they say."""
  result, stills = bench_session(agent, minutes)
  out.mkdir(parents=True, exist_ok=True)
  write_json(out / "session.json", result)
  draw(out / "session.png", result, stills)
  print(json.dumps({name: value for name, value in result.items() if name != "minutes"}, indent=2))
  print(f"{out / 'session.json'}\n{out / 'session.png'}")
