"""The training pass's attention on GPUs, in chunks. It gives the same numbers as `attention.teacher_forced_attention`.

A chunk is a few consecutive units: their clean tokens and the noisy tokens of their copies, C tokens in all. Its
queries meet three pieces of the keys, which `nn.attention_merge` joins in one softmax:

    WORLD     by queries rotated back by what was evicted                        dense, a few hundred keys
    history   clean units of earlier chunks, those that exist moved to the       a flash kernel, most of the work
              front: who is seen is nothing but a length
    own       the chunk's own tokens, under the mask of `units.visible`          dense, about CHUNK_TOKENS keys

              WORLD    clean 0  noisy 0 | clean 1  noisy 1 | clean 2  noisy 2
    chunk 0   WORLD    own      own     |                  |
    chunk 1   WORLD    history          | own      own     |
    chunk 2   WORLD    history          | history          | own      own
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import AttentionFn
from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_merge import Dense, Kernel, Piece, merge
from wanstreamer_jax.nn.attention_parts import KeyValue, Part, Queries
from wanstreamer_jax.units import NOISY_PHASES, Coords, Layout, visible

CHUNK_TOKENS = 2048  # tokens; larger chunks waste work on masked scores, smaller ones leave a GPU idle


class Chunking(NamedTuple):
  """How [WORLD | clean units | noisy copies] is cut into chunks."""

  chunks: int  # how many
  world: int  # tokens of WORLD, W
  clean: int  # clean tokens of a chunk
  noisy: int  # noisy tokens of a chunk

  @property
  def noisy_start(self) -> int:
    """Where the noisy copies begin."""
    return self.world + self.chunks * self.clean

  def cut(self, clean: jax.Array, noisy: jax.Array) -> jax.Array:
    """All clean units [chunks * clean, ...] and all noisy copies [chunks * noisy, ...] -> [chunks, C, ...]."""
    parts = (x.reshape(self.chunks, -1, *x.shape[1:]) for x in (clean, noisy))
    return jnp.concatenate(list(parts), axis=1)

  def cut_tokens(self, x: jax.Array) -> jax.Array:
    """[T, ...] without WORLD -> [chunks, C, ...]."""
    return self.cut(x[self.world : self.noisy_start], x[self.noisy_start :])

  def join(self, world: jax.Array, chunks: jax.Array) -> jax.Array:
    """The inverse, with WORLD's [W, ...]: [T, ...]."""
    clean, noisy = chunks[:, : self.clean], chunks[:, self.clean :]
    return jnp.concatenate([world, *(x.reshape(-1, *x.shape[2:]) for x in (clean, noisy))])


class Masks(NamedTuple):
  """What the queries of each chunk see."""

  world: jax.Array  # bool [chunks, C, W]
  own: jax.Array  # bool [chunks, C, C]
  history: jax.Array  # int32 [chunks]: how many of the first keys in `order`
  order: jax.Array  # int32 [clean tokens]: existing keys first, in their order


class Chunk(NamedTuple):
  """The inputs of one chunk's attention, or of all chunks with a leading axis [chunks]."""

  queries: Queries  # [C, N, H]
  own: KeyValue  # [C, M, H]
  world_mask: jax.Array  # bool [C, W]
  own_mask: jax.Array  # bool [C, C]
  history: jax.Array  # int32


def teacher_forced_attention_gpu(
  clean: Coords, noisy: Coords, layout: Layout, history: Kernel, size: int = CHUNK_TOKENS
) -> AttentionFn:
  """As `teacher_forced_attention`. history: the kernel for keys of earlier chunks; it gets their number.

  Raises ConfigError for crops longer than the window and for sinks, whose keys would be neither WORLD nor history.
  """
  units = (clean.unit.shape[0] - layout.world_tokens) // layout.clean_tokens
  _check(layout, units)
  chunking = _chunking(layout, units, noisy.unit.shape[0] // layout.tokens(*NOISY_PHASES), size)
  masks = _masks(clean, noisy, layout, chunking)
  world, window = chunking.world, layout.config.window
  within_world = visible(clean[:world], clean[:world], window)  # [W, W]

  def attention(queries: Queries, own: KeyValue, _: None) -> jax.Array:
    of_world = KeyValue(*(x[:world] for x in own))
    past = KeyValue(*(x[world : chunking.noisy_start][masks.order] for x in own))  # [clean tokens, M, H]
    own_queries, own_keys = jax.tree.map(chunking.cut_tokens, (queries, own))
    chunks = Chunk(own_queries, own_keys, masks.world, masks.own, masks.history)

    def later(chunk: Chunk) -> jax.Array:
      piece = Piece(chunk.queries.at_time, past.k, past.v, chunk.history)
      return _attend_chunk(chunk, of_world, [piece], [history])

    first = _attend_chunk(jax.tree.map(lambda x: x[0], chunks), of_world, [], [])  # [C, N, H]: without history
    mixed = first[None]
    if chunking.chunks > 1:
      mixed = jnp.concatenate([mixed, jax.lax.map(later, jax.tree.map(lambda x: x[1:], chunks))])
    mixed_world = queries.at_time[:0]
    if world:
      mixed_world = attend(Queries(*(x[:world] for x in queries)), [Part(*of_world.by_head(), within_world)])
    return chunking.join(mixed_world, mixed)

  return attention


def _attend_chunk(chunk: Chunk, world: KeyValue, pieces: list[Piece], kernels: list[Kernel]) -> jax.Array:
  """[C, N, H]: attends to a chunk's own keys, WORLD's (W may be 0) and further pieces, each with its kernel."""
  dense = [Piece(chunk.queries.at_time, *chunk.own, chunk.own_mask)]
  if world.k.shape[0]:
    dense.append(Piece(chunk.queries.at_pinned, *world, chunk.world_mask))
  return merge((*(Dense(),) * len(dense), *kernels), (*dense, *pieces))


def _masks(clean: Coords, noisy: Coords, layout: Layout, chunking: Chunking) -> Masks:
  world, window = clean[: chunking.world], layout.config.window
  coords = jax.tree.map(chunking.cut, clean[chunking.world :], noisy)  # [chunks, C]
  exists = clean.valid[chunking.world :]
  in_chunk = exists.reshape(chunking.chunks, -1).sum(axis=1)
  return Masks(
    world=jax.vmap(lambda own: visible(own, world, window))(coords),
    own=jax.vmap(lambda own: visible(own, own, window))(coords),
    history=(jnp.cumsum(in_chunk) - in_chunk).astype(jnp.int32),
    order=jnp.argsort(~exists, stable=True),
  )


def _check(layout: Layout, units: int) -> None:
  window, sinks = layout.config.window, layout.config.sinks
  if sinks or (window is not None and units > window):
    raise ConfigError(
      f"cudnn attention needs layout.sinks=0 (now {sinks}) and the whole crop inside the window: "
      f"data.units is {units}, layout.window {window}; change them, or set model.attention=xla"
    )


def _chunking(layout: Layout, units: int, copies: int, size: int) -> Chunking:
  """The smallest number of equal chunks of at most `size` tokens each, or as many chunks as possible."""
  clean, noisy = units * layout.clean_tokens, copies * layout.tokens(*NOISY_PHASES)
  possible = [n for n in range(1, copies + 1) if copies % n == 0 and units % n == 0]
  count = next((n for n in possible if (clean + noisy) // n <= size), possible[-1])
  return Chunking(count, layout.world_tokens, clean // count, noisy // count)
