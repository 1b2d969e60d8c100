"""One session on several devices: attention exchanges tokens for heads, and back. The method is DeepSpeed-Ulysses
(arXiv 2309.14509).

    q, k, v [T/C, N, H] -tokens_to_heads-> [T, N/C, H] -> attention -> [T, N/C, H] -heads_to_tokens-> [T/C, N, H]

Everything but attention is local to a token. During attention every device has all tokens of its heads, which makes
work equal under any mask. Two passes use it:

training     The tokens of a crop are split over the mesh axis `context`. Each of C devices has a share of WORLD, of the
             clean units and of the noisy copies, so that perception, packing, products and heads are local too:

             [world | clean units 0 .. K/C-1 | noisy 0 .. I/C-1]  [world | clean units K/C .. | noisy I/C ..]  ...

performer    Every device holds its share of a unit's video tokens and all of its audio tokens, which are few. The
             keys of the cache are split by head and never move.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import AttentionFn, cached_attention
from wanstreamer_jax.model.transformer import Cache, Pass, Transformer
from wanstreamer_jax.nn.attention_parts import KeyValue, Queries
from wanstreamer_jax.parallel.mesh import axis_size, constrain
from wanstreamer_jax.units import PERFORM, REFEED, Coords, Segment, build_layout, segment_slices

CONTEXT, TENSOR = "context", "tensor"


def tokens_to_heads(x: jax.Array, axis: str) -> jax.Array:
  """A share of the tokens [T/C, N, H] -> a share of the heads [T, N/C, H]; called inside `jax.shard_map`."""
  return x if jax.lax.axis_size(axis) == 1 else jax.lax.all_to_all(x, axis, split_axis=1, concat_axis=0, tiled=True)


def heads_to_tokens(x: jax.Array, axis: str) -> jax.Array:
  """The way back: [T, N/C, H] -> [T/C, N, H]."""
  return x if jax.lax.axis_size(axis) == 1 else jax.lax.all_to_all(x, axis, split_axis=0, concat_axis=1, tiled=True)


# Training: the tokens of a crop over `context`.


@dataclasses.dataclass(frozen=True)
class ContextSharding:
  """How the parts of a sequence are spread over C devices."""

  count: int  # C
  parts: tuple[int, ...]  # tokens of WORLD, of all clean units, of all noisy copies

  def scatter(self, *parts: Any) -> Any:
    """Arrays [tokens, ...] (or trees of them), one per part -> one of [T, ...], in the order of devices. Parts that do
    not divide evenly are padded with zeros."""
    return jax.tree.map(self._scatter, *parts)

  def _scatter(self, *parts: jax.Array) -> jax.Array:
    shares = [x.reshape(self.count, x.shape[0] // self.count, *x.shape[1:]) for x in map(self._pad, parts)]
    joined = jnp.concatenate(shares, axis=1)  # [C, T / C, ...]
    return constrain(joined.reshape(-1, *joined.shape[2:]), CONTEXT)

  def _pad(self, part: jax.Array) -> jax.Array:
    missing = -part.shape[0] % self.count
    return jnp.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1)) if missing else part

  def gather(self, x: jax.Array) -> list[jax.Array]:
    """The inverse of `scatter`: the parts."""
    by_device, out, start = x.reshape(self.count, -1, *x.shape[1:]), [], 0  # [C, T / C, ...]
    for tokens in self.parts:
      stop = start + -(-tokens // self.count)
      out.append(by_device[:, start:stop].reshape(-1, *x.shape[1:])[:tokens])
      start = stop
    return out


def check_devices(heads: int, units: int, noisy_units: int) -> None:
  """Raises ConfigError unless heads and units divide over the current mesh's context (and tensor) axis."""
  context, tensor = axis_size(CONTEXT), axis_size(TENSOR)
  if heads % (tensor * context):
    raise ConfigError(
      f"model.heads is {heads}, which does not divide over tensor={tensor} x context={context}: attention splits heads "
      "over these axes; change train.mesh"
    )
  for name, count in (("data.units", units), ("train.noisy_units", noisy_units)):
    if count % context:
      near = -(-count // context) * context
      raise ConfigError(
        f"{name} is {count}, which does not divide over context={context}: use {near}, or change train.mesh"
      )


def ulysses(
  attention: Callable[[Coords, Coords], AttentionFn], clean: Coords, noisy: Coords, sharding: ContextSharding
) -> AttentionFn:
  """`attention(clean, noisy)`, whose tokens are [clean | noisy], for tokens scattered by `sharding`; heads are split
  over `tensor` and `context`. `attention(clean, noisy)` itself outside a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return attention(clean, noisy)
  tensor = axis_size(TENSOR)

  def by_heads(x: jax.Array) -> jax.Array:
    """[T/C, N, H], this device's tokens -> [T, N/C, H] in the order [WORLD | clean units | noisy copies]."""
    return jnp.concatenate(sharding.gather(tokens_to_heads(x, CONTEXT)))

  def local(queries: Queries, own: KeyValue, clean: Coords, noisy: Coords) -> jax.Array:
    mixed = attention(clean, noisy)(jax.tree.map(by_heads, queries), jax.tree.map(by_heads, own), None)
    starts = [sum(sharding.parts[:i]) for i in range(1, len(sharding.parts))]
    return heads_to_tokens(sharding.scatter(*jnp.split(mixed, starts)), CONTEXT)

  def sharded(queries: Queries, own: KeyValue, _: None) -> jax.Array:
    heads = queries.at_time.shape[1]
    ways = tensor * sharding.count if heads % (tensor * sharding.count) == 0 else 1
    repeats = math.lcm(own.k.shape[1], ways) // own.k.shape[1]  # each device gets the keys that its queries need
    own = jax.tree.map(lambda x: jnp.repeat(x, repeats, axis=1), own) if repeats > 1 else own
    split = PartitionSpec(CONTEXT, TENSOR if ways > 1 else None)
    # XLA's partitioner cannot look into kernels. With explicit sharding it does not have to guess and gathers nothing.
    specs = (split, split, PartitionSpec(), PartitionSpec())
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)(queries, own, clean, noisy)

  return sharded


