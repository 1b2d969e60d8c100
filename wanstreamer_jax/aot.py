"""Compiles the real programs for TPUs on a machine without any, and tells what they would need.

libtpu (the extra `aot`) holds the TPU compiler; jax hands it a topology such as v5e:2x2 instead of devices. It says
"compiles and fits", not "fast" or "right": for those, `bench` on the machine itself.
"""

import functools
import importlib.util
import json
import math
import os
import pathlib
import re
import tempfile
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from wanstreamer_jax import rollout
from wanstreamer_jax.config import Config
from wanstreamer_jax.cost import Cost, count
from wanstreamer_jax.crops import FIELDS
from wanstreamer_jax.data.loader import CARRIED, LATENTS, PREVIOUS
from wanstreamer_jax.data.records import session_dtype, unit_dtype
from wanstreamer_jax.errors import ConfigError, UserError
from wanstreamer_jax.model.kernels import two_copy_pattern
from wanstreamer_jax.model.streamer import World
from wanstreamer_jax.nn.splash import kernel_flops
from wanstreamer_jax.parallel.collectives import collectives
from wanstreamer_jax.parallel.mesh import BATCH_AXES, check_batch, make_mesh
from wanstreamer_jax.rollout import Agent, UserUnit
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import compile_step, state_shardings, train_step
from wanstreamer_jax.units import CLEAN_PHASES, EPHEMERAL_PHASES, build_layout

GIB = 1 << 30


class Chip(NamedTuple):
  """One device as jax counts them (half a chip on v4 and v7x)."""

  hbm: float  # bytes that the compiler may use: what it says when a program does not fit
  flops: float  # per second in bfloat16, from cloud.google.com/tpu/docs


MOST_CHIPS = 16_384
CHIPS = {  # by jax's device_kind
  "TPU v4": Chip(15.25 * GIB, 137.5e12),
  "TPU v5 lite": Chip(15.75 * GIB, 197e12),
  "TPU v5": Chip(95.73 * GIB, 459e12),
  "TPU v6 lite": Chip(31.24 * GIB, 918e12),
  "TPU7x": Chip(94.74 * GIB, 1153e12),
}


class Program(NamedTuple):
  """A jitted function and what it is compiled for. parts: bytes per chip of arguments; flops: by hand, all chips."""

  title: str
  function: Any
  arguments: tuple[Any, ...]
  parts: dict[str, int]
  flops: dict[str, float]
  mesh: Mesh


def topology_devices(name: str) -> list[jax.Device]:
  """The devices of a topology such as v5e:2x2. Raises UserError without libtpu, ConfigError for an unknown name."""
  chips = [int(side) for side in re.findall(r"\d+", name.partition(":")[2])]
  if not re.fullmatch(r"[a-z0-9]+:\d+x\d+(x\d+)?", name) or not 0 < math.prod(chips) <= MOST_CHIPS:
    raise ConfigError(
      f"topology {name!r} is not one that libtpu knows: expected a name like v5e:2x2, v5p:2x2x1 or v6e:16x16, of 1 to "
      f"{MOST_CHIPS} chips"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise UserError("aot needs libtpu, the TPU compiler, which is not installed: pip install 'wanstreamer-jax[aot]'")
  # Without these libtpu asks the cloud's metadata server who it is, and complains about every answer it does not get.
  quiet = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nobody owns a chip here, so two compilers may run at once
  }  # fmt: skip
  for variable, value in quiet.items():
    os.environ.setdefault(variable, value)
  from jax.experimental import topologies

  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
  except jax.errors.JaxRuntimeError as error:
    reason = " ".join(str(error).split())[:200]
    raise ConfigError(
      f"topology {name!r} is not one that libtpu knows ({reason}); examples: v5e:2x2, v5p:2x2x1, v6e:2x4, v6e:16x16"
    ) from error


