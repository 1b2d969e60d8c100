"""Attention of a step that reads the cache, and of the pass over [clean | noisy]. Both follow `units.visible`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wanstreamer_jax.nn.attention import CHUNKS_AT_ONCE, Way, attend, prepare_mask, takes_kernel
from wanstreamer_jax.nn.attention_parts import KeyValue, Packed, Part, Queries
from wanstreamer_jax.units import NOISY_PHASES, Coords, Layout, visible

AttentionFn = Callable[[Queries, KeyValue, Any], jax.Array]  # (queries, own keys, index of the layer) -> [T, N, H]


def cached_attention(
  coords: Coords, key_coords: list[Coords], groups: list[KeyValue], window: int | None, pinned: int
) -> AttentionFn:  # fmt: skip
  """Attention of a step: T tokens see each other and the given key groups, which hold all layers.

  coords: of the tokens; key_coords: of each group; pinned: length of the first group's prefix that may be pinned.
  """
  lengths = [pinned if i == 0 else 0 for i in range(len(key_coords))]
  masks = [prepare_mask(visible(coords, keys, window), length) for keys, length in zip(key_coords, lengths)]
  own_mask = visible(coords, coords, window)  # [T, T]
  prefixes = [keys.pinned[:length] for keys, length in zip(key_coords, lengths)]

  whole = [part for group in zip(groups, masks, prefixes) for part in _parts(*group)]

  def attention(queries: Queries, own: KeyValue, layer: jax.Array) -> jax.Array:
    parts = [part._replace(layer=layer) for part in whole]
    return attend(queries, [*parts, Part(own.k, own.v, own_mask)], Way(CHUNKS_AT_ONCE, low_rank=False))

  return attention


def apart(queries: int, kv: KeyValue, coords: Coords, pinned: int) -> tuple[list[KeyValue], list[Coords]]:
  """The groups of keys of a cache for several passes of so many queries, and their coordinates.

  For the kernel, the pinned prefix becomes a group of its own, cut out once: XLA would bring a whole cache of 8 heads
  into the layout that the prefix' product prefers, in every pass.
  """
  keys = coords.unit.shape[0]
  if not pinned or not takes_kernel(queries, keys - pinned):
    return [kv], [coords]
  rest = dataclasses.replace(coords, valid=coords.valid & (jnp.arange(keys) >= pinned))
  return [jax.tree.map(lambda x: x[:, :pinned], kv), kv], [coords[:pinned], rest]


def _parts(kv: KeyValue, mask: Any, prefix: jax.Array) -> list[Part]:
  """The keys of a group, of all layers. For the kernel, the pinned prefix is cut out here, once for all layers: see
  `apart`."""
  if not isinstance(mask, Packed) or not prefix.shape[0]:
    return [Part(kv.k, kv.v, mask, prefix)]
  k, v = jax.tree.map(lambda x: x[:, : prefix.shape[0]], kv)
  return [Part(k, v, mask.pinned, prefix), Part(kv.k, kv.v, mask)]


def teacher_forced_attention(clean: Coords, noisy: Coords, layout: Layout) -> AttentionFn:
  """The training pass: tokens are [clean | noisy]: Tc clean ones, and E noisy ones for each of I copies.

  Clean tokens see clean ones. A noisy token sees clean ones and those of its own copy; all other noisy keys are
  invisible to it by their scope, so they are not even scored:

                Tc clean keys     E noisy keys of each copy
      clean     visible           -
      copy 0    visible           visible  -        -
      copy 1    visible           -        visible  -
  """
  window, total, per_copy = layout.config.window, clean.unit.shape[0], layout.tokens(*NOISY_PHASES)

  def by_copy(x: jax.Array) -> jax.Array:
    """[I * E, ...] -> [I, E, ...]."""
    return x.reshape(-1, per_copy, *x.shape[1:])

  noisy_by_copy = jax.tree.map(by_copy, noisy)
  clean_mask = visible(clean, clean, window)  # [Tc, Tc]
  noisy_mask = by_copy(visible(noisy, clean, window))  # [I, E, Tc]
  own_mask = jax.vmap(functools.partial(visible, window=window))(noisy_by_copy, noisy_by_copy)  # [I, E, E]
  pinned = clean.pinned[: layout.pinned_tokens]

  def attention(queries: Queries, own: KeyValue, _: None) -> jax.Array:
    k, v = own.k[:total], own.v[:total]
    of_clean = attend(Queries(queries.at_time[:total], queries.at_pinned[:total]), [Part(k, v, clean_mask, pinned)])

    def copy(queries: Queries, own: KeyValue, noisy_mask: jax.Array, own_mask: jax.Array) -> jax.Array:
      return attend(queries, [Part(k, v, noisy_mask, pinned), Part(own.k, own.v, own_mask)])

    noisy_queries, noisy_own = jax.tree.map(lambda x: by_copy(x[total:]), (queries, own))
    of_noisy = jax.vmap(copy)(noisy_queries, noisy_own, noisy_mask, own_mask)  # [I, E, N, H]
    return jnp.concatenate([of_clean, of_noisy.reshape(-1, *of_noisy.shape[2:])])

  return attention
