"""Compiles the real programs for TPUs on a machine without any; reports what they need.

libtpu (the extra `aot`) contains the TPU compiler; jax gives it a topology such as v5e:2x2 instead of devices. The
result shows that a program compiles and fits, and how fast it could be at best. It does not show that the program is
fast or right: for that, run `bench` and the tests on the machine itself.
"""

import functools
import importlib.util
import math
import os
import pathlib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from wanstreamer_jax import rollout
from wanstreamer_jax.aot import hlo
from wanstreamer_jax.aot.collectives import collectives
from wanstreamer_jax.aot.roofline import roofline
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.loader import batch_shapes
from wanstreamer_jax.engine.phases import abstract_states, compile_phases
from wanstreamer_jax.errors import ConfigError, UserError
from wanstreamer_jax.model.attention_tpu import two_copy_pattern, widened
from wanstreamer_jax.nn.attention_splash import kernel_flops
from wanstreamer_jax.parallel.cost import Cost, count
from wanstreamer_jax.parallel.machine import CHIPS
from wanstreamer_jax.parallel.mesh import check_batch, count_slices, make_mesh, rows_over
from wanstreamer_jax.rollout import Agent, UserUnit
from wanstreamer_jax.train.duplex import crop_tokens, keeps_all, noisy_units
from wanstreamer_jax.train.flops import model_flops
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import compile_step, state_shardings, train_step
from wanstreamer_jax.units import build_layout

MAX_CHIPS = 16_384
SENSES, DECODERS = "of these to hear and see", "of these to speak and draw"


class ProgramPlan(NamedTuple):
  """A jitted function and what it is compiled for.

  parts: bytes of arguments per chip. flops: what all chips compute, counted from the traced program. useful: what the
  model needs of that, without recomputation and masked keys. amount: what one run processes, e.g. tokens. advice: what
  to change if it does not fit.
  """

  title: str
  function: Any
  arguments: tuple[Any, ...]
  parts: dict[str, int]
  flops: dict[str, float]
  useful: float
  amount: dict[str, int]
  mesh: Mesh
  advice: str


def topology_devices(name: str, slices: int = 1) -> list[jax.Device]:
  """The devices of `slices` times a topology such as v5e:2x2. Raises UserError without libtpu, ConfigError for an
  unknown name."""
  chips = [int(side) for side in re.findall(r"\d+", name.partition(":")[2])]
  if not re.fullmatch(r"[a-z0-9]+:\d+x\d+(x\d+)?", name) or not 0 < math.prod(chips) <= MAX_CHIPS:
    raise ConfigError(
      f"topology {name!r} is not one that libtpu knows: expected a name like v5e:2x2, v5p:2x2x1 or v6e:16x16, of 1 to "
      f"{MAX_CHIPS} chips"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise UserError("aot needs libtpu, the TPU compiler, which is not installed: pip install 'wanstreamer-jax[aot]'")
  # Otherwise libtpu asks the cloud's metadata server what it runs on, and logs every answer that it does not get.
  quiet = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is in use here, so several compilers may run at once
  }  # fmt: skip
  for variable, value in quiet.items():
    os.environ.setdefault(variable, value)
  from jax.experimental import topologies

  host = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(chips) == 1 else {}  # of four chips otherwise
  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices, **host).devices)
  except jax.errors.JaxRuntimeError as error:
    reason = " ".join(str(error).split())[:200]
    raise ConfigError(
      f"topology {name!r} is not one that libtpu knows ({reason}); examples: v5e:2x2, v5p:2x2x1, v6e:2x4, v6e:16x16"
    ) from error


def train_program(config: Config, devices: list[jax.Device]) -> ProgramPlan:
  """The duplex training step on a mesh over all chips: `train.mesh`, or `fsdp` inside slices where that is empty."""
  if config.train.stage != "duplex":
    raise ConfigError(f"train.stage is {config.train.stage!r}: aot compiles the duplex stage only")
  slices = count_slices(devices)
  mesh = make_mesh(config.train.mesh or f"data={slices},fsdp={len(devices) // slices}", devices)
  if mesh.size != len(devices):
    raise ConfigError(
      f"train.mesh {config.train.mesh!r} uses {mesh.size} of the topology's {len(devices)} chips: use all of them"
    )
  check_batch(config.data.batch, mesh)
  stage = get_stage("duplex")
  with jax.set_mesh(mesh):
    state, shardings = state_shardings(stage, config, mesh)
    batch = batch_shapes(config)
    cost = count(functools.partial(train_step, stage, config), state, batch)
    function = compile_step(stage, config, mesh)
    useful = model_flops(stage, config, batch)
  axes = ",".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1) or "one chip"
  rows, tokens = config.data.batch, crop_tokens(config)
  title = (
    f"training step, mesh {axes}, batch {rows} x {config.data.units} units ({tokens} tokens a row), "
    f"{config.model.attention} attention, remat {config.model.remat}"
  )
  local = jax.tree.map(lambda leaf, place: _nbytes(leaf, place.shard_shape(leaf.shape)), state, shardings)
  of = lambda tree: sum(jax.tree.leaves(tree))
  shards = rows_over(mesh)
  parts = {
    "weights": of(local.params),
    "optimiser": of(local.optimizer),
    "average of weights": of(local.ema),
    "batch": sum(map(_nbytes, batch)) // shards,
  }
  flops = {"products": cost.flops, "attention kernels": attention_kernel_flops(config, cost, mesh)}
  amount = {"tokens": rows * tokens, "units": rows * config.data.units}
  return ProgramPlan(title, function, (state, batch), parts, flops, useful, amount, mesh, _train_advice(config, shards))


