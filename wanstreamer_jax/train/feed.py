"""Batches, fetched and placed on the devices ahead of the step that needs them."""

import collections
import concurrent.futures
from typing import Any

import jax
from jax.sharding import Mesh

from wanstreamer_jax.parallel.mesh import place_batch
from wanstreamer_jax.train.stage import Loader

AHEAD = 2  # batches in flight: one being placed, one being read


class Feed:
  """Batches `start`, `start + 1`, ..., `stop - 1` of a loader, read by one background thread in order.

  A context manager. What the loader raises, `next` raises at the step that it belongs to.
  """

  def __init__(self, loader: Loader, mesh: Mesh, start: int, stop: int):
    self._loader, self._mesh = loader, mesh
    self._steps = iter(range(start, stop))
    self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="feed")
    self._coming: collections.deque[concurrent.futures.Future] = collections.deque()
    for _ in range(AHEAD):
      self._request()

  def _request(self) -> None:
    step = next(self._steps, None)
    if step is not None:
      self._coming.append(self._pool.submit(self._read, step))

  def _read(self, step: int) -> dict[str, jax.Array]:
    return place_batch(self._loader.batch_at(step), self._mesh)

  def next(self) -> dict[str, jax.Array]:
    """The next batch, on the devices. Raises StopIteration after the last one."""
    if not self._coming:
      raise StopIteration
    batch = self._coming.popleft().result()
    self._request()
    return batch

  def __enter__(self) -> "Feed":
    return self

  def __exit__(self, *_: Any) -> None:
    self._pool.shutdown(wait=True, cancel_futures=True)
