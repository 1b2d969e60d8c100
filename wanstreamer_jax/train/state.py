"""The training state and the one step that advances it. Pure functions; the loop owns time, files and devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel.mesh import BATCH_AXES, batch_sharding, replicated, rows_over
from wanstreamer_jax.parallel.rules import param_shardings
from wanstreamer_jax.train.optim import (
  check_groups,
  group_norms,
  learning_rate,
  make_optimizer,
  only_named,
  steps_of_phase,
  trainable,
)
from wanstreamer_jax.train.stage import Batch, Metrics, Params, Ratio, Stage

SPIKE_MEMORY = 0.98  # of the usual gradient norm: about the last 50 updates
SPIKE_START = 50  # updates before any is skipped: at first, norms fall fast


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spikes:
  """The usual gradient norm, and how many updates were skipped because theirs was far above it.

  The rule: from update SPIKE_START on, an update whose gradient norm is more than `train.spike` times the usual norm is
  skipped: parameters, moments and average stay as they are, the step advances. The usual norm is exp of the moving
  average of log norms, each counted within `train.spike` of the usual one before it: one outlier hardly moves it, and
  norms that stay high become usual. Every host computes the same, and all of it is in the checkpoint.

  log_norm: float32, that moving average, bias-corrected. skipped: int32, updates skipped so far.
  """

  log_norm: jax.Array
  skipped: jax.Array

  @classmethod
  def none(cls) -> "Spikes":
    return cls(jnp.float32(0), jnp.int32(0))

  def see(self, norm: jax.Array, step: jax.Array, factor: float) -> tuple["Spikes", jax.Array]:
    """After the gradient norm of update `step`: (the new state, bool: whether the update is taken).

    factor: `train.spike`; 0 takes every update. An update whose norm is not finite is never taken; the loop stops
    there.
    """
    finite, usual = jnp.isfinite(norm), jnp.exp(self.log_norm)
    judged = (step >= SPIKE_START) & (factor > 0)
    within = jnp.where(judged, jnp.clip(norm, usual / max(factor, 1.0), usual * factor), norm)
    log_norm = update_average(self.log_norm, jnp.log(jnp.maximum(within, 1e-30)), SPIKE_MEMORY, step + 1)
    taken = finite & ~(judged & (norm > factor * usual))
    return Spikes(jnp.where(finite, log_norm, self.log_norm), self.skipped + ~taken), taken


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that a restart needs. It is what a checkpoint holds.

  step: int32, updates done or skipped so far; also the number of the next batch and of the next random key.
  params: float32 master weights.
  optimizer: moments, shaped like `params`.
  ema: bias-corrected moving average of `params`; None when `train.ema` is 0.
  spikes: the usual gradient norm.
  """

  step: jax.Array
  params: Params
  optimizer: Any
  ema: Params | None
  spikes: Spikes

  @property
  def averaged(self) -> Params:
    """The weights to evaluate and to ship."""
    return self.params if self.ema is None else self.ema


def init_state(stage: Stage, config: Config) -> TrainState:
  """The state before the first update. Trace it under jit with `out_shardings`, or under `jax.eval_shape`."""
  key, _ = jax.random.split(jax.random.key(config.train.seed))
  return fresh_state(stage, config, stage.init(config, key))


def fresh_state(stage: Stage, config: Config, params: Params) -> TrainState:
  """Step 0 from given weights. Raises ConfigError for `train.groups` that name nothing."""
  check_groups(config.train, params)
  optimizer = make_optimizer(config.train, stage.frozen).init(params)
  ema = jax.tree.map(jnp.copy, params) if config.train.ema else None
  return TrainState(jnp.int32(0), params, optimizer, ema, Spikes.none())


def loss_and_grads(stage: Stage, config: Config, params: Params, batch: Batch, step: jax.Array):
  """((loss, metrics), gradients) of update `step`; frozen leaves have gradient zero, which is not computed.

  With `train.accumulate` = A, row i * A + m of the batch belongs to part m, so that every device splits its own rows.
  The parts run one after another, and only one part's gradients are in memory beside their sum.
  """
  _, key = jax.random.split(jax.random.key(config.train.seed))
  rows = jax.tree.leaves(batch)[0].shape[0]
  keys = jax.random.split(jax.random.fold_in(key, step), rows)
  leaves, tree = jax.tree.flatten(params)
  loss = stage.make_loss(config)
  moves = jax.tree.leaves(trainable(config.train, stage.frozen, params))

  def loss_of(moving: list[jax.Array], part: tuple[Batch, jax.Array]) -> tuple[jax.Array, Metrics]:
    rest = iter(moving)
    whole = jax.tree.unflatten(tree, [next(rest) if free else leaf for free, leaf in zip(moves, leaves)])
    return loss(whole, *part)

  moving = [leaf for free, leaf in zip(moves, leaves) if free]
  compute = lambda part: jax.value_and_grad(loss_of, has_aux=True)(moving, part)
  (value, metrics), grads = _mean_over_parts(compute, (batch, keys), config.train.accumulate)
  found = iter(grads)
  filled = [next(found) if free else jnp.zeros_like(leaf) for free, leaf in zip(moves, leaves)]
  return (value, metrics), jax.tree.unflatten(tree, filled)


