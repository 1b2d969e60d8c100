"""Tells which platform the traced program will run on: some kernels exist for one only."""

import jax
from jax.sharding import AxisType


def platform() -> str:
  """One of "cpu", "gpu" and "tpu": of the mesh's devices if there is one, else of the default device. A mesh may be of
  devices that this machine does not have (wanstreamer aot)."""
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  name = jax.default_backend() if device is None else device.platform
  return "gpu" if name in ("cuda", "rocm") else name


def is_partitioned() -> bool:
  """Whether XLA divides the traced program over the mesh's devices, which is so outside of `jax.shard_map`. It cannot
  divide a kernel."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.size > 1 and AxisType.Manual not in mesh.axis_types
