"""The context-parallel performer: one pass of the Transformer over several devices (DeepSpeed-Ulysses' exchange).

Between attentions every device holds its share of the video tokens, and all audio tokens, which are few. Around
attention it holds all tokens for its share of the heads, and so do the keys of the cache: they never move.

    x [Tv/G + Ta, D] -> q, k, v [Tv/G + Ta, N, H] -all-to-all-> [Tv + Ta, N/G, H] -> attention -all-to-all-> ...

To be called inside `jax.shard_map`, by the name of the mesh axis; a drop-in for `transformer.alone`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import cached_attention
from wanstreamer_jax.model.transformer import Cache, Pass, Transformer
from wanstreamer_jax.nn.attention_parts import Queries
from wanstreamer_jax.nn.blocks import KeyValue
from wanstreamer_jax.units import PERFORM, REFEED, Coords, Segment, build_layout, segment_slices


def check_devices(config: Config, devices: int) -> None:
  """Raises ConfigError when the performer does not divide over so many devices."""
  layout, model = build_layout(config), config.model
  for name, count in (("model.heads", model.heads), ("model.kv_heads", model.kv_heads)):
    if count % devices:
      raise ConfigError(f"{name} is {count}, which does not divide over {devices} devices: choose another number")
  for segment in layout.phase(REFEED, PERFORM):
    if segment.name.endswith("_video") and segment.tokens % devices:
      raise ConfigError(
        f"a unit has {segment.tokens} tokens {segment.name}, which do not divide over {devices} devices: choose "
        "another number, or another layout.patch"
      )


def over_devices(axis: str) -> Pass:
  """A pass that spreads the video tokens of REFEED or PERFORM over the devices of a mesh axis."""
  return functools.partial(_spread, axis)


def _spread(
  axis: str, transformer: Transformer, segments: tuple[Segment, ...], x: jax.Array, coords: Coords,
  key_coords: list[Coords], groups: list[KeyValue],
) -> tuple[jax.Array, KeyValue]:  # fmt: skip
  """As `transformer.alone`: hidden states of all tokens on every device, keys and values of this device's heads."""
  layout = build_layout(transformer.config)
  devices, here = jax.lax.axis_size(axis), jax.lax.axis_index(axis)
  places = segment_slices(segments)
  (video,) = (place for name, place in places.items() if name.endswith("_video"))
  (audio,) = (place for name, place in places.items() if name.endswith("_audio"))
  count = video.stop - video.start
  reorder = lambda y: jnp.concatenate([y[video], y[audio]])
  share = lambda y: jax.lax.dynamic_slice_in_dim(y, here * (count // devices), count // devices)
  mine = lambda y: jnp.concatenate([share(y[video]), y[audio]])

  def by_head(y: jax.Array) -> jax.Array:
    """[Tv/G + Ta, N, H] -> [Tv + Ta, N/G, H]."""
    heads = y.shape[1] // devices
    seen = jax.lax.all_to_all(y[: count // devices], axis, split_axis=1, concat_axis=0, tiled=True)
    heard = jax.lax.dynamic_slice_in_dim(y[count // devices :], here * heads, heads, axis=1)
    return jnp.concatenate([seen, heard])

  def by_token(y: jax.Array) -> jax.Array:
    """[Tv + Ta, N/G, H] -> [Tv/G + Ta, N, H]."""
    seen = jax.lax.all_to_all(y[:count], axis, split_axis=0, concat_axis=1, tiled=True)
    heard = jax.lax.all_gather(y[count:], axis, axis=1, tiled=True)
    return jnp.concatenate([seen, heard])

  attend = cached_attention(
    jax.tree.map(reorder, coords), key_coords, groups, layout.config.window, layout.pinned_tokens
  )

  def mixer(queries: Queries, own: KeyValue, index: jax.Array) -> jax.Array:
    return by_token(attend(Queries(*map(by_head, queries)), KeyValue(*map(by_head, own)), index))

  hidden, kv = transformer(mine(x), jax.tree.map(mine, coords), mixer)
  seen = jax.lax.all_gather(hidden[: count // devices], axis, axis=0, tiled=True)
  parts = [seen, hidden[count // devices :]]
  whole = jnp.concatenate(parts if video.start < audio.start else parts[::-1])
  kv = KeyValue(*map(jax.vmap(by_head), kv))
  return whole, kv if video.start < audio.start else _swap(kv, count)


def _swap(kv: KeyValue, first: int) -> KeyValue:
  """Keys and values [L, T, ...] with the first tokens moved behind the others."""
  return jax.tree.map(lambda y: jnp.concatenate([y[:, first:], y[:, :first]], axis=1), kv)


def sharded_heads(cache: Cache, axis: str, leading: int = 0) -> Any:
  """PartitionSpecs of a cache whose heads are spread over `axis`; `leading` axes come before [L, S, M, H]."""
  from jax.sharding import PartitionSpec

  rows = lambda leaf: PartitionSpec(*[None] * (leading + 2), axis, *[None] * (leaf.ndim - leading - 3))
  return Cache(jax.tree.map(rows, cache.kv), jax.tree.map(lambda _: PartitionSpec(), cache.coords))
