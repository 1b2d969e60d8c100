"""`wanstreamer bench serve`: puts load on the live service over real sockets. Codecs and network code are included.

Clients in the same process send noise and video in real time. Latency is signal to signal: from the capture of
a unit's last sample to the arrival of the last sample of its answer. A network and a browser's play-out
buffer are not included.
"""

import asyncio
import dataclasses
import itertools
import json
import resource
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from aiohttp import web

from wanstreamer_jax.bench.trace import write_trace
from wanstreamer_jax.bench.unit_step import abstract_state, measure_ceilings, phase_costs, random_unit, sizes
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.engine.interface import PHASES, SlotEngine
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.parallel.cost import Cost
from wanstreamer_jax.parallel.machine import describe
from wanstreamer_jax.serve.client import Client, ReceivedUnit, Refused, connect
from wanstreamer_jax.serve.frame_codec import encode_jpeg
from wanstreamer_jax.serve.server import ServeOptions, Server

WARM_UP_SECONDS = 2.0  # seconds at the start of every session that are not counted
PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}


@dataclasses.dataclass
class ClientResult:
  """What one client measured after the warm-up."""

  refused: str = ""  # why it got no session
  ended: str = ""  # why its session ended early
  units: list[ReceivedUnit] = dataclasses.field(default_factory=list)

  def answers(self) -> list[tuple[float, float]]:
    """(captured, arrived) of every unit that answers audio, in seconds of one clock."""
    pairs = [(unit.captured, unit.arrived) for unit in self.units]
    return [(captured, arrived) for captured, arrived in pairs if captured is not None and arrived is not None]


def bench_serve(engine: Engine, clients: int, seconds: float, trace: Path | None = None) -> dict[str, Any]:
  """Plain values, ready for JSON; times in milliseconds. trace: a folder for `write_trace`."""
  engine.spans = [] if trace is not None else None
  results = asyncio.run(_load(engine, clients, seconds))
  served = [result for result in results if result.units]
  if trace is not None:
    write_trace(trace, engine.spans or [], served[0].answers() if served else [], engine.media.unit_ms / 1000)
  units = [unit for result in served for unit in result.units]
  size = sizes(engine.agent, abstract_state(engine))
  late = size["codec_delay_ms"]
  latencies = [late + 1000 * (arrived - captured) for result in served for captured, arrived in result.answers()]
  return {
    "machine": describe(),
    "config": engine.agent.config.name,
    "slots": engine.slots,
    "clients": clients,
    "seconds": seconds,
    "warm_up_seconds": WARM_UP_SECONDS,
    "dtype": engine.agent.config.model.dtype,
    "placement": engine.placement,
    "sizes": size,
    "served": len(served),
    "refused": sum(bool(result.refused) for result in results),
    "ended": [result.ended for result in results if result.ended],
    "units": len(units),
    "late": sum(unit.late for unit in units) / max(len(units), 1),
    "latency_ms": _percentiles(latencies),
    "phases_ms": {phase: _percentiles([unit.times[phase] for unit in units]) for phase in PHASES},
    "floor_ms": floors(engine),
    "memory_mb": memory_mb(),
  }


def floors(engine: Engine) -> dict[str, float]:
  """The least milliseconds that each phase of all slots can take here.

  These are the FLOPs of all slots and the bytes of one, over the rates that were measured on this machine.
  """
  agent = engine.agent
  costs = phase_costs(agent, abstract_state(engine), random_unit(agent.config))
  resident = sum(leaf.nbytes for leaf in jax.tree.leaves(agent))
  ceilings = measure_ceilings(agent.config.model.dtype, resident)
  return {phase: ceilings.floor(Cost(engine.slots * costs[phase].flops, costs[phase].bytes)) for phase in PHASES}


def memory_mb() -> dict[str, float]:
  """Peak memory of this process, and of its first device where that has memory of its own."""
  found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
  stats = jax.devices()[0].memory_stats() or {}
  return found | {"device": stats["peak_bytes_in_use"] / 1e6} if "peak_bytes_in_use" in stats else found


