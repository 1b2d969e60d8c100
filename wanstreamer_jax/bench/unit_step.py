"""Times each phase of a unit on this machine, beside the least time it could take.

The floor of a phase is the larger of FLOPs / (measured matrix-product rate) and bytes / (measured reading rate): every
weight and every cached key must be read at each use, and the products must be done (see parallel/cost.py). Both
rates are measured in the same run, the second over as many bytes as the model and its cache have, so that a model
that fits into the processor's caches is compared with their speed.
"""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanstreamer_jax import rollout
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.session import MediaUnit
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.engine.interface import PHASES
from wanstreamer_jax.engine.phases import abstract_states, join_state, perceive, perform, render_checked, think, to_host
from wanstreamer_jax.parallel import machine
from wanstreamer_jax.parallel.cost import Cost, count
from wanstreamer_jax.parallel.machine import best_seconds, product_rate, timed
from wanstreamer_jax.rollout import Agent, SessionState, UserUnit
from wanstreamer_jax.units import CLEAN_PHASES, PERFORM, REFEED, build_layout

WARM_UP_UNITS = 5
POOL = 1 << 20  # numbers
AFTER_THE_USER = PHASES[1:]


class Ceilings(NamedTuple):
  """What this machine does at best. flops: per second, of a large matrix product; read: bytes per second."""

  flops: float
  read: float
  buffer: int  # bytes that were read

  def floor(self, cost: Cost) -> float:
    """Milliseconds."""
    return 1000 * max(cost.flops / self.flops, cost.bytes / self.read)


def bench_step(config: Config, runs: int = 100, whole: bool = True) -> dict[str, Any]:
  """Times every phase and the whole donated `step_unit`, with random weights, on the default device.

  whole: False compiles no program of the whole unit; its time is then the sum of its phases, as the engine runs them.
  Returns plain values, ready for JSON; times are in milliseconds, compile times in seconds.
  """
  minute = 60_000 // config.media.unit_ms  # of history, for layouts without a window
  engine, user = Engine(random_agent(config), capacity=minute), random_unit(config)
  agent, state = engine.agent, abstract_state(engine)
  resident = nbytes(agent) + nbytes(state.cache)
  ceilings = measure_ceilings(config.model.dtype, resident)
  costs = phase_costs(agent, state, user)
  times, compile_times = _time_phases(engine, user, runs)
  if whole:
    times["step"], compile_times["step"] = _time_step(engine, user, runs)
  else:
    times["step"], compile_times["step"] = [sum(unit) for unit in zip(*times.values())], sum(compile_times.values())
  costs["step"] = sum(costs.values(), Cost())
  floors = {name: ceilings.floor(costs[name]) for name in PHASES}
  floors["step"] = sum(floors.values())  # phases follow each other
  late = sizes(agent, state)["codec_delay_ms"]  # of the sound that a unit decides, behind its picture
  row = lambda name: {
    **_statistics(times[name]),
    "floor_ms": floors[name],
    "gflop": costs[name].flops / 1e9,
    "megabytes": costs[name].bytes / 1e6,
    "compile_s": compile_times[name],
  }
  return {
    "config": config.name,
    "machine": machine.describe(),
    "dtype": config.model.dtype,
    "sizes": sizes(agent, state),
    "ceilings": {"gflops": ceilings.flops / 1e9, "gbytes": ceilings.read / 1e9, "buffer_mb": ceilings.buffer / 1e6},
    "runs": runs,
    "phases": {name: row(name) for name in PHASES},
    "step": row("step"),
    "latency": _statistics([late + sum(unit) for unit in zip(*(times[phase] for phase in AFTER_THE_USER))]),
    "split": split_throughput(times, config.layout.commit_delay),
  }


def random_agent(config: Config) -> Agent:
  """An agent of small random weights, made without compiling its initialisation.

  Large leaves repeat the same million numbers, on the device: a host draws and sends billions for minutes.
  """
  draw = np.random.default_rng(0).standard_normal
  pool = jnp.asarray(0.02 * draw(POOL, np.float32))

  def weights(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if leaf.size < POOL:
      return jnp.asarray(0.02 * draw(leaf.shape, np.float32), leaf.dtype)
    return jnp.resize(pool, leaf.shape).astype(leaf.dtype)

  return jax.tree.map(weights, jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0))))


