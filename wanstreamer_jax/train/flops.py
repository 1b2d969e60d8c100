"""Counts the FLOPs that the mathematics of a training step needs. MFU divides them by the peak rate, as in PaLM (arXiv
2204.02311).

It counts the products and convolutions of the loss and its gradient in the traced program, and the Transformer's
attention by the pairs that `units.visible` allows. Recomputation (remat), masked pairs and the optimiser do not count,
so no program gains by doing more than it must.
"""

from typing import Any

import jax
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.model.decoder_layer import MIXING
from wanstreamer_jax.parallel.cost import count
from wanstreamer_jax.train.stage import Stage
from wanstreamer_jax.train.state import loss_and_grads
from wanstreamer_jax.units import CLEAN_PHASES, NOISY_PHASES, Layout, Segment, build_layout


def model_flops(stage: Stage, config: Config, batch: Any) -> float:
  """FLOPs of one update, over all devices. batch: arrays or shapes."""
  once = config.replace()
  once.model.remat = "none"
  once = once.freeze()
  params = jax.eval_shape(lambda: stage.init(once, jax.random.key(0)))  # modules that know that nothing is recomputed
  step = jax.ShapeDtypeStruct((), np.int32)
  cost = count(lambda *args: loss_and_grads(stage, once, *args), params, batch, step, without=MIXING)
  return cost.flops + stage.attention_flops(config)


def attention_flops(config: Config, pairs: int) -> float:
  """Of one row with so many (query, key) pairs: scores and mixing, in the loss and twice in its gradient."""
  model = config.model
  return 3 * 2 * 2.0 * pairs * model.layers * model.heads * model.head_dim


def duplex_attention_flops(config: Config) -> float:
  """Of the two-copy pass over a batch of crops."""
  units = config.data.units
  pairs = visible_pairs(build_layout(config), units, config.train.noisy_units or units)
  return config.data.batch * attention_flops(config, pairs)


def visible_pairs(layout: Layout, units: int, copies: int) -> int:
  """How many (query, key) pairs `units.visible` shows in [WORLD | clean units | noisy copies], all of them valid.

  copies: how many units have a noisy copy; they are spread evenly, and the mean over which ones is taken.
  """
  world, clean, noisy = map(_blocks, (layout.world, layout.phase(*CLEAN_PHASES), layout.phase(*NOISY_PHASES)))
  up_to = lambda queries, keys: int(np.sum(keys <= queries[:, None]))
  window, sinks = layout.config.window or units, layout.config.sinks
  earlier = sum(min(unit, window - 1) + min(sinks, max(unit - window + 1, 0)) for unit in range(units))
  past = lambda queries: units * len(queries) * len(world) + earlier * len(queries) * len(clean)
  of_clean = past(clean) + units * up_to(clean, clean)
  of_noisy = past(noisy) + units * (up_to(noisy, clean) + up_to(noisy, noisy))
  return up_to(world, world) + of_clean + of_noisy * copies // units


def _blocks(segments: tuple[Segment, ...]) -> np.ndarray:
  return np.array([block for segment in segments for block in segment.blocks], np.int64)
