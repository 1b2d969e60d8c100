"""Attention of a step that reads the cache, and of the pass over [clean | noisy]. Both follow `units.visible`."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wanstreamer_jax.nn.attention import CHUNKS_AT_ONCE, Way, attend, prepare_mask, takes_kernel
from wanstreamer_jax.nn.attention_blocks import Block, Masks, Plan, attend_blocks, cut
from wanstreamer_jax.nn.attention_parts import KeyValue, Packed, Part, Queries
from wanstreamer_jax.nn.backend import platform
from wanstreamer_jax.units import NOISY_PHASES, Coords, Layout, visible

AttentionFn = Callable[[Queries, KeyValue, Any], jax.Array]  # (queries, own keys, index of the layer) -> [T, N, H]


def cached_attention(
  coords: Coords, key_coords: list[Coords], groups: list[KeyValue], window: int | None, pinned: int
) -> AttentionFn:  # fmt: skip
  """Attention of a step: T tokens see each other and the given key groups [L, M, S, H] of all layers.

  coords: of the tokens; key_coords: of each group; pinned: length of the first group's prefix that may be pinned.
  """
  lengths = [pinned if i == 0 else 0 for i in range(len(key_coords))]
  masks = [prepare_mask(visible(coords, keys, window), length) for keys, length in zip(key_coords, lengths)]
  own_mask = visible(coords, coords, window)  # [T, T]
  prefixes = [keys.pinned[:length] for keys, length in zip(key_coords, lengths)]

  whole = [part for group in zip(groups, masks, prefixes) for part in _parts(*group)]

  def attention(queries: Queries, own: KeyValue, layer: jax.Array) -> jax.Array:
    parts = [part._replace(layer=layer) for part in whole]
    return attend(queries, [*parts, Part(*own.by_head(), own_mask)], Way(CHUNKS_AT_ONCE, low_rank=False))

  return attention


def apart(queries: int, kv: KeyValue, coords: Coords, pinned: int) -> tuple[list[KeyValue], list[Coords]]:
  """The groups of keys of a cache for several passes of so many queries, and their coordinates.

  For the kernel, the pinned prefix becomes a group of its own, cut out once.
  """
  keys = coords.unit.shape[0]
  if not pinned or not takes_kernel(queries, keys - pinned):
    return [kv], [coords]
  rest = dataclasses.replace(coords, valid=coords.valid & (jnp.arange(keys) >= pinned))
  return [jax.tree.map(lambda x: x[:, :, :pinned], kv), kv], [coords[:pinned], rest]


def _parts(kv: KeyValue, mask: Any, prefix: jax.Array) -> list[Part]:
  """The keys of a group, of all layers. For the kernel, the pinned prefix is cut out here, once for all layers: see
  `apart`."""
  if not isinstance(mask, Packed) or not prefix.shape[0]:
    return [Part(kv.k, kv.v, mask, prefix)]
  k, v = jax.tree.map(lambda x: x[:, :, : prefix.shape[0]], kv)
  return [Part(k, v, mask.pinned, prefix), Part(kv.k, kv.v, mask)]


BLOCK_TOKENS = 160  # queries of a block on a CPU, whose scores then stay in its caches
BLOCK_TOKENS_ELSEWHERE = 2048  # smaller ones leave a GPU idle
MOST_BLOCKS = 16  # each makes the program longer


def teacher_forced_attention(clean: Coords, noisy: Coords, layout: Layout, size: int = 0) -> AttentionFn:
  """The training pass: tokens are [clean | noisy]: Tc clean ones, and E noisy ones for each of I copies. size: queries
  of a block, about; 0: what suits this processor.

  Clean tokens see clean ones. A noisy token sees clean ones and those of its own copy. A block is a few consecutive
  units with the noisy copies of these units; its queries are scored against WORLD, the sinks, and what lies between the
  oldest unit in the window and the end of the block:

                WORLD, sinks    clean 0  clean 1  clean 2    noisy 0  noisy 1  noisy 2
      block 0   x               x        .        .          own      .        .
      block 1   x               x        x        .          .        own      .
      block 2   x               .        x        x          .        .        own
  """
  tokens, both = layout.tokens(*NOISY_PHASES), Coords.concatenate(clean, noisy)
  units = (clean.unit.shape[0] - layout.world_tokens) // layout.clean_tokens
  size = size or (BLOCK_TOKENS if platform() == "cpu" else BLOCK_TOKENS_ELSEWHERE)
  plan = plan_blocks(layout, units, noisy.unit.shape[0] // tokens, size)
  copy = jnp.concatenate([jnp.full(clean.unit.shape, -1), jnp.arange(noisy.unit.shape[0]) // tokens])  # [T]
  prefix = clean[: plan.prefix]

  def masks(block: Block) -> Masks:
    take = functools.partial(cut, ranges=block.queries)
    queries, of_queries = jax.tree.map(take, both), take(copy)
    keys, of_keys = jax.tree.map(functools.partial(cut, ranges=block.keys), (both, copy))
    own_or_clean = (of_keys < 0) | (of_keys == of_queries[:, None])  # two copies of a unit have the same scope
    at_time = visible(queries, keys, layout.config.window) & own_or_clean & ~keys.pinned
    return Masks(visible(queries, prefix, layout.config.window) & prefix.pinned, at_time)

  of_blocks = tuple(masks(block) for block in plan.blocks)
  return lambda queries, own, _: attend_blocks(plan, queries, own, of_blocks)


def plan_blocks(layout: Layout, units: int, copies: int, size: int) -> Plan:
  """Blocks of whole units with about `size` queries, for the tokens [WORLD | clean units | noisy copies].

  Copy i is of one of the units that `teacher_forcing.pick_units` draws for it; it belongs to the block with the last
  of them.
  """
  world, clean, noisy = layout.world_tokens, layout.clean_tokens, layout.tokens(*NOISY_PHASES)
  window, end = layout.config.window or units, world + units * clean
  count = min(MOST_BLOCKS, units, max(1, round((units * clean + copies * noisy) / size)))
  edges = [units * i // count for i in range(count + 1)]
  blocks = [Block(((0, world),), ())] if world else []
  for first, stop in itertools.pairwise(edges):
    some = (copies * first // units, copies * stop // units)
    oldest = max(0, some[0] * units // copies - window + 1)  # that a copy of the block may see
    of_copies = ((end + some[0] * noisy, end + some[1] * noisy),) if some[1] > some[0] else ()
    blocks.append(
      Block(
        ((world + first * clean, world + stop * clean), *of_copies),
        ((world + oldest * clean, world + stop * clean), *of_copies),
      )
    )
  return Plan(tuple(blocks), min(layout.pinned_tokens, end))
