"""AdamW or Muon with clipping, schedules, and parameters that stand still.

Formulas: Loshchilov & Hutter, arXiv 1711.05101; Muon at the size of Adam's updates, Liu et al., arXiv 2502.16982.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

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


MATRICES = Rule(r"(transformer\.layers|hear|see)\.([\w.]+_proj|\w+)\.w")  # what Muon moves; Adam moves the rest
MUON_MOMENTUM = 0.95  # `train.beta1` is Adam's
MUON_RMS = 0.2  # of an update before the rate: about Adam's, so that one rate serves both


TO_HEADS, FROM_HEADS = MuonDimensionNumbers(-3, (-2, -1)), MuonDimensionNumbers((-3, -2), -1)  # [D, N, H], [N, H, D]
AXES = {"q_proj": TO_HEADS, "k_proj": TO_HEADS, "v_proj": TO_HEADS, "o_proj": FROM_HEADS}


def muon_axes(updates: Any) -> Any:
  """A tree of MuonDimensionNumbers: which of a matrix's last axes are inputs; axes before them (layers) are a batch."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: AXES.get(path_name(path).split(".")[-2], MuonDimensionNumbers(-2, -1)), updates
  )


def muon() -> optax.GradientTransformation:
  """Orthogonal updates whose elements have the RMS of Adam's."""

  def scale(update: jax.Array, axes: MuonDimensionNumbers) -> jax.Array:
    sizes = [math.prod(update.shape[axis] for axis in np.atleast_1d(group)) for group in axes]
    return update * MUON_RMS * math.sqrt(max(sizes))

  scaled = lambda updates, _: jax.tree.map(scale, updates, muon_axes(updates))
  return optax.chain(scale_by_muon(beta=MUON_MOMENTUM, weight_dimension_numbers=muon_axes), optax.stateless(scaled))


def direction(train: TrainConfig) -> optax.GradientTransformation:
  """Gradients to updates, before decay and rate."""
  adam = optax.scale_by_adam(b1=train.beta1, b2=train.beta2)
  if train.optimizer == "adamw":
    return adam
  kind = lambda path, _: "muon" if MATRICES.matches(path_name(path)) else "adam"
  return optax.multi_transform(
    {"muon": muon(), "adam": adam}, lambda params: jax.tree_util.tree_map_with_path(kind, params)
  )


def make_optimizer(train: TrainConfig, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
  """Clip by global norm, Adam or Muon, decay, rate. Frozen leaves take part in nothing and own no moments."""
  steps = optax.chain(
    optax.clip_by_global_norm(train.clip) if train.clip else optax.identity(),
    direction(train),
    optax.add_decayed_weights(train.weight_decay, mask=decayed),
    optax.scale_by_learning_rate(lambda step: learning_rate(train, step)),
  )
  return optax.masked(steps, lambda params: trainable(params, frozen))