def _train_advice(config: Config, shards: int) -> str:
  changes = ["more chips", "a larger context in train.mesh", "shorter data.units"]
  if config.model.remat != "full":
    changes.insert(0, "model.remat=full")
  if config.data.batch > shards:
    changes.insert(0, f"data.batch={shards}")
  return ", ".join(changes[:-1]) + " or " + changes[-1]


def attention_kernel_flops(config: Config, cost: Cost, mesh: Mesh) -> float:
  """FLOPs that the splash kernels of a training step compute, masked blocks included, over all chips.

  cost: of the traced step, in which the calls of every chip count. `train.flops.attention_flops` counts what the model
  needs instead.
  """
  if not cost.kernels:
    return 0.0
  model = config.model
  rows = config.data.batch // rows_over(mesh)
  ways = mesh.shape["tensor"] * mesh.shape["context"]
  heads = model.heads // ways if model.heads % ways == 0 else model.heads
  units, layout = config.data.units, build_layout(config)
  twice = 2 if widened(layout, evicts=not keeps_all(config)) else 1
  pattern = two_copy_pattern(layout, units, noisy_units(config, units))
  of_one = lambda name: kernel_flops(name, pattern, heads, (twice * model.head_dim, model.head_dim))
  return sum(rows * cost.kernels.count(name) * of_one(name) for name in set(cost.kernels))


def _nbytes(leaf: Any, shape: tuple[int, ...] | None = None) -> int:
  return int(np.prod(leaf.shape if shape is None else shape)) * leaf.dtype.itemsize


def step_program(config: Config, devices: list[jax.Device]) -> ProgramPlan:
  """The unit step of one session on one chip, as the engine compiles it, with donated state."""
  agent = jax.eval_shape(lambda: rollout.cast_layers_to_compute_dtype(Agent(config, rngs=nnx.Rngs(0))))
  minute = 60_000 // config.media.unit_ms  # of history, for layouts without a window
  weights, treedef = jax.tree.flatten(agent)
  states, function = abstract_states(agent, 1, minute), compile_phases(treedef, 1, minute).step
  users = unit_of_user(config)
  size = lambda tree: sum(map(_nbytes, jax.tree.leaves(tree)))
  title = (
    f"unit step of one session on one chip, {config.flow.steps} solver steps, "
    f"cache of {states.cache.coords.unit.shape[1]} tokens"
  )
  parts = {"weights": size(weights), "cache": size(states.cache)}
  whole = count(function, weights, states, users).flops
  of = lambda scope: whole - count(function, weights, states, users, without=scope).flops
  flops = {"products": whole, SENSES: of("perceive"), DECODERS: of("render")}
  advice = "model.kv_cache=int8, a narrower layout.window or a larger chip"
  amount, mesh = {"units": 1}, make_mesh("data=1", devices[:1])
  arguments = (weights, states, users)
  return ProgramPlan(title, function, arguments, parts, flops, flops["products"], amount, mesh, advice)


def unit_of_user(config: Config) -> UserUnit:
  """The shapes of what one slot's user does in one unit, as it comes from outside."""
  media, like = config.media, jax.ShapeDtypeStruct
  yes = like((1,), np.bool_)
  video = like((1, media.frames, media.height, media.width, 3), np.uint8)
  text = like((1, config.layout.user_text_slots), np.int32)
  return UserUnit(like((1, media.samples), np.float32), video, text, yes, yes)


PROGRAMS = {"train": train_program, "step": step_program}


