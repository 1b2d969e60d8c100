"""The training pass's attention as one TPU kernel. Its numbers are those of `attention.teacher_forced_attention`."""

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import AttentionFn
from wanstreamer_jax.nn.attention_parts import KeyValue, Queries
from wanstreamer_jax.nn.attention_splash import Pattern, splash
from wanstreamer_jax.units import CLEAN_PHASES, NOISY_PHASES, Coords, Layout, Segment


def two_copy_pattern(layout: Layout, units: int, noisy_units: int | None = None) -> Pattern:
  """`units.visible` over [WORLD | clean units | noisy units] of a crop, as static bounds.

  noisy_units: the number of units with noisy tokens, one of every `units / noisy_units`; default: all.
  Raises ConfigError where bounds cannot express the rule: for a crop longer than the window, or a layout with blocks
  out of cache order.
  """
  window = layout.config.window
  if window is not None and units > window:
    raise ConfigError(
      f"splash attention needs the whole crop inside the window: data.units is {units}, layout.window {window}; "
      "shorten the crops, widen the window, or set model.attention=xla"
    )
  return Pattern(
    groups=units,
    prefix_bounds=_bounds(layout.world),
    clean_bounds=_bounds(layout.phase(*CLEAN_PHASES)),
    noisy_bounds=_bounds(layout.phase(*NOISY_PHASES)),
    stride=units // (noisy_units or units),
  )


def _bounds(segments: tuple[Segment, ...]) -> tuple[int, ...]:
  """For every token of some segments, counts the tokens in its block or an earlier one; those must come first."""
  blocks = np.array([block for segment in segments for block in segment.blocks], np.int64)
  if (np.diff(blocks) < 0).any():
    names = ", ".join(segment.name for segment in segments)
    raise ConfigError(f"splash attention needs segments in the order of their blocks, not {names}")
  return tuple(np.searchsorted(blocks, blocks, side="right").tolist())


def teacher_forced_attention_tpu(clean: Coords, noisy: Coords, layout: Layout, evicts: bool = True) -> AttentionFn:
  """`teacher_forced_attention` in one call; arguments and numbers are the same.

  evicts: whether any unit of the crop may have lost a part of its session's past.

  Queries meet pinned keys under another rotation (`units.evicted`). Where a session's past can be
  evicted, queries and keys therefore get twice the width, and one product serves both:

      other keys     [q at_time | q at_pinned] . [k | 0] = q at_time . k
      pinned keys    [q at_time | q at_pinned] . [0 | k] = q at_pinned . k

  This is exact at every time, and costs nothing if a head fills half of the matrix unit's depth.
  """
  units = (clean.unit.shape[0] - layout.world_tokens) // layout.clean_tokens
  noisy_unit = noisy.unit[:: layout.tokens(*NOISY_PHASES)]  # [I]: the unit of every noisy copy
  pattern = two_copy_pattern(layout, units, noisy_unit.shape[0])
  place = None
  if pattern.stride > 1:  # which unit of its stride each copy is of: [I]
    place = noisy_unit - clean.unit[layout.world_tokens :: layout.clean_tokens * pattern.stride]
  exists = jnp.concatenate([clean.valid, noisy.valid])
  pinned = jnp.concatenate([clean.pinned, noisy.pinned])[:, None, None]  # [T, 1, 1]

  def attention(queries: Queries, own: KeyValue, _: None) -> jax.Array:
    scale = queries.at_time.shape[-1] ** -0.5  # by H, even if the width is 2 H
    q, k = queries.at_time, own.k
    if widened(layout, evicts):
      zero = jnp.zeros((), k.dtype)
      q = jnp.concatenate([queries.at_time, queries.at_pinned], axis=-1)  # [T, N, 2 H]
      k = jnp.concatenate([jnp.where(pinned, zero, k), jnp.where(pinned, k, zero)], axis=-1)  # [T, M, 2 H]
    return splash(q * scale, k, own.v, exists, pattern, place)

  return attention


def widened(layout: Layout, evicts: bool) -> bool:
  """Whether `teacher_forced_attention_tpu` doubles the width of queries and keys."""
  return evicts and layout.config.window is not None