def locally(function: Callable[..., Any], *specs: PartitionSpec) -> Callable[..., Any]:
  """`function(modules, *inputs) -> outputs`, a tuple, for one session on the devices that have it: XLA's partitioner
  would gather all sessions for a Fourier transform, and all units of one for a convolution. specs: of the inputs, and
  of as many outputs. The identity outside a mesh and inside `jax.shard_map`."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or AxisType.Auto not in mesh.axis_types:
    return function
  return jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), *specs), out_specs=specs, check_vma=False)


# Performer: the video tokens of one unit over the devices of a group.


def check_performer_devices(config: Config, devices: int) -> None:
  """Raises ConfigError when the performer does not divide over this number of devices."""
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


def ulysses_pass(axis: str) -> Pass:
  """A pass that spreads the video tokens of REFEED or PERFORM over the devices of a mesh axis: called inside
  `jax.shard_map`, a drop-in for `transformer.single_device`."""
  return functools.partial(_pass, axis)


@dataclasses.dataclass(frozen=True)
class PerformerSharding:
  """The places of REFEED or PERFORM tokens on the G devices of `axis`: a share of the video, all of the audio.

  video, audio: their places among the segments' tokens. Tokens in the order of this class are [video | audio].
  """

  axis: str
  video: slice
  audio: slice

  @classmethod
  def of(cls, axis: str, segments: tuple[Segment, ...]) -> "PerformerSharding":
    places = segment_slices(segments)
    (video,) = (place for name, place in places.items() if name.endswith("_video"))
    (audio,) = (place for name, place in places.items() if name.endswith("_audio"))
    return cls(axis, video, audio)

  @property
  def count(self) -> int:
    """Video tokens, Tv."""
    return self.video.stop - self.video.start

  @property
  def share(self) -> int:
    """Video tokens of one device, Tv/G."""
    return self.count // jax.lax.axis_size(self.axis)

  def reorder(self, x: jax.Array) -> jax.Array:
    """[T, ...] in the order of segments -> [video | audio]."""
    return jnp.concatenate([x[self.video], x[self.audio]])

  def restore(self, video: jax.Array, audio: jax.Array, axis: int = 0) -> jax.Array:
    """Whole video and audio tokens in the order of segments."""
    return jnp.concatenate([video, audio] if self.video.start < self.audio.start else [audio, video], axis=axis)

  def scatter(self, x: jax.Array) -> jax.Array:
    """[T, ...] in the order of segments -> this device's [Tv/G + Ta, ...]."""
    first = jax.lax.axis_index(self.axis) * self.share
    return jnp.concatenate([jax.lax.dynamic_slice_in_dim(x[self.video], first, self.share), x[self.audio]])

  def gather(self, x: jax.Array) -> jax.Array:
    """The way back: [Tv/G + Ta, ...] -> [T, ...]."""
    video = jax.lax.all_gather(x[: self.share], self.axis, axis=0, tiled=True)
    return self.restore(video, x[self.share :])

  def by_heads(self, x: jax.Array) -> jax.Array:
    """[Tv/G + Ta, N, H] -> [Tv + Ta, N/G, H]."""
    heads = x.shape[1] // jax.lax.axis_size(self.axis)
    first = jax.lax.axis_index(self.axis) * heads
    audio = jax.lax.dynamic_slice_in_dim(x[self.share :], first, heads, axis=1)
    return jnp.concatenate([tokens_to_heads(x[: self.share], self.axis), audio])

  def by_tokens(self, x: jax.Array) -> jax.Array:
    """[Tv + Ta, N/G, H] -> [Tv/G + Ta, N, H]."""
    audio = jax.lax.all_gather(x[self.count :], self.axis, axis=1, tiled=True)
    return jnp.concatenate([heads_to_tokens(x[: self.count], self.axis), audio])