def compile_for(config: Config, topology: str, what: str, slices: int = 1, plan: bool = False) -> dict[str, Any]:
  """Compiles one of PROGRAMS for `slices` slices. Returns plain values, ready for JSON: bytes, FLOPs and seconds.

  plan: stop when the compiler has planned the memory, see `plan_memory`; otherwise generate code as well.
  Raises UserError without libtpu; ConfigError for an unknown topology, a mesh or batch that does not fit it, and for a
  program that needs more memory than a chip has.
  """
  devices = topology_devices(topology, slices)
  program = PROGRAMS[what](config, devices)
  kind, chips = devices[0].device_kind, program.mesh.size
  begin = time.perf_counter()
  try:
    memory, text = (plan_memory if plan else compile_whole)(program)
  except jax.errors.JaxRuntimeError as error:
    raise _explained(error, f"{config.name}: {program.title} for {topology}", program.advice) from error
  seconds = time.perf_counter() - begin
  chip, compiled = CHIPS.get(kind), hlo.Program(text)
  flops, moved = compiled.product_flops(), compiled.memory_bytes()
  computed = flops + program.flops.get("attention kernels", 0.0) / chips
  bound = roofline(program.mesh, computed, program.useful, moved, collectives(compiled, dict(program.mesh.shape)))
  return {
    "config": config.name,
    "what": what,
    "topology": topology,
    "slices": slices,
    "device": kind,
    "devices": len(devices),
    "used": chips,
    "program": program.title,
    "dtype": config.model.dtype,
    "unit_ms": config.media.unit_ms,
    "amount": program.amount,
    "code": not plan,
    "seconds": seconds,
    "memory": {**program.parts, **memory},
    "hbm": chip.hbm if chip else None,
    "flops": {name: value / chips for name, value in program.flops.items()},
    "flops_compiled": flops,
    "flops_useful": program.useful / chips,
    "hbm_bytes": moved,
    "roofline": bound and {**bound._asdict(), "bound": bound.bound, "seconds": bound.seconds, "serial": bound.serial},
  }


def compile_whole(program: ProgramPlan) -> tuple[dict[str, int], str]:
  """(bytes per chip beside `program.parts`, HLO text that the TPU compiler dumps, since jax cannot parse all of it)."""
  with tempfile.TemporaryDirectory() as folder:
    memory = _compile(program, folder).memory_analysis()
    texts = [file.read_text() for file in pathlib.Path(folder).glob(OPTIMISED)]
  return {
    "other arguments": memory.argument_size_in_bytes - sum(program.parts.values()),
    "results not stored in place": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    "activations and temporary": memory.temp_size_in_bytes,
    "program": memory.generated_code_size_in_bytes,
    "peak": memory.peak_memory_in_bytes,
  }, max(texts, key=len, default="")


OPTIMISED, PLANNED = "*.after_optimizations.txt", "*.after_optimizations-memory-usage-report.txt"


def _compile(program: ProgramPlan, folder: str) -> Any:
  with jax.set_mesh(program.mesh):
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    return program.function.lower(*program.arguments).compile(compiler_options=options)


def plan_memory(program: ProgramPlan) -> tuple[dict[str, int], str]:
  """As `compile_whole`, but returns when the compiler has optimised the program and assigned all arrays to HBM, or has
  reported that they do not fit. Generating the code takes ten times as long and changes neither.

  The compiler cannot be stopped. It goes on in a thread, so the caller must end the process with `os._exit`.
  """
  folder = tempfile.mkdtemp()
  try:
    raised: list[Exception] = []
    thread = threading.Thread(target=_keep_error, args=(raised, _compile, program, folder), daemon=True)
    thread.start()
    while thread.is_alive() and not _written(folder):
      time.sleep(0.5)
    if raised:
      raise raised[0]
    of = lambda pattern: max((file.read_text() for file in pathlib.Path(folder).glob(pattern)), key=len)
    text, report = of(OPTIMISED), of(PLANNED)
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  total = re.search(r"\(color=0\)\nTotal bytes: (\d+)", report)
  peak = int(total[1]) if total else 0
  return {"activations and everything else": peak - sum(program.parts.values()), "peak": peak}, text


def _keep_error(raised: list[Exception], function: Callable[..., Any], *args: Any) -> None:
  try:
    function(*args)
  except Exception as error:
    raised.append(error)


def _written(folder: str) -> bool:
  """Whether the compiler has dumped the memory plan of the step, the only large program, and written nothing since."""
  files = [file for file in pathlib.Path(folder).glob(PLANNED) if file.stat().st_size > 4096]
  return any(time.time() - file.stat().st_mtime > 3 for file in files)


def _explained(error: Exception, what: str, advice: str) -> Exception:
  """A ConfigError for a program that is too large; any other error is a defect and is returned as it is."""
  found = re.search(r"required for [^(]*\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", str(error))
  if not found:
    found = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", str(error))
  if not found:
    return error
  return ConfigError(f"{what} needs {found[1]} of a chip's {found[2]}: use {advice}")
