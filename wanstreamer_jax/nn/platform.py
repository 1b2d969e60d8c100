"""What the program being traced will run on: some kernels exist for one kind of processor only."""

import jax


def platform() -> str:
  """ "cpu", "gpu" or "tpu": of the mesh's devices if there are any, else of the default device. A mesh may be of devices
  that this machine does not have (wanstreamer aot)."""
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  name = jax.default_backend() if device is None else device.platform
  return "gpu" if name in ("cuda", "rocm") else name
