"""AdamW with clipping, schedules, and parameters that stand still. Formulas: Loshchilov & Hutter, arXiv 1711.05101."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wanstreamer_jax.config import TrainConfig
from wanstreamer_jax.parallel.rules import Rule, path_name


def learning_rate(train: TrainConfig, step: jax.Array | int) -> jax.Array:
  """The rate of update `step` (from 0): a linear warm-up times the schedule, which ends at `final_lr_scale`.

  cosine    half a cosine over all steps after the warm-up
  wsd       constant, then linear over the last `decay` share of the steps
  constant  no decay
  """
  step = jnp.asarray(step, jnp.float32)
  warmup = jnp.minimum(1.0, (step + 1) / max(train.warmup, 1))
  if train.schedule == "cosine":
    done = jnp.clip((step - train.warmup) / max(train.steps - train.warmup, 1), 0, 1)
    remaining = 0.5 * (1 + jnp.cos(jnp.pi * done))
  elif train.schedule == "wsd":
    remaining = jnp.clip((train.steps - step) / max(train.decay * train.steps, 1), 0, 1)
  else:
    return train.learning_rate * warmup
  return train.learning_rate * warmup * (train.final_lr_scale + (1 - train.final_lr_scale) * remaining)


def trainable(params: Any, frozen: tuple[str, ...]) -> Any:
  """A tree of bools: False where a pattern of `frozen` matches the parameter's name (see parallel/rules.py)."""
  rules = [Rule(pattern) for pattern in frozen]
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not any(rule.matches(path_name(path)) for rule in rules), params
  )


def decayed(params: Any) -> Any:
  """A tree of bools: weight decay pulls matrices and kernels, not norms, biases, scales and single tokens."""

  def pulls(path: tuple[Any, ...], leaf: Any) -> bool:
    name = path_name(path).rpartition(".")[2]
    return name in ("w", "kernel") and leaf.ndim > 1  # a stacked bias [L, D] is still a bias: the name decides

  return jax.tree_util.tree_map_with_path(pulls, params)


def make_optimizer(train: TrainConfig, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
  """Clip by global norm, Adam, decay, rate. Frozen leaves take part in nothing and own no moments."""
  steps = optax.chain(
    optax.clip_by_global_norm(train.clip) if train.clip else optax.identity(),
    optax.scale_by_adam(b1=train.beta1, b2=train.beta2),
    optax.add_decayed_weights(train.weight_decay, mask=decayed),
    optax.scale_by_learning_rate(lambda step: learning_rate(train, step)),
  )
  return optax.masked(steps, lambda params: trainable(params, frozen))