def train_program(config: Config, devices: list[jax.Device]) -> Program:
  """The duplex training step on a mesh over all chips: `train.mesh`, or everything on `fsdp` where that is empty."""
  if config.train.stage != "duplex":
    raise ConfigError(f"train.stage is {config.train.stage!r}: aot compiles the duplex stage only")
  mesh = make_mesh(config.train.mesh or f"fsdp={len(devices)}", devices)
  if mesh.size != len(devices):
    raise ConfigError(
      f"train.mesh {config.train.mesh!r} uses {mesh.size} of the topology's {len(devices)} chips: use all of them"
    )
  check_batch(config.data.batch, mesh)
  stage = get_stage("duplex")
  with jax.set_mesh(mesh):
    state, shardings = state_shardings(stage, config, mesh)
    batch = duplex_batch(config)
    cost = count(functools.partial(train_step, stage, config), state, batch)
    function = compile_step(stage, config, mesh)
  axes = ",".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1) or "one chip"
  title = (
    f"training step, mesh {axes}, batch {config.data.batch} x {config.data.units} units "
    f"({crop_tokens(config)} tokens a row), {config.model.attention} attention, remat {config.model.remat}"
  )
  rows = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
  local = jax.tree.map(lambda leaf, place: _nbytes(leaf, place.shard_shape(leaf.shape)), state, shardings)
  parts = {"state": sum(jax.tree.leaves(local)), "batch": sum(map(_nbytes, batch.values())) // rows}
  flops = {"products": cost.flops, "attention kernels": attention_flops(config, cost, mesh)}
  return Program(title, function, (state, batch), parts, flops, mesh)


def attention_flops(config: Config, cost: Cost, mesh: Mesh) -> float:
  """FLOPs of the splash kernels that a training step calls, over all chips; `cost` counts every chip's calls."""
  if not cost.kernels:
    return 0.0
  model, tensor = config.model, mesh.shape["tensor"]
  rows = config.data.batch // int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
  heads = model.heads // tensor if model.kv_heads % tensor == 0 else model.heads
  twice = 1 if config.layout.window is None else 2  # see_two_copies_splash
  pattern = two_copy_pattern(build_layout(config), config.data.units)
  of_one = lambda name: kernel_flops(name, pattern, heads, (twice * model.head_dim, model.head_dim))
  return sum(rows * cost.kernels.count(name) * of_one(name) for name in set(cost.kernels))


def _nbytes(leaf: Any, shape: tuple[int, ...] | None = None) -> int:
  return int(np.prod(leaf.shape if shape is None else shape)) * leaf.dtype.itemsize


def crop_tokens(config: Config) -> int:
  """Tokens of one crop in the training pass."""
  layout = build_layout(config)
  return layout.world_tokens + config.data.units * layout.tokens(*CLEAN_PHASES, *EPHEMERAL_PHASES)


def duplex_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of what the loader reads from a folder of latents for one global batch (`data/loader.py`)."""
  rows, units = config.data.batch, config.data.units
  latents = {
    "agent_video_latent": (config.latent_height, config.latent_width, config.video_vae.latent_dim),
    "agent_audio_latent": (config.audio_latents, config.audio_vae.latent_dim),
  }
  empty = jax.eval_shape(lambda: World.empty(config))
  fields: dict[str, tuple[tuple[int, ...], Any]] = {
    "session": ((), np.int32),
    "start": ((), np.int32),
    "portrait_latent": (empty.portrait.shape, np.float16),
    "voice_latent": (empty.voice.shape, np.float16),
  }
  for name in LATENTS:
    fields[name] = ((units, *latents[name]), np.float16)
  unit, session = unit_dtype(config, ()), session_dtype(config)
  for name in set(FIELDS) - set(LATENTS):
    fields[name] = ((units, *unit[name].shape), unit[name].base)
  for name in CARRIED:
    shape, dtype = fields[name]
    fields[f"previous_{name}"] = ((PREVIOUS, *shape[1:]), dtype)
  for name in session.names or ():
    fields[name] = (session[name].shape, jax.dtypes.canonicalize_dtype(session[name].base))
  return {name: jax.ShapeDtypeStruct((rows, *shape), dtype) for name, (shape, dtype) in fields.items()}


def step_program(config: Config, devices: list[jax.Device]) -> Program:
  """The unit step of one session on one chip, with donated state."""
  agent = jax.eval_shape(lambda: rollout.as_used(Agent(config, rngs=nnx.Rngs(0))))
  capacity = 60_000 // config.media.unit_ms  # a minute, for layouts without a window
  start = lambda agent: rollout.start_session(agent, jax.random.PRNGKey(0), World.empty(config), capacity=capacity)
  state = jax.eval_shape(start, agent)
  user = unit_of_user(config)

  def step(agent: Agent, state: rollout.SessionState, user: UserUnit) -> Any:
    state, spoken = rollout.step_unit(agent, state, user)
    return state, spoken._replace(trace={})

  size = lambda tree: sum(map(_nbytes, jax.tree.leaves(tree)))
  title = (
    f"unit step of one session on one chip, {config.flow.steps} solver steps, "
    f"cache of {state.cache.coords.unit.shape[0]} tokens"
  )
  parts = {"weights": size(agent), "cache": size(state.cache)}
  arguments = (agent, state, user)
  flops = {"products": count(step, *arguments).flops}
  return Program(title, jax.jit(step, donate_argnums=1), arguments, parts, flops, make_mesh("data=1", devices[:1]))


def unit_of_user(config: Config) -> UserUnit:
  """The shapes of what a user does in one unit."""
  media, like = config.media, jax.ShapeDtypeStruct
  yes = like((), np.bool_)
  video = like((media.frames, media.height, media.width, 3), np.float32)
  text = like((config.layout.user_text_slots,), np.int32)
  return UserUnit(like((media.samples,), np.float32), video, text, yes, yes)


PROGRAMS = {"train": train_program, "step": step_program}


def compile_for(config: Config, topology: str, what: str) -> dict[str, Any]:
  """Compiles one of PROGRAMS. Returns plain values, ready for JSON: bytes and FLOPs.

  Raises UserError without libtpu; ConfigError for an unknown topology, a mesh or batch that does not fit it, and for a
  program that needs more memory than a chip has.
  """
  devices = topology_devices(topology)
  program = PROGRAMS[what](config, devices)
  kind = devices[0].device_kind
  begin = time.perf_counter()
  try:
    compiled, text = compile_and_dump(program)
  except jax.errors.JaxRuntimeError as error:
    raise _explained(error, f"{config.name}: {program.title} for {topology}") from error
  memory, chip = compiled.memory_analysis(), CHIPS.get(kind)
  counted = compiled.cost_analysis() or {}
  return {
    "config": config.name,
    "topology": topology,
    "device": kind,
    "devices": len(devices),
    "used": program.mesh.size,
    "program": program.title,
    "dtype": config.model.dtype,
    "compile_s": time.perf_counter() - begin,
    "memory": {
      "arguments": memory.argument_size_in_bytes,
      **{f"arguments: {name}": size for name, size in program.parts.items()},
      "results not in the arguments' place": memory.output_size_in_bytes - memory.alias_size_in_bytes,
      "temporary": memory.temp_size_in_bytes,
      "program": memory.generated_code_size_in_bytes,
      "peak": memory.peak_memory_in_bytes,
    },
    "hbm": chip.hbm if chip else None,
    "flops": program.flops,
    "flops_compiler": counted.get("flops"),
    "chip_flops": chip.flops if chip else None,
    "collectives": {kind: vars(traffic) for kind, traffic in collectives(text).items()},
  }


def compile_and_dump(program: Program) -> tuple[Any, str]:
  """(the compiled program, its HLO text as the TPU compiler writes it: jax cannot read all of its operations)."""
  with tempfile.TemporaryDirectory() as folder, jax.set_mesh(program.mesh):
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    compiled = program.function.lower(*program.arguments).compile(compiler_options=options)
    texts = [file.read_text() for file in pathlib.Path(folder).glob("*.after_optimizations.txt")]
  return compiled, max(texts, key=len, default="")


def _explained(error: Exception, what: str) -> Exception:
  """A program that is too large is the user's business; everything else is a defect and stays what it is."""
  found = re.search(r"required for [^(]*\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", str(error))
  if not found:
    found = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", str(error))
  if not found:
    return error
  return ConfigError(
    f"{what} needs {found[1]} of a chip's {found[2]}: use more chips, model.remat=full, shorter data.units, "
    "a smaller data.batch or a narrower layout.window"
  )


def report_lines(result: dict[str, Any]) -> list[str]:
  """The result as one table."""
  memory, flops, hbm = result["memory"], sum(result["flops"].values()), result["hbm"]
  lines = [
    f"{result['config']}: {result['program']}, {result['dtype']}",
    f"for {result['topology']}: {result['used']} of {result['devices']} x {result['device']}, "
    f"compiled in {result['compile_s']:.0f} s",
    "",
    "memory per chip, GiB",
    *(f"  {name:36}{size / GIB:10.3f}" for name, size in memory.items()),
  ]
  if hbm:
    verdict = "fits" if memory["peak"] <= hbm else "DOES NOT FIT"
    lines.append(f"  {'of HBM':36}{hbm / GIB:10.3f}   {memory['peak'] / hbm:.0%}: {verdict}")
  lines += ["", "TFLOP of one run, all chips"]
  lines += [f"  {'by hand: ' + name:36}{value / 1e12:10.3f}" for name, value in result["flops"].items() if value]
  if result["flops_compiler"] is not None:
    lines.append(f"  {'by the compiler, one chip':36}{result['flops_compiler'] / 1e12:10.3f}   (each loop once)")
  if result["chip_flops"]:
    seconds = flops / result["used"] / result["chip_flops"]
    lines.append(f"  {'seconds at the chips' + chr(39) + ' full bf16 rate':36}{seconds:10.4f}   (the products' floor)")
  lines += ["", f"{'collectives of one run, per chip':38}{'count':>10}{'GB':>10}"]
  rows = [f"  {kind:36}{row['count']:10d}{row['bytes'] / 1e9:10.3f}" for kind, row in result["collectives"].items()]
  return lines + (rows or ["  none"])


def aot_command(config: Config, topology: str, what: str, as_json: bool) -> None:
  """Compiles and prints."""
  result = compile_for(config, topology, what)
  print(json.dumps(result, indent=2) if as_json else "\n".join(report_lines(result)))
