"""`wanstreamer bench loader`: how fast the loader reads batches."""

import time
from typing import Any

from wanstreamer_jax.data.loader import Loader


def bench(loader: Loader, seconds: float = 5.0) -> dict[str, Any]:
  """Reads batches for about `seconds`. Returns units/s, MB/s, and units/s over those of one live session."""
  loader.batch_at(0)
  begin, step, size = time.perf_counter(), 0, 0
  while (elapsed := time.perf_counter() - begin) < seconds:
    step += 1
    size += sum(array.nbytes for array in loader.batch_at(step).values())
  rate = step * len(loader.rows) * loader.units / elapsed
  unit_seconds = loader.folders[0].manifest["media"]["unit_ms"] / 1000
  return {"units_per_second": rate, "mb_per_second": size / elapsed / 1e6, "times_real_time": rate * unit_seconds}
