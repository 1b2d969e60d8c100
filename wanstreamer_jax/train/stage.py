"""The interface between the training loop and a stage. Nothing else distinguishes codecs from the duplex model.

Invariants. A loader's batch and a loss's random draws are pure functions of (seed, step): a run that is killed and
restarted sees the same numbers. `loss` is the mean over the given rows, and every row has its own random key, so that
splitting rows over devices or in time (`train.accumulate`) never changes it.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from wanstreamer_jax.config import Config
from wanstreamer_jax.files import Path
from wanstreamer_jax.weights.store import load_weights

Params = Any  # an nnx module, or any pytree of arrays
Batch = Any  # arrays [B, ...], in a dict or a NamedTuple (`data.loader.Crop`)
Metrics = dict[str, Any]  # name -> scalar or Ratio
Loss = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]


class Ratio(NamedTuple):
  """A metric over part of a batch, such as its words. Both fields are means over rows; they are divided last."""

  total: jax.Array
  weight: jax.Array

  @property
  def value(self) -> jax.Array:
    """NaN where nothing was measured."""
    return self.total / self.weight


class BatchLoader(Protocol):
  """Training data as a pure function of the step."""

  def batch_at(self, step: int) -> Batch:
    """This host's rows of global batch `step` (from 0): NumPy arrays [rows, ...], the same shapes at every step."""
    ...


def all_units(config: Config) -> int:
  """Units in a step's global batch."""
  return config.data.batch * config.data.units


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training stage.

  name: as in `config.train.stage`.
  init: (config, key) -> parameters; traced under jit, so that every leaf is created on its own devices.
  make_loss: config -> (parameters, batch, keys) -> (scalar mean over the batch, metrics, also means over rows); the
    batch is batched, with a key for every row [B]; the modules inside are vmapped by the stage.
  make_loader: config -> BatchLoader.
  evaluate: (parameters, config, run folder, step) -> metrics; may write pictures below the run folder. The parameters
    are the averaged ones where `train.ema` is on. Optional.
  finish: (parameters, config, run folder), after the last update; may write what the next stage reads. Optional.
  constants: config -> {parameter's name: value} that a new run takes from its data in place of what `init` or
    `train.init` has; they are to be frozen. Optional.
  load: (path, abstract parameters, config) -> parameters of `train.init`; by default those of the same names.
  frozen: patterns of parameter names (as in parallel/rules.py) that the optimiser leaves alone.
  only: patterns of parameter names. Where there are any, the other parameters stand still while this stage runs, but
    keep their moments, as they have their turn later.
  units: how many units a step trains on, for the speed figures.
  attention_flops: config -> FLOPs of the Transformer's attention in a step (train/flops.py), which `cost.count` cannot
    count: some of it is masked, some of it is inside kernels.
  first: a stage of the same parameters and state that makes the first `train.first_steps` updates. Optional.
  """

  name: str
  init: Callable[[Config, jax.Array], Params]
  make_loss: Callable[[Config], Loss]
  make_loader: Callable[[Config], BatchLoader]
  evaluate: Callable[[Params, Config, pathlib.Path, int], Metrics] | None = None
  finish: Callable[[Params, Config, pathlib.Path], None] | None = None
  constants: Callable[[Config], dict[str, Any]] | None = None
  load: Callable[[Path, Params, Config], Params] = lambda path, abstract, config: load_weights(path, abstract)
  frozen: tuple[str, ...] = ()
  only: tuple[str, ...] = ()
  units: Callable[[Config], int] = all_units
  attention_flops: Callable[[Config], float] = lambda config: 0.0
  first: "Stage | None" = None

  def of_update(self, config: Config, step: int) -> "Stage":
    """The stage that makes update number `step` (from 0)."""
    return self.first if self.first is not None and step < config.train.first_steps else self
