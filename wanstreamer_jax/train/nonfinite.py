"""Finds the first number that is not finite, after the fact. So training itself pays nothing for it."""

from typing import Any

import jax
import jax.numpy as jnp

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.loader import Crop
from wanstreamer_jax.parallel import hosts
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train.stage import Batch, Stage
from wanstreamer_jax.train.state import TrainState, loss_and_grads

MAX_SHOWN = 16  # sessions of a batch that a message names


def first_nonfinite(stage: Stage, config: Config, state: TrainState, batch: Batch) -> str:
  """In words: the first tensor of update state.step + 1 that is not finite, and which sessions were in its batch.

  The order is that of computation: the batch, the weights, the parts of the loss, the loss, its gradients by
  parameter. state: before the update. All processes of a job call this and get the same text.
  """

  @jax.jit
  def all_finite(state: TrainState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    (loss, metrics), grads = loss_and_grads(stage, config, state.params, batch, state.step)
    groups = {
      "input": batch,
      "weight": state.params,
      "part of the loss": metrics,
      "loss": {"": loss},
      "gradient": grads,
    }
    return {kind: {name: _finite(leaf) for name, leaf in named_leaves(tree).items()} for kind, tree in groups.items()}

  found = jax.device_get(all_finite(state, batch))
  # jax sorts the keys of a dict; this restores the order of computation.
  order = ("input", "weight", "part of the loss", "loss", "gradient")
  bad = [f"{kind} {name}".strip() for kind in order for name, finite in found[kind].items() if not finite]
  where = f"in batch {int(state.step)}{_sessions(batch)}"
  if not bad:
    return f"the repeated step was finite {where}: suspect the hardware"
  more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
  return f"the first bad tensor is the {bad[0]}{more}, {where}"


def _finite(leaf: Any) -> jax.Array:
  return jnp.all(jnp.isfinite(leaf)) if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.bool_(True)


def _sessions(batch: Batch) -> str:
  fields = batch._asdict() if isinstance(batch, Crop) else batch
  if "session" not in fields:
    return ""
  sessions = hosts.whole(fields["session"]).tolist()
  more = f" and {len(sessions) - MAX_SHOWN} more" if len(sessions) > MAX_SHOWN else ""
  return f" of sessions {', '.join(map(str, sessions[:MAX_SHOWN]))}{more}"
