"""This machine and published chips: peak rates, memory, measured speed, names."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wanstreamer_jax.errors import ConfigError

GIB = 1 << 30

# Published figures


class Chip(NamedTuple):
  """One device as jax counts them (half a chip on v4 and TPU7x), from cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}.

  A chip's "bidirectional ICI bandwidth" is that of all its ports in both directions; v4's page gives the pod's
  all-reduce bandwidth instead, 1.1 PB/s of 4096 chips with 6 links. DCN: per chip, or the pod's over 256 chips.
  """

  hbm: float  # bytes that the compiler may use: what it says when a program does not fit
  flops: float  # per second in bfloat16
  bandwidth: float  # of HBM, bytes per second
  link: float  # of one ICI link in one direction, bytes per second
  dcn: float  # bytes per second and device, in one direction; 0 where it is not published
  sides: int  # dimensions of the torus
  cores: int = 1  # devices that share a chip's links


CHIPS = {  # by jax's device_kind
  "TPU v4": Chip(15.25 * GIB, 137.5e12, 600e9, 44.8e9, 0.0, 3, 2),
  "TPU v5 lite": Chip(15.75 * GIB, 197e12, 819e9, 400e9 / 4 / 2, 25e9 / 8, 2),
  "TPU v5": Chip(95.73 * GIB, 459e12, 2765e9, 1200e9 / 6 / 2, 50e9 / 8, 3),
  "TPU v6 lite": Chip(31.24 * GIB, 918e12, 1638e9, 800e9 / 4 / 2, 100e9 / 8, 2),
  "TPU7x": Chip(94.74 * GIB, 1153.5e12, 3690e9, 1200e9 / 6 / 2, 100e9 / 8 / 2, 3, 2),
}


# FLOP/s of dense bfloat16 products by the beginning of jax's device_kind, from the makers' data sheets.
PEAKS = {kind: chip.flops for kind, chip in CHIPS.items()} | {
  "TPU v4": 275e12,  # on the machine itself its two cores are one device, in a topology they are two
  "NVIDIA A100": 312e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA GH200": 989e12,
  "NVIDIA B200": 2250e12,
  "NVIDIA L4": 121e12,
  "NVIDIA L40S": 362e12,
}


def peak_flops(dtype: str) -> tuple[float, str]:
  """(FLOP/s of one device for products of `dtype`, "data sheet" or "measured" in this process)."""
  kind = jax.devices()[0].device_kind
  known = [name for name in PEAKS if kind.startswith(name)]
  if known and dtype == "bfloat16":
    return PEAKS[max(known, key=len)], "data sheet"
  return product_rate(dtype), "measured"


@functools.cache
def product_rate(dtype: str) -> float:
  """FLOP/s of the default device in a large matrix product: the best of several runs."""
  side = 1536 if jax.default_backend() == "cpu" else 8192
  square = jnp.ones((side, side), dtype)
  product = jax.jit(lambda a: jax.lax.dot(a, a, preferred_element_type=jnp.float32))
  return 2 * side**3 / best_seconds(product, square)


def best_seconds(function: Callable[..., Any], *args: Any, repeats: int = 7) -> float:
  """Seconds of the fastest of `repeats` calls, after one that is not timed."""
  jax.block_until_ready(function(*args))
  return min(timed(function, *args)[0] for _ in range(repeats)) / 1000


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
  """(milliseconds that the call took until its result was there, the result)."""
  begin = time.perf_counter()
  result = jax.block_until_ready(function(*args))
  return (time.perf_counter() - begin) * 1000, result


# Memory


def memory_bytes() -> int | None:
  """The peak memory of this process on one of its devices, in bytes; None where devices do not report it (CPUs)."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  found = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
  return max(found, default=None)


def check_memory(slots: int, needed: int) -> None:
  """Raises ConfigError when the states of all slots, `needed` bytes, do not fit into the first device's free memory."""
  stats = jax.devices()[0].memory_stats()
  free = stats["bytes_limit"] - stats["bytes_in_use"] if stats else memory_left()
  if needed > free:
    raise ConfigError(
      f"the states of {slots} session{'s' if slots > 1 else ''} may grow to {needed / GIB:.1f} GiB, but only "
      f"{free / GIB:.1f} GiB are free: use fewer --slots, --kv int8, a layout.window, or a shorter --longest"
    )


def memory_left() -> int:
  """Bytes of this machine's memory that programs may still take (Linux; elsewhere all of it)."""
  try:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
  except (OSError, StopIteration):
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# Identity


def describe() -> dict[str, Any]:
  """What ran a measurement: platform, device or processor, cores that this process may use, load, version of jax."""
  device = jax.devices()[0]
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return {
    "platform": device.platform,
    "device": processor_name() if device.platform == "cpu" else device.device_kind,
    "cores": cores,
    "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    "jax": jax.__version__,
  }


def processor_name() -> str:
  """The processor's model name (Linux; elsewhere "unknown processor")."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
  except (OSError, StopIteration):
    return "unknown processor"
