"""What this machine is, and what it does at best: its name, peak rates and memory."""

import functools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wanstreamer_jax.roofline import CHIPS

# FLOP/s of dense bfloat16 products by jax's device_kind (a kind that starts so), from the makers' data sheets.
PEAKS = {kind: chip.flops for kind, chip in CHIPS.items()} | {
  "TPU v4": 275e12,  # its two cores are one device on the machine itself, though not in a topology
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
  """(FLOP/s of one device for products of `dtype`, where that figure is from: its data sheet, or this process)."""
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
  """Of the fastest call, after one that is not timed."""
  jax.block_until_ready(function(*args))
  return min(timed(function, *args)[0] for _ in range(repeats)) / 1000


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
  """(milliseconds, result)."""
  begin = time.perf_counter()
  result = jax.block_until_ready(function(*args))
  return (time.perf_counter() - begin) * 1000, result


def memory_bytes() -> int | None:
  """The most that this process ever held on one of its devices; None where the device does not say (CPUs)."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  found = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
  return max(found, default=None)


def describe() -> dict[str, Any]:
  """Who answers: device, processor, cores that this process may use, load, versions."""
  device = jax.devices()[0]
  try:
    info = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    processor = next(line.partition(":")[2].strip() for line in info if line.startswith("model name"))
  except (OSError, StopIteration):
    processor = "unknown processor"
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return {
    "platform": device.platform,
    "device": processor if device.platform == "cpu" else device.device_kind,
    "cores": cores,
    "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    "jax": jax.__version__,
  }
