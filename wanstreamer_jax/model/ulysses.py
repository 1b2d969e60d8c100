"""Context parallelism of the training pass: the tokens of one session lie on the devices of the mesh axis `context`.

Of C devices each has a share of WORLD, of the clean units and of the ephemeral units, so that all but attention is
local: perception, packing, the layers' products, the heads.

    [world | clean units 0 .. K/C-1 | late units 0 .. K/C-1]  [world | clean units K/C .. | late units K/C ..]  ...

Around attention, tokens are exchanged for heads (DeepSpeed-Ulysses, arXiv 2309.14509) and put in the order that the
masks know, [WORLD | clean units | ephemeral units]:

    [T/C, N, H] -all-to-all-> [T, N/C, H] -> attention -> [T, N/C, H] -all-to-all-> [T/C, N, H]

Every device then has all tokens of its heads, hence equal work under any mask.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import AttentionFn, teacher_forced_attention
from wanstreamer_jax.model.attention_gpu import teacher_forced_attention_gpu
from wanstreamer_jax.nn.attention_merge import CuDNN
from wanstreamer_jax.nn.attention_parts import Queries
from wanstreamer_jax.nn.blocks import KeyValue
from wanstreamer_jax.parallel.mesh import axis_size, constrain
from wanstreamer_jax.units import Coords, build_layout

CONTEXT, TENSOR = "context", "tensor"


@dataclasses.dataclass(frozen=True)
class Shares:
  """How the parts of a sequence are dealt out. count: C; parts: tokens of WORLD, of all clean and of all late units."""

  count: int
  parts: tuple[int, ...]

  def deal(self, *parts: Any) -> Any:
    """Arrays [tokens, ...] (or trees of them), one per part -> one of [T, ...], in the order of devices. Parts that do
    not divide are filled up with zeros."""
    return jax.tree.map(self._deal, *parts)

  def _deal(self, *parts: jax.Array) -> jax.Array:
    shared = [x.reshape(self.count, x.shape[0] // self.count, *x.shape[1:]) for x in map(self._pad, parts)]
    joined = jnp.concatenate(shared, axis=1)
    return constrain(joined.reshape(-1, *joined.shape[2:]), CONTEXT)

  def _pad(self, part: jax.Array) -> jax.Array:
    missing = -part.shape[0] % self.count
    return jnp.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1)) if missing else part

  def collect(self, x: jax.Array) -> list[jax.Array]:
    """The parts of what `deal` made."""
    by_share, out, start = x.reshape(self.count, -1, *x.shape[1:]), [], 0
    for tokens in self.parts:
      stop = start + -(-tokens // self.count)
      out.append(by_share[:, start:stop].reshape(-1, *x.shape[1:])[:tokens])
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


def over_heads(
  see: Callable[[Coords, Coords], AttentionFn], clean: Coords, late: Coords, shares: Shares
) -> AttentionFn:
  """The mixer `see(clean, late)`, whose tokens are [clean | late], for tokens dealt out by `shares`; heads are split
  over `tensor` and `context`. The identity outside a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return see(clean, late)
  tensor = axis_size(TENSOR)

  def local(queries: Queries, own: KeyValue, clean: Coords, late: Coords) -> jax.Array:
    whole = lambda x: jnp.concatenate(shares.collect(_exchange(x, 1, 0)))
    mixed = see(clean, late)(jax.tree.map(whole, queries), jax.tree.map(whole, own), None)
    starts = [sum(shares.parts[:i]) for i in range(1, len(shares.parts))]
    return _exchange(shares.deal(*jnp.split(mixed, starts)), 0, 1)

  def mixer(queries: Queries, own: KeyValue, _: None) -> jax.Array:
    heads = queries.now.shape[1]
    ways = tensor * shares.count if heads % (tensor * shares.count) == 0 else 1
    repeats = math.lcm(own.k.shape[1], ways) // own.k.shape[1]  # so that each device gets the keys of its queries
    own = jax.tree.map(lambda x: jnp.repeat(x, repeats, axis=1), own) if repeats > 1 else own
    split = PartitionSpec(CONTEXT, TENSOR if ways > 1 else None)
    # Kernels are opaque to XLA's partitioner, and what it does not have to guess it cannot gather.
    specs = (split, split, PartitionSpec(), PartitionSpec())
    spread = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    return spread(queries, own, clean, late)

  return mixer


def training_mixer(config: Config, clean: Coords, late: Coords, shares: Shares, evicts: bool) -> AttentionFn:
  """How the training pass attends: `config.model.attention`. The numbers are the same. evicts: as for splash."""
  layout = build_layout(config)
  if config.model.attention == "xla":
    return over_heads(lambda c, e: teacher_forced_attention(c, e, layout), clean, late, shares)
  if config.model.attention == "cudnn":
    return over_heads(lambda c, e: teacher_forced_attention_gpu(c, e, layout, CuDNN()), clean, late, shares)
  from wanstreamer_jax.model.attention_tpu import teacher_forced_attention_tpu  # Pallas takes a second to import

  return over_heads(lambda c, e: teacher_forced_attention_tpu(c, e, layout, evicts), clean, late, shares)


def locally(function: Callable[..., Any], *specs: PartitionSpec) -> Callable[..., Any]:
  """`function(modules, *inputs) -> outputs`, a tuple, for one session on the devices that have it: XLA's partitioner
  would gather all sessions for a Fourier transform, and all units of one for a convolution. specs: of the inputs, and
  of as many outputs. The identity outside a mesh and inside `jax.shard_map`."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or AxisType.Auto not in mesh.axis_types:
    return function
  return jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), *specs), out_specs=specs, check_vma=False)


def _exchange(x: jax.Array, split: int, join: int) -> jax.Array:
  """Splits one axis over the devices of `context` for another that becomes whole."""
  return x if axis_size(CONTEXT) == 1 else jax.lax.all_to_all(x, CONTEXT, split, join, tiled=True)
