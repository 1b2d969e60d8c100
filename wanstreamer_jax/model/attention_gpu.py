"""The training pass's attention on GPUs: the same numbers as `attention.teacher_forced_attention`, in chunks.

A chunk is a few units with their clean and their ephemeral tokens. Its queries meet three parts of the keys, which
`nn.merge` joins in one softmax (W = WORLD, h = clean units of earlier chunks, c = the chunk's own tokens):

    W   by queries turned back by what was evicted                               dense, a few hundred keys
    h   all of them, those that exist moved to the front: nothing but a length   a flash kernel, most of the work
    c   under the mask of `units.visible`                                        dense, about CHUNK keys
"""

import jax
import jax.numpy as jnp

from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import AttentionFn
from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_merge import Dense, Kernel, Piece, merge
from wanstreamer_jax.nn.attention_parts import Part, Queries
from wanstreamer_jax.nn.blocks import KeyValue
from wanstreamer_jax.units import EPHEMERAL_PHASES, Coords, Layout, visible

CHUNK = 2048  # tokens; larger ones waste more on masked scores, smaller ones leave a GPU without work


def teacher_forced_attention_gpu(
  clean: Coords, ephemeral: Coords, layout: Layout, history: Kernel, size: int = CHUNK
) -> AttentionFn:
  """As `teacher_forced_attention`. history: the kernel for keys of earlier chunks, which is told how many there are.

  Raises ConfigError for crops longer than the window and for sinks, whose keys would be neither W nor h.
  """
  world, window = layout.world_tokens, layout.config.window
  noisy_units = ephemeral.unit.shape[0] // layout.tokens(*EPHEMERAL_PHASES)
  units = (clean.unit.shape[0] - world) // layout.clean_tokens
  if layout.config.sinks or (window is not None and units > window):
    raise ConfigError(
      f"cudnn attention needs layout.sinks=0 (now {layout.config.sinks}) and the whole crop inside the window: "
      f"data.units is {units}, layout.window {window}; change them, or set model.attention=xla"
    )
  chunks = _chunks(units, noisy_units, clean.unit.shape[0] - world + ephemeral.unit.shape[0], size)

  def fold(of_clean: jax.Array, of_late: jax.Array) -> jax.Array:
    """Tokens of the clean units and of the ephemeral ones -> [chunks, tokens of a chunk, ...]."""
    return jnp.concatenate([x.reshape(chunks, -1, *x.shape[1:]) for x in (of_clean, of_late)], axis=1)

  coords = jax.tree.map(lambda a, b: fold(a[world:], b), clean, ephemeral)
  to_world = jax.vmap(lambda own: visible(own, clean[:world], window))(coords)
  to_chunk = jax.vmap(lambda own: visible(own, own, window))(coords)
  exists = clean.valid[world:]
  first = jnp.argsort(~exists, stable=True)
  counts = jnp.cumsum(exists.reshape(chunks, -1).sum(axis=1)).astype(jnp.int32)

  def mixer(queries: Queries, own: KeyValue, _: None) -> jax.Array:
    total = clean.unit.shape[0]
    split = lambda x: fold(x[world:total], x[total:])
    k, v = own.k[:world], own.v[:world]
    past = KeyValue(*(x[world:total][first] for x in own))

    def chunk(inputs):
      now, turned, own_k, own_v, see_world, see_chunk, count = inputs
      pieces = [Piece(now, own_k, own_v, see_chunk)] + [Piece(turned, k, v, see_world)] * (world > 0)
      if count is not None:
        return merge((*(Dense(),) * len(pieces), history), (*pieces, Piece(now, past.k, past.v, count)))
      return merge((Dense(),) * len(pieces), tuple(pieces))

    inputs = (split(queries.now), split(queries.pinned), split(own.k), split(own.v), to_world, to_chunk)
    mixed = chunk((*jax.tree.map(lambda x: x[0], inputs), None))[None]
    if chunks > 1:
      rest = (*jax.tree.map(lambda x: x[1:], inputs), counts[:-1])
      mixed = jnp.concatenate([mixed, jax.lax.map(chunk, rest)])
    each = (total - world) // chunks
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    parts = [flat(mixed[:, :each]), flat(mixed[:, each:])]
    if world:
      within = visible(clean[:world], clean[:world], window)
      parts = [attend(Queries(*(x[:world] for x in queries)), [Part(k, v, within)]), *parts]
    return jnp.concatenate(parts)

  return mixer


def _chunks(units: int, noisy_units: int, tokens: int, size: int) -> int:
  """The least number of equal chunks of at most `size` tokens, or the most that there can be."""
  possible = [n for n in range(1, noisy_units + 1) if noisy_units % n == 0 and units % n == 0]
  return next((n for n in possible if tokens // n <= size), possible[-1])
