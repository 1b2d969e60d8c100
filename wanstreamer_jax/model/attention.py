"""Who attends to whom: a step that reads the cache, and the pass over [clean | noisy]. One rule: `units.visible`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wanstreamer_jax.nn.attention import attend, prepare_mask
from wanstreamer_jax.nn.attention_parts import Part, Queries
from wanstreamer_jax.nn.blocks import KeyValue
from wanstreamer_jax.units import Coords, Layout, visible

AttentionFn = Callable[[Queries, KeyValue, Any], jax.Array]  # (queries, own keys, index of the layer) -> [T, N, H]


def cached_attention(
  coords: Coords, key_coords: list[Coords], groups: list[KeyValue], window: int | None, pinned: int
) -> AttentionFn:  # fmt: skip
  """A step: T tokens see the given key groups, of all layers, and each other.

  coords: of the tokens; key_coords: of each group; pinned: length of the first group's prefix that may be pinned.
  """
  lengths = [pinned if i == 0 else 0 for i in range(len(key_coords))]
  masks = [prepare_mask(visible(coords, keys, window), length) for keys, length in zip(key_coords, lengths)]
  own_mask = visible(coords, coords, window)
  prefixes = [keys.pinned[:length] for keys, length in zip(key_coords, lengths)]

  def mixer(queries: Queries, own: KeyValue, layer: jax.Array) -> jax.Array:
    parts = [Part(kv.k, kv.v, mask, prefix, layer) for kv, mask, prefix in zip(groups, masks, prefixes)]
    return attend(queries, [*parts, Part(own.k, own.v, own_mask)])

  return mixer


def teacher_forced_attention(clean: Coords, ephemeral: Coords, layout: Layout) -> AttentionFn:
  """The training pass: tokens are [clean | ephemeral], ephemeral = E tokens for each of some units.

  Clean tokens see clean ones. An ephemeral token sees clean ones and its own unit's ephemeral ones; all other
  ephemeral keys are invisible to it by their scope, so they are not even scored.
  """
  window, total = layout.config.window, clean.unit.shape[0]
  per_unit = layout.tokens("REFEED", "PERFORM")
  by_unit = jax.tree.map(lambda x: x.reshape(-1, per_unit, *x.shape[1:]), ephemeral)
  clean_mask, noisy_mask = visible(clean, clean, window), visible(ephemeral, clean, window)
  own_mask = jax.vmap(functools.partial(visible, window=window))(by_unit, by_unit)  # [K, E, E]
  noisy_mask = noisy_mask.reshape(-1, per_unit, total)
  pinned = clean.pinned[: layout.pinned_tokens]
  fold = lambda x: x.reshape(-1, per_unit, *x.shape[1:])

  def mixer(queries: Queries, own: KeyValue, _: None) -> jax.Array:
    k, v = own.k[:total], own.v[:total]
    first = attend(Queries(queries.now[:total], queries.pinned[:total]), [Part(k, v, clean_mask, pinned)])

    def unit(now, turned, own_k, own_v, to_clean, to_own):
      return attend(Queries(now, turned), [Part(k, v, to_clean, pinned), Part(own_k, own_v, to_own)])

    late = [fold(x[total:]) for x in (queries.now, queries.pinned, own.k, own.v)]
    second = jax.vmap(unit)(*late, noisy_mask, own_mask)  # type: ignore[call-arg]
    return jnp.concatenate([first, second.reshape(-1, *second.shape[2:])])

  return mixer
