"""`wanstreamer bench serve`: the live service under load, on real sockets, codecs and network code included.

Visitors in the same process send noise and pictures in real time. Latency is signal to signal on the service's side:
from the moment when a unit's last sample was captured to the arrival of the answer's last sound. What the figures do
not hold is a network and a browser's play-out buffer.
"""

import asyncio
import dataclasses
import json
import resource
import time
from pathlib import Path
from typing import Any

import aiohttp
import jax
import numpy as np
from aiohttp import web

from wanstreamer_jax.bench.trace import write_trace
from wanstreamer_jax.bench.unit_step import abstract_state, measure_ceilings, phase_costs, random_unit, sizes
from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.parallel.cost import Cost
from wanstreamer_jax.parallel.machine import describe
from wanstreamer_jax.serve import protocol
from wanstreamer_jax.serve.picture_codec import encode_picture
from wanstreamer_jax.serve.server import ServeOptions, Server
from wanstreamer_jax.serve.session_log import PHASES

PART = 0.02  # seconds of sound in a message
WARM_UP = 2.0  # seconds of every visit that are not counted


@dataclasses.dataclass
class Visit:
  """What one visitor met. latencies: seconds; phases: milliseconds of every unit."""

  refused: str = ""
  ended: str = ""
  latencies: list[float] = dataclasses.field(default_factory=list)
  phases: list[list[float]] = dataclasses.field(default_factory=list)
  late: int = 0
  units: int = 0
  heard: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # unit complete, its answer here


def bench_serve(engine: Engine, visitors: int, seconds: float, trace: Path | None = None) -> dict[str, Any]:
  """Plain values, ready for JSON; times in milliseconds. trace: a folder for `write_trace`."""
  engine.spans = [] if trace is not None else None
  visits = asyncio.run(_load(engine, visitors, seconds))
  served = [visit for visit in visits if visit.units]
  gather = lambda name: np.array([value for visit in served for value in getattr(visit, name)])
  latencies, phases = 1000 * gather("latencies"), gather("phases").reshape(-1, len(PHASES))
  units = sum(visit.units for visit in served)
  if trace is not None:
    write_trace(trace, engine.spans or [], served[0].heard if served else [], engine.media.unit_ms / 1000)
  return {
    "machine": describe(),
    "config": engine.agent.config.name,
    "slots": engine.slots,
    "visitors": visitors,
    "seconds": seconds,
    "warm_up_seconds": WARM_UP,
    "dtype": engine.agent.config.model.dtype,
    "placement": engine.placement,
    "sizes": sizes(engine.agent, abstract_state(engine)),
    "held": len(served),
    "refused": sum(bool(visit.refused) for visit in visits),
    "ended": [visit.ended for visit in visits if visit.ended],
    "units": units,
    "late": sum(visit.late for visit in served) / max(units, 1),
    "latency_ms": _percentiles(latencies),
    "phases_ms": {phase: _percentiles(phases[:, index]) for index, phase in enumerate(PHASES)},
    "floor_ms": floors(engine),
    "memory_mb": memory_mb(),
  }


def floors(engine: Engine) -> dict[str, float]:
  """Milliseconds that each phase of all slots takes at least here: FLOPs of all, bytes of one, over measured rates."""
  agent = engine.agent
  costs = phase_costs(agent, abstract_state(engine), random_unit(agent.config))
  resident = sum(leaf.nbytes for leaf in jax.tree.leaves(agent))
  ceilings = measure_ceilings(agent.config.model.dtype, resident)
  return {phase: ceilings.floor(Cost(engine.slots * cost.flops, cost.bytes)) for phase, cost in costs.items()}


def memory_mb() -> dict[str, float]:
  """The most that this process ever had, and that its first device had where that has its own memory."""
  found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
  stats = jax.devices()[0].memory_stats() or {}
  return found | {"device": stats["peak_bytes_in_use"] / 1e6} if "peak_bytes_in_use" in stats else found


def _percentiles(values: np.ndarray) -> dict[str, float]:
  if not len(values):
    return dict.fromkeys(("p50", "p95", "p99"), float("nan"))
  return dict(zip(("p50", "p95", "p99"), map(float, np.percentile(values, (50, 95, 99)))))


async def _load(engine: Engine, visitors: int, seconds: float) -> list[Visit]:
  runner = web.AppRunner(Server(engine, ServeOptions(port=0)).app())
  await runner.setup()
  site = web.TCPSite(runner, "127.0.0.1", 0)
  await site.start()
  try:
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/live"
    async with aiohttp.ClientSession() as session:
      return await asyncio.gather(*(_visit(session, address, seconds, index) for index in range(visitors)))
  finally:
    await runner.cleanup()