def _percentiles(values: list[float]) -> dict[str, float]:
  if not values:
    return dict.fromkeys(PERCENTILES, float("nan"))
  return dict(zip(PERCENTILES, map(float, np.percentile(values, list(PERCENTILES.values())))))


async def _load(engine: SlotEngine, clients: int, seconds: float) -> list[ClientResult]:
  runner = web.AppRunner(Server(engine, ServeOptions(port=0)).app())
  await runner.setup()
  await web.TCPSite(runner, "127.0.0.1", 0).start()
  try:
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return await asyncio.gather(*(_session(address, seconds, seed) for seed in range(clients)))
  finally:
    await runner.cleanup()


async def _session(address: str, seconds: float, seed: int) -> ClientResult:
  """One client: sends for `seconds` and keeps what it receives."""
  result = ClientResult()
  try:
    async with connect(address, seed=seed) as client:
      sender = asyncio.create_task(_send(client, seed))
      try:
        async with asyncio.timeout(seconds):
          await _receive(client, result)
      finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
  except TimeoutError:  # the time is over
    pass
  except Refused as error:
    result.refused = str(error)
  except UserError as error:
    result.ended = str(error)
  return result


async def _send(client: Client, seed: int) -> None:
  """Noise, and always the same frame, so that the clients' encoding does not load the machine."""
  random, media = np.random.default_rng(seed), client.media
  frames = [encode_jpeg(random.integers(0, 255, (media.height, media.width, 3), np.uint8))] * media.frames
  for _ in itertools.count():
    await client.send_unit(random.normal(0, 0.05, media.samples).astype(np.float32), frames)


async def _receive(client: Client, result: ClientResult) -> None:
  begin = time.perf_counter()
  async for unit in client.units():
    if time.perf_counter() - begin > WARM_UP_SECONDS:
      unit.audio.clear()  # only the figures are kept
      unit.frames.clear()
      result.units.append(unit)


def report(result: dict[str, Any]) -> str:
  """The result as a page of text."""
  host, size = result["machine"], result["sizes"]
  memory = ", ".join(f"{value:.0f} MB ({where})" for where, value in result["memory_mb"].items())
  lines = [
    f"{result['config']}: {result['clients']} clients, {result['slots']} slots, {result['seconds']:g} s on "
    f"{host['device']} ({host['cores']} cores, load {host['load']:.1f}, jax {host['jax']}), {result['placement']}; "
    f"{result['warm_up_seconds']:g} s of warm-up",
    f"{size['parameters'] / 1e6:.1f} M parameters in {result['dtype']}, video {size['picture'][0]}x"
    f"{size['picture'][1]}, {size['solver_steps']} solver steps; a unit commits {size['committed_tokens']} tokens, a "
    f"session's cache has {size['cache_tokens']} ({size['cache_mb']:.0f} MB)",
    f"served {result['served']}, refused {result['refused']}, ended {len(result['ended'])}; {result['units']} units, "
    f"{100 * result['late']:.2f} % late; memory {memory}",
    "",
    f"{'ms':18}{'p50':>9}{'p95':>9}{'p99':>9}{'floor':>9}",
    f"{'signal to signal':18}{_row(result['latency_ms'])}",
    *(f"  {phase:16}{_row(found)}{result['floor_ms'][phase]:9.2f}" for phase, found in result["phases_ms"].items()),
    "",
    "signal to signal: a unit's last sample captured -> the answer's last sample at the client; codecs included"
    + (f", and the {size['codec_delay_ms']:g} ms by which the audio codec is late" if size["codec_delay_ms"] else ""),
  ]
  return "\n".join(lines)


def _row(percentiles: dict[str, float]) -> str:
  return "".join(f"{percentiles[name]:9.1f}" for name in PERCENTILES)


def bench_serve_command(engine: Engine, clients: int, seconds: float, as_json: bool, trace: Path | None = None) -> None:
  """Prints the result, as JSON or as text."""
  result = bench_serve(engine, clients, seconds, trace)
  print(json.dumps(result, indent=2) if as_json else report(result))