def _pass(
  axis: str, transformer: Transformer, segments: tuple[Segment, ...], x: jax.Array, coords: Coords,
  key_coords: list[Coords], groups: list[KeyValue],
) -> tuple[jax.Array, KeyValue]:  # fmt: skip
  """As `transformer.single_device`: hidden states of all tokens on every device, keys and values of this device's
  heads."""
  layout, sharding = build_layout(transformer.config), PerformerSharding.of(axis, segments)
  of_heads = cached_attention(
    jax.tree.map(sharding.reorder, coords), key_coords, groups, layout.config.window, layout.pinned_tokens
  )

  def attention(queries: Queries, own: KeyValue, layer: jax.Array) -> jax.Array:
    queries, own = Queries(*map(sharding.by_heads, queries)), KeyValue(*map(sharding.by_heads, own))
    return sharding.by_tokens(of_heads(queries, own, layer))

  hidden, kv = transformer(sharding.scatter(x), jax.tree.map(sharding.scatter, coords), attention)
  kv = KeyValue(*map(jax.vmap(sharding.by_heads), kv))  # [L, Tv + Ta, M/G, H]
  in_order = lambda y: sharding.restore(y[:, : sharding.count], y[:, sharding.count :], axis=1)
  return sharding.gather(hidden), KeyValue(*map(in_order, kv))


def sharded_heads(cache: Cache, axis: str, leading: int = 0) -> Any:
  """PartitionSpecs of a cache whose heads are spread over `axis`; `leading` axes come before [L, M, S, H]."""
  rows = lambda leaf: PartitionSpec(*[None] * (leading + 1), axis, *[None] * (leaf.ndim - leading - 2))
  return Cache(jax.tree.map(rows, cache.kv), jax.tree.map(lambda _: PartitionSpec(), cache.coords))