async def _visit(session: aiohttp.ClientSession, address: str, seconds: float, index: int) -> Visit:
  visit = Visit()
  async with session.ws_connect(address, max_msg_size=protocol.LARGEST_MESSAGE) as socket:
    await socket.send_str(protocol.say("hello", version=protocol.VERSION, seed=index))
    welcome = protocol.hear(await socket.receive_str())
    if welcome["type"] != "welcome":
      visit.refused = welcome["message"]
      return visit
    media = MediaConfig(**{name: welcome[name] for name in ("unit_ms", "fps", "sample_rate", "height", "width")})
    sender = asyncio.create_task(_send(socket, media, index))
    try:
      await asyncio.wait_for(_receive(socket, media, visit), seconds)
    except TimeoutError:
      pass
    finally:
      sender.cancel()
      await asyncio.gather(sender, return_exceptions=True)
  return visit


async def _send(socket: aiohttp.ClientWebSocketResponse, media: MediaConfig, index: int) -> None:
  """Noise and one picture, at their pace."""
  random = np.random.default_rng(index)
  jpeg = encode_picture(random.integers(0, 255, (media.height, media.width, 3), np.uint8))
  size, begin, part, shown = round(PART * media.sample_rate), time.perf_counter(), 0, 0
  while True:
    await asyncio.sleep(max(0.0, begin + (part + 1) * PART - time.perf_counter()))
    noise = random.normal(0, 0.05, size).astype(np.float32)
    await socket.send_bytes(protocol.sound(noise, begin + part * PART).pack())
    part += 1
    while shown < part * PART * media.fps:
      await socket.send_bytes(protocol.Media(protocol.JPEG, jpeg, begin + shown / media.fps, key_frame=True).pack())
      shown += 1


async def _receive(socket: aiohttp.ClientWebSocketResponse, media: MediaConfig, visit: Visit) -> None:
  begin, heard, samples = time.perf_counter(), None, 0
  async for message in socket:
    if message.type is aiohttp.WSMsgType.BINARY:
      part = protocol.unpack(message.data)
      samples += len(part.samples) if part.kind == protocol.SOUND else 0
      if samples == media.samples and heard is not None:
        visit.heard.append((heard, time.perf_counter()))
        visit.latencies.append(time.perf_counter() - heard)
        heard = None
    elif message.type is aiohttp.WSMsgType.TEXT:
      value = protocol.hear(message.data)
      if value["type"] == "ended":
        visit.ended = value["message"]
        return
      if value["type"] == "unit" and time.perf_counter() - begin > WARM_UP:
        heard, samples = value["heard"], 0
        visit.units += 1
        visit.late += value["late"]
        visit.phases.append([value[f"{phase}_ms"] for phase in PHASES])


def report(result: dict[str, Any]) -> str:
  """The result as a page of text."""
  host, size, row = (
    result["machine"],
    result["sizes"],
    lambda found: "".join(f"{found[p]:9.1f}" for p in ("p50", "p95", "p99")),
  )
  lines = [
    f"{result['config']}: {result['visitors']} visitors, {result['slots']} slots, {result['seconds']:g} s on "
    f"{host['device']} ({host['cores']} cores, load {host['load']:.1f}, jax {host['jax']}), {result['placement']}; "
    f"{result['warm_up_seconds']:g} s of warm-up",
    f"{size['parameters'] / 1e6:.1f} M parameters in {result['dtype']}, pictures {size['picture'][0]}x"
    f"{size['picture'][1]}, {size['solver_steps']} solver steps; a unit commits {size['committed_tokens']} tokens, a "
    f"session's cache has {size['cache_tokens']} ({size['cache_mb']:.0f} MB)",
    f"held {result['held']}, refused {result['refused']}, ended {len(result['ended'])}; {result['units']} units, "
    f"{100 * result['late']:.2f} % late; memory "
    + ", ".join(f"{value:.0f} MB ({where})" for where, value in result["memory_mb"].items()),
    "",
    f"{'ms':18}{'p50':>9}{'p95':>9}{'p99':>9}{'floor':>9}",
    f"{'signal to signal':18}{row(result['latency_ms'])}",
    *(f"  {phase:16}{row(found)}{result['floor_ms'][phase]:9.2f}" for phase, found in result["phases_ms"].items()),
    "",
    "signal to signal: a unit's last sample captured -> the answer's last sound at the visitor; codecs included",
  ]
  return "\n".join(lines)


def bench_serve_command(
  engine: Engine, visitors: int, seconds: float, as_json: bool, trace: Path | None = None
) -> None:
  """Prints one or the other."""
  result = bench_serve(engine, visitors, seconds, trace)
  print(json.dumps(result, indent=2) if as_json else report(result))