def _mean_over_parts(compute: Any, rows: Any, parts: int) -> Any:
  """The mean of `compute` over `parts` parts of arrays [B, ...], one after the other."""
  if parts == 1:
    return compute(rows)

  def split(x: jax.Array) -> jax.Array:
    x = jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, PartitionSpec(None, BATCH_AXES))

  rows = jax.tree.map(split, rows)
  shapes = jax.eval_shape(lambda rows: compute(jax.tree.map(lambda x: x[0], rows)), rows)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, compute(part)), None), zeros, rows)
  return jax.tree.map(lambda x: x / parts, total)


def update_average(ema: Params, params: Params, decay: float, updates: jax.Array) -> Params:
  """The moving average after `updates` updates, free of start-up bias at every step.

  With the zero-started average m_t = decay m_{t-1} + (1 - decay) p_t, this is m_t / (1 - decay^t) written as a
  recursion on itself, so that a constant parameter has exactly itself as average. The weight of the newest value is 1/t
  at first (the mean of all values) and 1 - decay in the end.
  """
  kept = jnp.float32(decay)
  rate = (1 - kept) / (1 - kept ** updates.astype(jnp.float32))  # exactly 1 at the first update
  return jax.tree.map(lambda mean, new: mean + rate * (new - mean), ema, params)


def train_step(
  stage: Stage, config: Config, state: TrainState, batch: Batch, share: jax.Array | None = None
) -> tuple[TrainState, Metrics]:
  """One update. batch: arrays [B, ...]. The metrics (train/metric_log.py) are those before the update.

  share: as in `learning_rate`, for a run that ends by the clock.
  """
  (loss, metrics), grads = loss_and_grads(stage, config, state.params, batch, state.step)
  norm = optax.global_norm(grads)
  spikes, taken = state.spikes.see(norm, steps_of_phase(config.train, state.step), config.train.spike)
  optimizer = make_optimizer(config.train, stage.frozen)
  updates, moments = optimizer.update(grads, state.optimizer, state.params, step=state.step, share=share)
  updates = only_named(stage.only, updates)
  params = optax.apply_updates(state.params, updates)
  ema = None
  if state.ema is not None:
    ema = update_average(state.ema, params, config.train.ema, state.step + 1 - spikes.skipped)
  if_taken = lambda new, old: jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)
  metrics = {
    "loss": loss,
    **{name: metric.value if isinstance(metric, Ratio) else metric for name, metric in metrics.items()},
    "grad_norm": norm,
    "grad_norm_usual": jnp.exp(state.spikes.log_norm),
    "skipped": spikes.skipped,
    "learning_rate": learning_rate(config.train, state.step, share),
    **group_norms("grad_norm", grads),
    **group_norms("update_norm", if_taken(updates, jax.tree.map(jnp.zeros_like, updates))),
  }
  kept = (if_taken(params, state.params), if_taken(moments, state.optimizer), if_taken(ema, state.ema))
  return TrainState(state.step + 1, *kept, spikes), metrics


def state_shardings(stage: Stage, config: Config, mesh: Mesh):
  """(abstract state, its shardings): shapes and places; nothing is computed."""
  abstract = jax.eval_shape(lambda: init_state(stage, config))
  return abstract, param_shardings(abstract, mesh)


def compile_step(stage: Stage, config: Config, mesh: Mesh, clocked: bool = False):
  """The jitted `(state, batch) -> (state, metrics)`; the given state's buffers are reused. clocked: it takes the
  share of the run's time too, as `train_step` does.

  Raises ConfigError for parts of a batch (`train.accumulate`) that do not divide over the devices.
  """
  rows, shards = config.data.batch // config.train.accumulate, rows_over(mesh)
  if rows % shards:
    raise ConfigError(
      f"data.batch {config.data.batch} / train.accumulate {config.train.accumulate} = {rows} rows at a time, which do "
      f"not divide over data x fsdp = {shards} devices: use a larger batch, or a smaller train.accumulate"
    )
  _, shardings = state_shardings(stage, config, mesh)
  clock = (replicated(mesh),) if clocked else ()
  return jax.jit(
    lambda state, batch, *share: train_step(stage, config, state, batch, *share),
    in_shardings=(shardings, batch_sharding(mesh), *clock),
    out_shardings=(shardings, replicated(mesh)),
    donate_argnums=0,
  )
