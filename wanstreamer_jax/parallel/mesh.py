"""The device mesh and the few helpers that use it. On one device everything here has no effect.

Axes, outermost first, which is on the slowest links:
  data     sessions, parameters replicated
  fsdp     sessions too, parameters and optimiser state split
  tensor   heads and MLP columns
  context  tokens of one session
"""

import difflib
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wanstreamer_jax.errors import ConfigError

AXES = ("data", "fsdp", "tensor", "context")
BATCH_AXES = ("data", "fsdp")


def parse_mesh(spec: str) -> dict[str, int]:
  """Axis sizes of "data=2,fsdp=4"; axes that are not named have size 1. Raises ConfigError."""
  sizes = dict.fromkeys(AXES, 1)
  named = set()
  for part in filter(None, (piece.strip() for piece in spec.split(","))):
    name, _, size = (piece.strip() for piece in part.partition("="))
    if name not in sizes:
      near = difflib.get_close_matches(name, AXES, n=1)
      hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(AXES)}"
      raise ConfigError(f"mesh {spec!r}: unknown axis {name!r}{hint}")
    if name in named:
      raise ConfigError(f"mesh {spec!r}: axis {name!r} is given twice")
    if not size.isdecimal() or int(size) < 1:
      raise ConfigError(f"mesh {spec!r}: axis {name!r} needs a positive whole number, as in {name}=2, not {size!r}")
    named.add(name)
    sizes[name] = int(size)
  return sizes


def make_mesh(spec: str = "", devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh with the four axes. Raises ConfigError when it does not fit the devices.

  spec: e.g. "data=2,fsdp=4". Empty puts every device on `data`. A mesh of fewer devices takes the first
    ones, except across hosts, where every device must take part.
  devices: those to use; default all. TPU slices, which only the data centre's network joins, divide `data`.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = parse_mesh(spec) if spec.strip() else {**dict.fromkeys(AXES, 1), "data": len(devices)}
  total = math.prod(sizes.values())
  several_hosts = len({device.process_index for device in devices}) > 1
  if total > len(devices) or (several_hosts and total != len(devices)):
    product = " x ".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "1"
    raise ConfigError(
      f"mesh {spec!r} needs {total} devices ({product}), but there are {len(devices)}; change train.mesh"
    )
  # With automatic axes XLA propagates shardings from parameters, the batch and the few constrained activations.
  automatic = (AxisType.Auto,) * len(AXES)
  slices = count_slices(devices)
  if slices > 1:
    if sizes["data"] % slices:
      raise ConfigError(
        f"mesh {spec!r}: data={sizes['data']} does not divide over {slices} slices, which only `data` may span; set it "
        f"to a multiple of {slices} in train.mesh"
      )
    inside = (sizes["data"] // slices, *(sizes[axis] for axis in AXES[1:]))
    order = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)
  else:  # an axis may take part of a torus dimension, such as 8 of the 16 chips along a side
    shape = tuple(sizes.values())
    order = mesh_utils.create_device_mesh(shape, devices[:total], allow_split_physical_axes=True)
  return Mesh(order, AXES, axis_types=automatic)


def count_slices(devices: Sequence[jax.Device]) -> int:
  """The number of TPU slices that the devices belong to; devices of a single slice have no index."""
  return len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"} or {0})


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the rows (the first axis) over data and fsdp, and no other axis."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def rows_over(mesh: Mesh) -> int:
  """How many devices share the rows of a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(batch: int, mesh: Mesh) -> None:
  """Raises ConfigError unless `batch` rows divide over the devices that share them."""
  shards = rows_over(mesh)
  if batch % shards:
    raise ConfigError(
      f"data.batch is {batch}, which does not divide over data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']} "
      f"= {shards} devices; use a multiple of {shards}, or set train.mesh"
    )


def place_batch(batch: Any, mesh: Mesh) -> Any:
  """Puts this host's rows of a global batch onto the mesh.

  batch: a tree of arrays [rows of this host, ...], which rows `prefetch.host_rows` says, in ascending order; those that
  are on the only device already stay there.
  """
  sharding = batch_sharding(mesh)

  def place(rows: Any) -> jax.Array:
    if isinstance(rows, jax.Array) and mesh.size == 1:
      return jax.device_put(rows, sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(rows))

  return jax.tree.map(place, batch)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Tells XLA the mesh axes of an activation's dimensions. An axis that the mesh lacks, or that does not divide its
  dimension, is left out. It is the identity outside a mesh, on one device, and inside `jax.shard_map`.

  Under `jax.vmap` the batched dimension stays free, so that unbatched modules may call this.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or AxisType.Auto not in mesh.axis_types:
    return x
  spec = [
    axis if axis and size % axis_size(axis) == 0 and axis in mesh.shape else None for axis, size in zip(axes, x.shape)
  ]
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def axis_size(name: str) -> int:
  """Devices along an axis of the current mesh; 1 outside a mesh, or where it has no such axis."""
  return dict(jax.sharding.get_abstract_mesh().shape).get(name, 1)


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
  """Keeps compiled programs on disk, so that a second run starts at once. Returns the folder; None if the cache is off.

  A folder that is already configured (JAX_COMPILATION_CACHE_DIR, or in code) is kept. Otherwise `folder`, or
  $XDG_CACHE_HOME/wanstreamer (~/.cache/wanstreamer). If that cannot be written, the cache is off.
  """
  configured = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if configured:
    return pathlib.Path(configured)
  home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  path = pathlib.Path(folder or home / "wanstreamer").absolute()
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError:
    return None
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  return path
