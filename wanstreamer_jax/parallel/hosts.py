"""Several processes as one job: they join, agree, and end when one of them is lost.

There is one process per host, and all run the same command. Where jax recognises the environment (Cloud TPU, GKE,
Slurm, Open MPI, Kubernetes with the `kubernetes` package) no flags are needed; elsewhere pass `--coordinator HOST:PORT
--processes N --process I`. In a job of one process everything here is the identity.

A process that fails states its reason, and all processes end with its message and status (parallel/exit_reason.py). A
process that is lost is detected in one of two ways. Its connections break, so that a collective fails in the others:
`peers_watched` turns that into one line. Or it only falls silent (a power failure): after `heartbeat` seconds jax ends
the others itself (SIGABRT, "another task died"). Either way the job ends, and its launcher starts it again.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from wanstreamer_jax.errors import ConfigError, LostHostError, Stopped, UserError
from wanstreamer_jax.parallel import exit_reason
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.parallel.rules import param_shardings

HEARTBEAT = 100  # seconds of silence after which a process counts as lost; jax's own default
START = 300  # seconds that processes wait for each other at the start; jax's own default
SIGNS = (  # variables that launchers of several processes set and that jax.distributed.initialize() understands
  "JAX_COORDINATOR_ADDRESS", "MEGASCALE_COORDINATOR_ADDRESS", "SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri",
  "JOB_COMPLETION_INDEX",
)  # fmt: skip
BROKEN = re.compile(  # what jax reports when a process is missing from a collective or from the coordination service
  r"Gloo [\w -]+ failed: .*(connect|timed? ?out|broken pipe)|"
  r"(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE): .*RPC: /[\w.]*CoordinationService/|"
  r"stopped sending heartbeats|ncclRemoteError|remote process exited",
  re.IGNORECASE | re.DOTALL,
)  # and nothing wider: object stores also close connections, and a defect must be reported as a defect


@contextlib.contextmanager
def joined(
  coordinator: str | None = None, processes: int | None = None, process: int | None = None, heartbeat: int = HEARTBEAT
) -> Iterator[None]:
  """Takes part in a job for the length of the block; see `join`. At a regular end the processes wait for each other."""
  join(coordinator, processes, process, heartbeat)
  try:
    with exit_reason.listening():
      yield
  except Stopped:
    _part()
    raise
  _part()


def _part() -> None:
  if jax.distributed.is_initialized():
    jax.distributed.shutdown()


def join(
  coordinator: str | None = None, processes: int | None = None, process: int | None = None, heartbeat: int = HEARTBEAT
) -> None:
  """Joins the job that the flags or the environment describe; call it before anything else of jax.

  coordinator: HOST:PORT of process 0, where it will listen. process: 0 ... processes - 1.
  Raises ConfigError for flags that do not fit together, LostHostError when the processes do not find each other.
  """
  named = [sign for sign in SIGNS if sign in os.environ]
  given = [value is not None for value in (coordinator, processes, process)]
  if any(given) and not all(given):
    raise ConfigError("--coordinator, --processes and --process belong together: give all three, or none")
  if coordinator is not None and processes is not None and process is not None:
    if not 0 <= process < processes:
      raise ConfigError(f"--process is {process}: expected 0 to {processes - 1} with --processes {processes}")
    if not re.fullmatch(r"\S+:\d+", coordinator):
      raise ConfigError(f"--coordinator is {coordinator!r}: expected HOST:PORT of process 0, as in 10.0.0.2:8476")
    if processes == 1:
      return
    method: str | None = "deactivate"
  elif named or _on_tpu():
    method = None
  else:
    return
  try:
    with warnings.catch_warnings(action="ignore"):  # about packages for environments other than this one
      jax.distributed.initialize(
        coordinator, processes, process, local_device_ids=_devices_of_one_task(), cluster_detection_method=method,
        initialization_timeout=START, heartbeat_timeout_seconds=heartbeat, shutdown_timeout_seconds=heartbeat,
      )  # fmt: skip
  except Exception as error:
    alone = isinstance(error, ValueError) and "should be defined" in str(error)
    if alone and not named:
      return  # a TPU host by itself
    if alone:
      raise ConfigError(
        f"{named[0]} says that this is one of several processes, but jax cannot tell which: give --coordinator, "
        "--processes and --process (in Kubernetes, or install the package `kubernetes`)"
      ) from error
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    whom = f"process {process} of {processes} at {coordinator}" if method else "the job that the environment describes"
    raise LostHostError(f"could not join the job ({whom}): {reason}; check that every process was started") from error


def _on_tpu() -> bool:
  """Whether this is a host of a Cloud TPU, whose metadata tells whether there are others."""
  return bool(find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")))


def _devices_of_one_task() -> list[int] | None:
  """All GPUs of the node, where Slurm runs one task on it. By default jax would take only one GPU for each task."""
  tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
  if "JAX_LOCAL_DEVICE_IDS" in os.environ or not re.fullmatch(r"1(\(x\d+\))?", tasks):
    return None
  visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join("x" * int(os.environ.get("SLURM_GPUS_ON_NODE", 0)))
  return list(range(len(visible.split(",")))) if visible else None


def several() -> bool:
  """Whether this job has more than one process."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Whether this is the process that writes the files of which there is one."""
  return jax.process_index() == 0


