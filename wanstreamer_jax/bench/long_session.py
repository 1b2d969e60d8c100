"""`wanstreamer bench session`: one long session, faster than real time, with simulated users who come and go.

What must hold for an hour as for a minute: the time of a unit, the memory, no compilation, the clock, and the face.
"""

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from wanstreamer_jax.data.duplex_world.source import world_config
from wanstreamer_jax.data.session import World
from wanstreamer_jax.engine.engine import SlotEngine
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.files import write_json
from wanstreamer_jax.parallel.machine import describe
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.serve.watched_user import WatchedUser

STILLS = (0.1, 1, 10, 30, 60)  # minutes


def bench_session(agent: Agent, minutes: float) -> tuple[dict[str, Any], dict[float, np.ndarray]]:
  """(plain values, ready for JSON, with one row for every minute; the agent's picture at STILLS and at the end)."""
  media, engine = agent.config.media, SlotEngine(agent, 1, int(minutes * 60_000 / agent.config.media.unit_ms) + 1)
  user = WatchedUser(world_config(agent.config), seed=0)
  units, per_minute = round(minutes * 60_000 / media.unit_ms), 60_000 // media.unit_ms
  engine.prepare()
  user.prepare()
  engine.join(0, Request(session_world(user)))
  compiled = compilations()
  rows: list[dict[str, float]] = []
  stills: dict[float, np.ndarray] = {}
  times: list[float] = []
  busy: list[float] = []  # milliseconds of all cores: what other programs of the machine do not change
  shown = np.zeros((0,))
  samples = frames = 0
  for unit in tqdm(range(units), desc="session", unit="unit"):
    heard, typed, _ = user.take()
    begin = time.process_time()
    answer = engine.step([heard], [typed])[0]
    busy.append(1000 * (time.process_time() - begin))
    if answer is None:
      raise RuntimeError(f"the session is not finite any more after {unit} units")
    user.observe_agent(answer.audio)
    shown = answer.video[-1]
    samples, frames = samples + len(answer.audio), frames + len(answer.video)
    times.append(sum(answer.times.values()))
    minute = (unit + 1) * media.unit_ms / 60_000
    for still in STILLS:
      if still <= minute and still not in stills:
        stills[still] = shown
    if len(times) == per_minute or unit + 1 == units:
      rows.append(
        {"minute": minute, "p50_ms": float(np.median(times)), "p95_ms": float(np.percentile(times, 95)),
         "cpu_ms": float(np.median(busy)), "memory_mb": resident_mb()}
      )  # fmt: skip
      times, busy = [], []
  stills[units * media.unit_ms / 60_000] = shown
  heard_ms = units * media.unit_ms
  window = (agent.config.layout.window or 0) * media.unit_ms / 60_000
  after_window = next((row for row in rows if row["minute"] >= window + 1), rows[-1])  # a whole minute of it
  last_over = lambda name: rows[-1][name] / after_window[name]
  result = {
    "machine": describe(), "config": agent.config.name, "kv_cache": agent.config.model.kv_cache, "units": units,
    "audio_drift_ms": 1000 * samples / media.sample_rate - heard_ms,
    "video_drift_ms": 1000 * frames / media.fps - heard_ms,
    "unit_drift": int(np.asarray(engine.states.unit)[0]) - units, "compiled_after_start": len(compiled),
    "last_minute_over_first_after_window": last_over("p50_ms"), "of_cpu_time": last_over("cpu_ms"),
    "memory_growth_mb": rows[-1]["memory_mb"] - after_window["memory_mb"], "minutes": rows,
  }  # fmt: skip
  return result, stills


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
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure = plt.figure(figsize=(12, 6.2), layout="constrained")
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
  temporary = path.with_name(path.name + ".tmp")
  figure.savefig(temporary, format="png", dpi=100)
  plt.close(figure)
  os.replace(temporary, path)


def bench_session_command(agent: Agent, minutes: float, out: Path) -> None:
  """Writes session.json and session.png, and prints what they say."""
  result, stills = bench_session(agent, minutes)
  out.mkdir(parents=True, exist_ok=True)
  write_json(out / "session.json", result)
  draw(out / "session.png", result, stills)
  print(json.dumps({name: value for name, value in result.items() if name != "minutes"}, indent=2))
  print(f"{out / 'session.json'}\n{out / 'session.png'}")
