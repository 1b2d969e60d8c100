"""Sets the XLA flag that two versions of jaxlib need on CPUs. The package sets it when it is imported: XLA reads
XLA_FLAGS once, when jax starts its first backend.

jaxlib 0.10.2 and 0.11.0 on Linux x86-64 hand products and sums of rank 7 or more to YNNPACK, but its transpose
supports fewer axes: it crashes (SIGSEGV) on processors without AVX-512 and hangs on others (jax-ml/jax#39257, #40412).
0.10.1 does not hand them over; 0.11.1 supports the rank.
"""

import logging
import os
import sys

FLAG = "--xla_cpu_experimental_ynn_fusion_type"  # empty: nothing is handed over
FAULTY = ("0.10.2", "0.11.0")  # both know FLAG; a flag that XLA does not know would abort the process

log = logging.getLogger("wanstreamer")


def avoid_ynn_crash() -> None:
  """Adds FLAG to XLA_FLAGS if jaxlib is faulty, unless XLA_FLAGS names FLAG already. Logs what it did, or why it could
  do nothing."""
  flags = os.environ.get("XLA_FLAGS", "").strip()
  if FLAG in flags:
    return
  version = jaxlib_version()
  if not is_faulty(version):
    return
  fault = f"jaxlib {version} may crash on CPUs (jax-ml/jax#39257)"
  if backend_exists():
    log.warning(f"{fault}, and jax has already read XLA_FLAGS: import wanstreamer_jax first, or set XLA_FLAGS={FLAG}=")
  elif flags and not flags.startswith("-"):
    log.warning(f"{fault}: add {FLAG}= to {flags}, the file that XLA_FLAGS names")
  else:
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=".strip()
    log.info(f"{fault}: added {FLAG}= to XLA_FLAGS")


def is_faulty(version: str | None) -> bool:
  """Whether this version of jaxlib crashes on machines such as this one."""
  return version in FAULTY and sys.platform == "linux" and os.uname().machine == "x86_64"


def jaxlib_version() -> str | None:
  """Of the installed jaxlib, without importing it; None if there is none."""
  import importlib.metadata  # 20 ms, which are not needed where XLA_FLAGS names FLAG

  try:
    return importlib.metadata.version("jaxlib")
  except importlib.metadata.PackageNotFoundError:
    return None


def backend_exists() -> bool:
  """Whether jax has started a backend. Does not import jax."""
  bridge = sys.modules.get("jax._src.xla_bridge")
  return bridge is not None and bridge.backends_are_initialized()
