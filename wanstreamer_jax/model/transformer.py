"""The one Transformer (stacked, scanned layers) and the KV-cache that it writes.

There is one forward pass. Training and streaming differ only in the attention function that they pass in
(`attention.py`), which chooses the keys of a query. Both use the mask of `units.visible`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from wanstreamer_jax.config import POSITIONS_PER_UNIT, Config, ModelConfig
from wanstreamer_jax.model.attention import AttentionFn, cached_attention
from wanstreamer_jax.model.decoder_layer import (
  FLOW_CHANNELS,
  MODULATIONS,
  Condition,
  DecoderLayer,
  FlowTimeEmbedding,
  RotaryAngles,
)
from wanstreamer_jax.nn.attention_parts import KeyValue, Quantised
from wanstreamer_jax.nn.blocks import Linear, RMSNorm
from wanstreamer_jax.nn.rotary import Angles, angles
from wanstreamer_jax.parallel.mesh import constrain
from wanstreamer_jax.units import Coords, Segment, build_layout, evicted


class Cache(NamedTuple):
  """Keys and values of all layers [L, M, S, H] (plain or Quantised) with the coordinates [S] of every slot's token."""

  kv: KeyValue
  coords: Coords

  @classmethod
  def empty(cls, config: ModelConfig, tokens: int) -> "Cache":
    shape = (config.layers, config.kv_heads, tokens, config.head_dim)
    rows: Any = Quantised.empty(shape) if config.kv_cache == "int8" else jnp.zeros(shape, config.dtype)
    return cls(KeyValue(rows, rows), Coords.empty(tokens))

  def write(self, kv: KeyValue, coords: Coords, at: jax.Array) -> "Cache":
    """A cache with the tokens [L, T, M, H] written into the slots at, at + 1, ..."""
    kv = kv.by_head()  # [L, M, T, H]
    if isinstance(self.kv.k, Quantised):
      kv = KeyValue(*map(Quantised.of, kv))  # type: ignore[arg-type]

    def put(axis: int, old: jax.Array, new: jax.Array) -> jax.Array:
      """Writes T rows into S rows along an axis, from `at` on: in place, where the old array is donated."""
      return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), at, axis)

    of_layers, of_tokens = (functools.partial(put, axis) for axis in (2, 0))
    return Cache(jax.tree.map(of_layers, self.kv, kv), jax.tree.map(of_tokens, self.coords, coords))


class Transformer(nnx.Module):
  """Decoder layers of Qwen geometry. At initialisation flow time changes nothing: the text path is a language model."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    model = config.model
    keys = jax.random.split(rngs.params(), model.layers)
    self.layers = jax.vmap(lambda key: DecoderLayer(model, rngs=nnx.Rngs(key)))(keys)
    self.final_norm = RMSNorm(model.width, model.norm_eps)
    self.flow_time = FlowTimeEmbedding(rngs=rngs)
    shared = model.modulation == "shared"
    self.shared_modulation = Linear(FLOW_CHANNELS, (MODULATIONS, model.width), rngs=rngs, scale=0.0) if shared else None
    self.config = config

  def __call__(
    self, x: Float[Array, "T D"], coords: Coords, attention: AttentionFn
  ) -> tuple[Float[Array, "T D"], KeyValue]:
    """Tokens -> (hidden states before the final norm, new keys and values [L, T, M, H])."""
    model = self.config.model
    x = constrain(x.astype(model.dtype), "context", None)  # on a mesh tokens stay split, and weights are gathered
    rotary, latent = self._angles(coords), coords.flow_time >= 0.0
    embedding = self.flow_time(jnp.maximum(coords.flow_time, 0.0)).astype(model.dtype)

    def body(x: jax.Array, scanned: tuple[DecoderLayer, jax.Array]) -> tuple[jax.Array, KeyValue]:
      layer, index = scanned
      condition = Condition(self._shared(embedding), embedding, latent)  # made here: [6, T, D] is never kept
      x, kv = layer(x, condition, rotary, lambda queries, own: attention(queries, own, index))
      return constrain(x, "context", None), kv

    with jax.named_scope("transformer"):
      return jax.lax.scan(_remat(body, model.remat), x, (self.layers, jnp.arange(model.layers)))

  def _shared(self, embedding: jax.Array) -> jax.Array | None:
    """The modulation [6, T, D] that all layers share, if they share one."""
    if self.shared_modulation is None:
      return None
    # [T, 6, D] -> [6, T, D]
    return constrain(jnp.moveaxis(self.shared_modulation(embedding), 0, 1), None, "context", None)

  def _angles(self, coords: Coords) -> RotaryAngles:
    """Rotary angles at the tokens' time, and at that time minus the evicted gap."""
    model, layout = self.config.model, build_layout(self.config)

    def at(position: Int[Array, "T 3"]) -> Angles:
      return angles(position, model.head_dim, model.rope_theta, POSITIONS_PER_UNIT)

    gap = evicted(coords.unit, layout.config)[:, None] * jnp.array(layout.ids_per_unit, jnp.int32)  # [T, 3]
    return RotaryAngles(at(coords.position), at(coords.position - gap))


def _remat(body: Callable, how: str) -> Callable:
  """Rematerialisation of a layer: nothing, everything, or all but the matrix products."""
  if how == "none":
    return body
  policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if how == "dots" else None
  return jax.checkpoint(body, policy=policy, prevent_cse=False)  # a scan's body is compiled once anyway


Pass = Callable[..., tuple[jax.Array, KeyValue]]  # `single_device`, or `ulysses.ulysses_pass`


def single_device(
  transformer: Transformer, segments: tuple[Segment, ...], x: Float[Array, "T D"], coords: Coords,
  key_coords: list[Coords], groups: list[KeyValue],
) -> tuple[Float[Array, "T D"], KeyValue]:  # fmt: skip
  """One pass of the tokens of some segments over key groups, on one device: (hidden states, new keys)."""
  layout = build_layout(transformer.config)
  attention = cached_attention(coords, key_coords, groups, layout.config.window, layout.pinned_tokens)
  return transformer(x, coords, attention)
