"""The training state and the one step that advances it. Pure functions; the loop owns time, files and devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from wanstreamer_jax.config import Config
from wanstreamer_jax.parallel.mesh import batch_sharding, replicated
from wanstreamer_jax.parallel.rules import param_shardings
from wanstreamer_jax.train.optim import learning_rate, make_optimizer, trainable
from wanstreamer_jax.train.stage import Batch, Metrics, Params, Stage


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that a restart needs.

  step: int32, updates done so far; also the number of the next batch and of the next random key.
  params: float32 master weights.
  optimizer: moments, shaped like `params`.
  ema: bias-corrected moving average of `params`; None when `train.ema` is 0.
  """

  step: jax.Array
  params: Params
  optimizer: Any
  ema: Params | None

  @property
  def averaged(self) -> Params:
    """The weights to evaluate and to ship."""
    return self.params if self.ema is None else self.ema


def init_state(stage: Stage, config: Config) -> TrainState:
  """The state before the first update. Trace it under jit with `out_shardings`, or under `jax.eval_shape`."""
  key, _ = jax.random.split(jax.random.key(config.train.seed))
  return fresh_state(stage, config, stage.init(config, key))


def fresh_state(stage: Stage, config: Config, params: Params) -> TrainState:
  """Step 0 from given weights."""
  optimizer = make_optimizer(config.train, stage.frozen).init(params)
  ema = jax.tree.map(jnp.copy, params) if config.train.ema else None
  return TrainState(step=jnp.int32(0), params=params, optimizer=optimizer, ema=ema)


def loss_and_grads(stage: Stage, config: Config, params: Params, batch: Batch, step: jax.Array):
  """((loss, metrics), gradients) of update `step`; frozen leaves have gradient zero, which XLA does not compute."""
  _, key = jax.random.split(jax.random.key(config.train.seed))
  key = jax.random.fold_in(key, step)
  value_and_grad = jax.value_and_grad(stage.loss, has_aux=True)
  (loss, metrics), grads = value_and_grad(params, batch, key, config)
  moves = trainable(params, stage.frozen)
  return (loss, metrics), jax.tree.map(lambda free, grad: grad if free else jnp.zeros_like(grad), moves, grads)


def update_average(ema: Params, params: Params, decay: float, updates: jax.Array) -> Params:
  """The moving average after `updates` updates, free of start-up bias at every step.

  With the zero-started average m_t = decay m_{t-1} + (1 - decay) p_t, this is m_t / (1 - decay^t) written as a
  recursion on itself; a parameter that stands still stays exactly what it is.
  """
  kept = jnp.float32(decay)
  rate = (1 - kept) / (1 - kept ** updates.astype(jnp.float32))  # exactly 1 at the first update
  return jax.tree.map(lambda mean, new: mean + rate * (new - mean), ema, params)


def train_step(stage: Stage, config: Config, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
  """One update. batch: arrays [B, ...]. The metrics are those of the weights before the update."""
  (loss, metrics), grads = loss_and_grads(stage, config, state.params, batch, state.step)
  updates, optimizer = make_optimizer(config.train, stage.frozen).update(grads, state.optimizer, state.params)
  params = optax.apply_updates(state.params, updates)
  ema = None
  if state.ema is not None:
    ema = update_average(state.ema, params, config.train.ema, state.step + 1)
  metrics = {
    "loss": loss,
    **metrics,
    "grad_norm": optax.global_norm(grads),
    "learning_rate": learning_rate(config.train, state.step),
  }
  return TrainState(step=state.step + 1, params=params, optimizer=optimizer, ema=ema), metrics


def state_shardings(stage: Stage, config: Config, mesh: Mesh):
  """(abstract state, its shardings): shapes and places, without a number computed."""
  abstract = jax.eval_shape(lambda: init_state(stage, config))
  return abstract, param_shardings(abstract, mesh)


def compile_step(stage: Stage, config: Config, mesh: Mesh):
  """The jitted `(state, batch) -> (state, metrics)`; the given state's buffers are reused."""
  _, shardings = state_shardings(stage, config, mesh)
  return jax.jit(
    lambda state, batch: train_step(stage, config, state, batch),
    in_shardings=(shardings, batch_sharding(mesh)),
    out_shardings=(shardings, replicated(mesh)),
    donate_argnums=0,
  )
