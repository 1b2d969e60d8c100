"""Reads batches and places them on the devices before the step that needs them."""

import collections
import concurrent.futures
import itertools
import os
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from wanstreamer_jax.parallel.mesh import batch_sharding, check_batch, place_batch
from wanstreamer_jax.train.stage import Batch, BatchLoader

AHEAD = 3  # batches that are read in advance, by as many threads at most


def host_rows(batch: int, mesh: Mesh, devices: Sequence[jax.Device] | None = None) -> list[int]:
  """The rows of a global batch that one host reads: those that its devices hold, in ascending order.

  Hosts within one `tensor` or `context` group hold the same rows and read the same ones. A mesh may order devices
  differently from hosts. devices: of that host; by default of this process. Raises ConfigError for a batch that does
  not divide over the mesh.
  """
  check_batch(batch, mesh)
  own = set(jax.local_devices() if devices is None else devices)
  places = batch_sharding(mesh).devices_indices_map((batch,))
  return sorted({row for device, index in places.items() if device in own for row in range(batch)[index[0]]})


class Prefetcher:
  """Batches `start`, `start + 1`, ..., `stop - 1` of a loader in order, read in advance by threads: of Grain, or of our
  own where it is not installed.

  Grain only reads in advance. The order is the loader's, a pure function of the step, so that the step is the whole
  state. (Grain's own shuffle takes 4 ms an element in small sets, and its order could change with its version.)
  A context manager. An exception of the loader is raised by `next` at the step that it belongs to.
  """

  def __init__(self, loader: BatchLoader, mesh: Mesh, start: int, stop: int):
    place = lambda step: place_batch(loader.batch_at(int(step)), mesh)
    threads = max(1, min(AHEAD, (os.cpu_count() or 1) // 4))  # on few cores a second thread only slows the first
    self._batches = _by_grain(place, range(start, stop), threads)
    self._waited = 0.0

  def next(self) -> Batch:
    """The next batch, on the devices. Raises StopIteration after the last one."""
    begin = time.perf_counter()
    try:
      return next(self._batches)
    finally:
      self._waited += time.perf_counter() - begin

  def waited(self) -> float:
    """Seconds spent inside `next` since the last call of this: the input stall of a training loop."""
    waited, self._waited = self._waited, 0.0
    return waited

  def __enter__(self) -> "Prefetcher":
    return self

  def __exit__(self, *_: Any) -> None:
    self._batches.close()


def _by_grain(place: Callable[[int], Batch], steps: range, threads: int) -> Any:
  """Batches in the order of the steps, an iterator with `close`."""
  try:
    import grain
  except ModuleNotFoundError:  # machines that are lent for computing often lack it
    return in_order(place, steps, threads)
  batches = grain.MapDataset.range(steps.start, steps.stop).map(place)
  return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD)))


def in_order(place: Callable[[int], Batch], steps: range, threads: int) -> Generator[Batch, None, None]:
  """The same without Grain. Whatever `place` raises is raised at its step."""
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    rest = iter(steps)
    ahead = collections.deque(pool.submit(place, step) for step in itertools.islice(rest, AHEAD))
    try:
      while ahead:
        batch = ahead.popleft().result()
        ahead.extend(pool.submit(place, step) for step in itertools.islice(rest, 1))
        yield batch
    finally:
      pool.shutdown(wait=True, cancel_futures=True)
