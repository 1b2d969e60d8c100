"""`wanstreamer bench loader`: how fast batches are read, without and with augmentation."""

import time
from typing import Any

import jax

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.loader import LATENTS, CropLoader, Loader
from wanstreamer_jax.errors import DataError


def bench(loader: Loader | CropLoader, seconds: float = 5.0) -> dict[str, Any]:
  """Reads batches for about `seconds`. Returns units/s, MB/s, and units/s over those of one live session."""
  order = loader.loader if isinstance(loader, CropLoader) else loader
  loader.batch_at(0)
  begin, step, size = time.perf_counter(), 0, 0
  while (elapsed := time.perf_counter() - begin) < seconds:
    step += 1
    size += sum(array.nbytes for array in jax.tree.leaves(loader.batch_at(step)))
  rate = step * len(order.rows) * order.units / elapsed
  unit_seconds = loader.folders[0].manifest["media"]["unit_ms"] / 1000
  return {"units_per_second": rate, "mb_per_second": size / elapsed / 1e6, "times_real_time": rate * unit_seconds}


def bench_loader(
  config: Config, path: str, *, seconds: float = 5.0, step_seconds: float | None = None, hosts: int = 1
) -> None:
  """Prints how fast this machine reads its rows of training batches from a `data.path`, as one of `hosts` hosts, beside
  what it must read when a step takes `step_seconds`. Latents are read as crops, without and with the changes of
  `config.augment`; what must be read is compared with the latter. Raises DataError for a batch that does not divide."""
  batch, units = config.data.batch, config.data.units
  if batch % hosts:
    raise DataError(f"data.batch is {batch}, which does not divide over {hosts} hosts")
  rows = range(batch // hosts)
  fields = Loader(path, config, rows)
  loaders: dict[str, Loader | CropLoader] = {"": fields}
  if set(LATENTS) <= set(fields.fields):
    loaders = {"": CropLoader(path, config, rows)}
    if config.augment.on:
      loaders[", augmented"] = CropLoader(path, config, rows, augment=True)
  for name, loader in loaders.items():
    rates = bench(loader, seconds)
    print(
      f"{path}{name}: {rates['units_per_second']:.0f} units/s, {rates['mb_per_second']:.0f} MB/s, "
      f"{rates['times_real_time']:.0f} x real time ({len(rows)} rows of {units} units)"
    )
  if step_seconds is not None:
    needed = batch * units / step_seconds / hosts
    margin = rates["units_per_second"] / needed
    verdict = f"{margin:.1f} times that is read" if margin >= 1 else f"only {margin:.2f} of that is read, so chips wait"
    each = f" on each of {hosts} hosts" if hosts > 1 else ""
    print(f"steps of {step_seconds:.3g} s need {needed:.0f} units/s{each}: {verdict}")