def from_first(value: int) -> int:
  """The first process's value, for all of them."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if several() else value


def wait_for_all(where: str) -> None:
  """Returns when every process has called this."""
  if several():
    multihost_utils.sync_global_devices(where)


def gather_texts(text: str) -> list[str]:
  """Every process's text, in the order of processes."""
  if not several():
    return [text]
  data = np.frombuffer(text.encode(), np.uint8)
  sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(data))))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: len(data)] = data
  rows = np.asarray(multihost_utils.process_allgather(padded))
  return [row[:size].tobytes().decode() for row, size in zip(rows, sizes)]


def whole(leaf: jax.Array) -> np.ndarray:
  """The whole of an array that may lie on several hosts, as a host array in every process."""
  return np.asarray(multihost_utils.process_allgather(leaf, tiled=True) if several() else leaf)


def on_first(tree: Any, function: Callable[[Any], Any]) -> Any:
  """function(tree) in the first process alone, which evaluates and exports; None in the others.

  For the call, the tree is placed on that process's own devices, which form the mesh; the function may use it in any
  way without the other processes. All processes call this. A job of one process just calls the function.
  """
  if not several():
    return function(tree)
  mesh = make_mesh(f"fsdp={jax.local_device_count()}", jax.local_devices())

  def place(leaf: jax.Array, sharding: Any) -> Any:
    values = whole(leaf)  # leaf by leaf: the whole tree may not fit on one device
    return jax.device_put(values, sharding) if is_first() else None

  local = jax.tree.map(place, tree, param_shardings(tree, mesh))
  if not is_first():
    return None
  with jax.set_mesh(mesh):
    return function(local)


@contextlib.contextmanager
def only_first_speaks() -> Iterator[None]:
  """Silences standard output in all processes but the first. Standard error is left alone."""
  if is_first():
    yield
    return
  with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    yield


def check_same(facts: Mapping[str, Any]) -> None:
  """Raises ConfigError in every process unless all state the same facts. Tables are exchanged only if hashes differ."""
  if not several():
    return
  text = json.dumps(facts, sort_keys=True, default=str)
  digests = gather_texts(hashlib.sha256(text.encode()).hexdigest())
  if len(set(digests)) == 1:
    return
  tables = [json.loads(found) for found in gather_texts(json.dumps({"host": socket.gethostname(), "facts": text}))]
  message = difference([json.loads(table["facts"]) for table in tables], [table["host"] for table in tables])
  raise ConfigError(message)


def difference(tables: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> str:
  """In words, the first fact in which processes differ: the values of the minority, and that of the majority."""
  names = [name for table in tables for name in table]
  differing = [name for name in dict.fromkeys(names) if len({_said(table, name) for table in tables}) > 1]
  by_value: dict[str, list[int]] = {}
  for process, table in enumerate(tables):
    by_value.setdefault(_said(table, differing[0]), []).append(process)
  common = max(by_value, key=lambda value: len(by_value[value]))  # at a tie, process 0's
  odd = "; ".join(
    f"{value} in {', '.join(f'process {process} ({hosts[process]})' for process in found[:4])}"
    + (f" and {len(found) - 4} more" if len(found) > 4 else "")
    for value, found in by_value.items()
    if value != common
  )
  more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
  return (
    f"the processes disagree on {differing[0]}{more}: {odd}; {common} in the {len(by_value[common])} others, as in "
    f"process {by_value[common][0]} ({hosts[by_value[common][0]]}); start all with the same command, config and code"
  )


def _said(table: Mapping[str, Any], name: str) -> str:
  return repr(table[name]) if name in table else "absent"


@contextlib.contextmanager
def peers_watched() -> Iterator[None]:
  """Turns the error that a collective raises when another process is gone into a LostHostError."""
  try:
    yield
  except Exception as error:
    loss = lost(error)
    if loss is None:
      raise
    raise loss from error


def lost(error: Exception) -> LostHostError | None:
  """The error to raise instead, if this one means that another process is gone; else None."""
  if not several() or isinstance(error, UserError) or not BROKEN.search(str(error)):
    return None
  reason = re.sub(r"\[external/[^]]*\] *", "", str(error).splitlines()[0])[:160]
  return LostHostError(
    f"process {jax.process_index()} of {jax.process_count()} lost another process ({reason}); see that process's log "
    "for the cause. Complete checkpoints are kept: start the job again to continue from the last one"
  )