def random_unit(config: Config) -> UserUnit:
  """A unit in which the user is heard and seen, and types nothing, on the host as it comes from outside."""
  media, random = config.media, np.random.default_rng(1)
  audio = random.uniform(-0.5, 0.5, media.samples).astype(np.float32)
  video = random.integers(0, 256, (media.frames, media.height, media.width, 3), np.uint8)
  text = np.full(config.layout.user_text_slots, config.model.pad, np.int32)
  return UserUnit(audio, video, text, np.True_, np.True_)


def abstract_state(engine: Engine) -> SessionState:
  """The shapes of what one session of an engine remembers."""
  states = abstract_states(engine.agent, 1, engine.capacity)
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)


def phase_costs(agent: Agent, state: SessionState, user: UserUnit) -> dict[str, Cost]:
  """What each phase of one session must do at least."""
  heard, _ = jax.eval_shape(perceive, agent, state, user)
  latents = jax.eval_shape(perform, agent, state)
  return {
    "commit": count(rollout.commit, agent, state),
    "perceive": count(perceive, agent, state, user),
    "think": count(think, agent, state, heard),
    "perform": count(perform, agent, state),
    "render": count(render_checked, agent, state, latents),
  }


def measure_ceilings(dtype: str, resident: int) -> Ceilings:
  """The best of several runs. resident: how many bytes to read."""
  buffer = jnp.ones((max(resident, 1 << 22) // 4 // 1024, 1024))
  # A machine's reading rate is whatever some program reaches; which one does depends on the backend.
  readers = {
    lambda x: jnp.sum(x): 1,
    lambda x: x @ jnp.ones(1024): 1,
    lambda x: jnp.ones(x.shape[0]) @ x: 1,
    lambda x: x + 1: 2,
  }
  read = max(traffic * buffer.nbytes / best_seconds(jax.jit(reader), buffer) for reader, traffic in readers.items())
  return Ceilings(product_rate(dtype), read, buffer.nbytes)


def _time_phases(engine: Engine, user: UserUnit, runs: int) -> tuple[dict[str, list[float]], dict[str, float]]:
  """Milliseconds of every phase in `runs` units of a session after the warm-up, and the seconds that the first unit
  took beyond that, which it was compiled in."""
  first, *units = [engine.step(MediaUnit(user.video, user.audio)).times for _ in range(1 + WARM_UP_UNITS + runs)]
  times = {phase: [unit[phase] for unit in units[WARM_UP_UNITS:]] for phase in PHASES}
  return times, {phase: (first[phase] - float(np.median(times[phase]))) / 1000 for phase in PHASES}


def _time_step(engine: Engine, user: UserUnit, runs: int) -> tuple[list[float], float]:
  """Milliseconds of the unit as one program, after the warm-up, and the seconds that it took to compile.

  The engine's session is used up.
  """
  engine.settle()
  state, users = join_state(engine.states, engine.decoders), jax.tree.map(lambda x: np.asarray(x)[None], user)
  weights, times = jax.tree.leaves(engine.agent), []
  seconds, step = timed(lambda: engine.phases.step.lower(weights, state, users).compile())
  for _ in range(WARM_UP_UNITS + runs):
    milliseconds, (_, state) = timed(lambda: to_host(step(weights, state, users)))  # noqa: B023
    times.append(milliseconds)
  return times[WARM_UP_UNITS:], seconds / 1000


def _statistics(times: list[float]) -> dict[str, float]:
  median, p95, p99 = np.percentile(times, (50, 95, 99))
  return {"median_ms": float(median), "p95_ms": float(p95), "p99_ms": float(p99)}


def nbytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # of arrays or their shapes


def sizes(agent: Agent, state: SessionState) -> dict[str, Any]:
  """What was run."""
  config = agent.config
  layout = build_layout(config)
  return {
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(agent)),
    "weights_mb": nbytes(agent) / 1e6,
    "width": config.model.width,
    "layers": config.model.layers,
    "picture": [config.media.height, config.media.width],
    "committed_tokens": layout.tokens(*CLEAN_PHASES),
    "performed_tokens": layout.tokens(REFEED, PERFORM),
    "cache_tokens": state.cache.coords.unit.shape[0],
    "cache_mb": nbytes(state.cache) / 1e6,
    "text_slots": config.layout.text_slots,
    "solver_steps": config.flow.steps,
    "commit_delay": config.layout.commit_delay,
    "unit_ms": config.media.unit_ms,
    "codec_delay_ms": 1000 * config.audio_codec.delay / config.media.sample_rate,
  }


def report_lines(result: dict[str, Any]) -> list[str]:
  """The result as a page of text."""
  size, host, ceilings, step = result["sizes"], result["machine"], result["ceilings"], result["step"]
  load = "" if host["load"] is None else f", load {host['load']:.1f}"
  lines = [
    f"{result['config']}: {size['parameters'] / 1e6:.1f} M parameters, width {size['width']}, {size['layers']} layers, "
    f"{result['dtype']}, frames {size['picture'][0]}x{size['picture'][1]}",
    f"a unit: {size['committed_tokens']} tokens committed, {size['performed_tokens']} performed in "
    f"{size['solver_steps']} solver steps, {size['text_slots']} text slots; cache {size['cache_tokens']} tokens, "
    f"{size['cache_mb']:.1f} MB",
    f"on {host['device']} ({host['platform']}), {host['cores']} cores{load}, jax {host['jax']}",
    f"ceilings: {ceilings['gflops']:.0f} GFLOP/s (matrix product), {ceilings['gbytes']:.1f} GB/s "
    f"(reading {ceilings['buffer_mb']:.0f} MB)",
    "",
    f"{'ms':10}{'median':>9}{'p95':>9}{'p99':>9}{'floor':>9}{'x floor':>9}{'GFLOP':>9}{'MB':>9}{'compile s':>11}",
  ]
  for name, row in [*result["phases"].items(), ("step", step)]:
    lines.append(
      f"{name:10}{row['median_ms']:9.2f}{row['p95_ms']:9.2f}{row['p99_ms']:9.2f}{row['floor_ms']:9.2f}"
      f"{row['median_ms'] / row['floor_ms']:9.1f}{row['gflop']:9.2f}{row['megabytes']:9.1f}{row['compile_s']:11.1f}"
    )
  return [*lines, "", *verdict(result)]


def verdict(result: dict[str, Any]) -> list[str]:
  """Latency and the throughput conditions, apart (design section 7)."""
  unit, step, split = result["sizes"]["unit_ms"], result["step"]["p95_ms"], result["split"]
  holds = lambda needed: "holds" if needed < unit else "too slow"
  late = result["sizes"]["codec_delay_ms"]
  codec = f" + {late:g} of the audio codec" if late else ""
  return [
    f"latency: p95 {result['latency']['p95_ms']:.1f} ms from a whole unit of the user to the answer on the host "
    f"({result['runs']} units), {' + '.join(AFTER_THE_USER)}{codec}",
    f"throughput on this device: the whole step, p95 {step:.1f} of {unit} ms a unit: {holds(step)}",
    f"throughput on two (one thinks, one performs; their exchange is not measured here): {split['rule']} p95 "
    f"{split['p95_ms']:.1f} ms: {holds(split['p95_ms'])}",
  ]


def split_throughput(times: dict[str, list[float]], commit_delay: int) -> dict[str, Any]:
  """What must fit into a unit when thinker and performer have a device each: percentiles over the same units."""
  units = list(zip(times["commit"], times["think"], times["perform"]))
  if commit_delay == 1:  # the thinker waits for the latents that it commits
    return {"rule": "commit + think + perform", **_statistics([sum(unit) for unit in units])}
  return {"rule": "max(commit + think, perform)", **_statistics([max(c + t, p) for c, t, p in units])}


def bench_step_command(config: Config, runs: int, as_json: bool) -> None:
  """Prints one or the other."""
  result = bench_step(config, runs)
  print(json.dumps(result, indent=2) if as_json else "\n".join(report_lines(result)))
