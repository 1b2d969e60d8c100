"""Attention of a row in blocks of queries, which meet only keys that they may see.

The ranges are known when the program is traced, so that what no query of a block can see is never scored. Within a
block a mask decides. As in FlashAttention (arXiv 2205.14135), forward keeps only the output and the log of the sum of
exp(scores), and backward computes the scores again:

    P = exp(scores - lse)    dV = P^T dO    dS = P (dO V^T - rowsum(dO out))

so that scores take the memory of one block. On a CPU they also stay in its caches: `jax.vmap` over rows computes one
row after the other there, and all rows at once elsewhere.

Letters: T tokens, t and s queries and keys of a block, P tokens of the prefix, N heads of queries, M heads of keys, R
rows of queries that share a head of keys (`fold_heads`), H head size.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from wanstreamer_jax.nn.attention_parts import MASKED, KeyValue, Queries, fold_heads, unfold_heads
from wanstreamer_jax.nn.backend import platform

Ranges = tuple[tuple[int, int], ...]  # of tokens: from, to


class Block(NamedTuple):
  """Some queries and all keys that they may see beside the prefix."""

  queries: Ranges
  keys: Ranges


class Plan(NamedTuple):
  """How the T tokens are cut. Every token is a query of exactly one block; all meet the first `prefix` keys too."""

  blocks: tuple[Block, ...]
  prefix: int


class Masks(NamedTuple):
  """What the queries of a block see."""

  pinned: jax.Array  # bool [t, P], of the prefix, by `Queries.at_pinned`
  at_time: jax.Array  # bool [t, s], of the block's keys, by `Queries.at_time`


class _Group(NamedTuple):
  """Queries and the keys that they meet: q [M, R, H]; k, v [s, M, H]; mask bool [t, s]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  mask: jax.Array


def cut(x: jax.Array, ranges: Ranges) -> jax.Array:
  """The tokens of some ranges of [T, ...], one range after the other."""
  return jnp.concatenate([x[:0], *(x[start:stop] for start, stop in ranges)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_blocks(plan: Plan, queries: Queries, own: KeyValue, masks: tuple[Masks, ...]) -> jax.Array:
  """Softmax attention [T, N, H] of all tokens, in the dtype of queries; scores and softmax are float32.

  masks: one for each block. A query that sees nothing gets finite numbers without a meaning."""
  return _rows(_forward, plan)(queries, own, masks)[0]


def _attend_forward(plan: Plan, queries: Queries, own: KeyValue, masks: tuple[Masks, ...]):  # type: ignore[no-untyped-def]
  out, lse = _rows(_forward, plan)(queries, own, masks)
  return out, (queries, own, masks, out, lse)


def _attend_backward(plan: Plan, kept, grad: jax.Array):  # type: ignore[no-untyped-def]
  return (*_rows(_backward, plan)(*kept, grad), None)


attend_blocks.defvjp(_attend_forward, _attend_backward)


def _rows(function: Callable, plan: Plan) -> Callable:
  """The function of one row; on CPUs, a batch of rows is computed one after the other."""
  function = functools.partial(function, plan)
  return sequential_vmap(function) if platform() == "cpu" else function


def _forward(plan: Plan, queries: Queries, own: KeyValue, masks: tuple[Masks, ...]) -> tuple[jax.Array, jax.Array]:
  """-> out [T, N, H], lse float32 [T, N]."""
  found = []
  for block, mask in zip(plan.blocks, masks):
    groups = _groups(plan, block, queries, own, mask)
    scores = [_scores(group) for group in groups]
    row_max = functools.reduce(jnp.maximum, [jnp.max(x, axis=-1) for x in scores])  # [M, R]
    weights = [jnp.exp(x - row_max[..., None]) for x in scores]
    total = functools.reduce(jnp.add, [jnp.sum(x, axis=-1) for x in weights])
    mixed = functools.reduce(jnp.add, [_product("mrs,smh->mrh", x, y.v) for x, y in zip(weights, groups)])
    out = (mixed / total[..., None]).astype(own.v.dtype)
    tokens = mask.pinned.shape[0]
    found.append((unfold_heads(out, tokens), unfold_heads(row_max + jnp.log(total), tokens)))
  return tuple(_in_order(plan, list(x)) for x in zip(*found))  # type: ignore[return-value]


def _backward(
  plan: Plan, queries: Queries, own: KeyValue, masks: tuple[Masks, ...], out: jax.Array, lse: jax.Array, grad: jax.Array
) -> tuple[Queries, KeyValue]:
  """Gradients of queries and keys."""
  heads = own.k.shape[1]
  delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)  # [T, N]
  d_own = KeyValue(*(jnp.zeros(x.shape, jnp.float32) for x in own))
  d_queries = []
  for block, mask in zip(plan.blocks, masks):
    of_block = lambda x, block=block: fold_heads(cut(x, block.queries), heads)  # [M, R, ...]
    g, total, correction = of_block(grad), of_block(lse)[..., None], of_block(delta)[..., None]
    found = []
    for group, ranges in zip(_groups(plan, block, queries, own, mask), _key_ranges(plan, block)):
      weights = jnp.exp(_scores(group) - total)
      d_scores = weights * (_product("mrh,smh->mrs", g, group.v) - correction) * g.shape[-1] ** -0.5
      d_k, d_v = _product("mrs,mrh->smh", d_scores, group.q), _product("mrs,mrh->smh", weights, g)
      d_own = KeyValue(_add(d_own.k, ranges, d_k), _add(d_own.v, ranges, d_v))
      found.append(_product("mrs,smh->mrh", d_scores, group.k))
    at_pinned = found[0] if plan.prefix else jnp.zeros_like(g)
    at_time = found[-1] if block.keys else jnp.zeros_like(g)
    d_queries.append(tuple(unfold_heads(x, mask.pinned.shape[0]) for x in (at_time, at_pinned)))
  of_queries = Queries(*(_in_order(plan, list(x)) for x in zip(*d_queries)))
  like = lambda grads, values: jax.tree.map(lambda d, x: d.astype(x.dtype), grads, values)
  return like(of_queries, queries), like(d_own, own)


def _key_ranges(plan: Plan, block: Block) -> list[Ranges]:
  """Where the keys of a block's groups are: the prefix, then those of the block."""
  return [ranges for ranges in (((0, plan.prefix),), block.keys) if ranges and ranges[-1][1]]


def _groups(plan: Plan, block: Block, queries: Queries, own: KeyValue, masks: Masks) -> list[_Group]:
  """As `_key_ranges`."""
  heads = own.k.shape[1]
  kinds = [(queries.at_pinned, masks.pinned)] if plan.prefix else []
  kinds += [(queries.at_time, masks.at_time)] if block.keys else []
  return [
    _Group(fold_heads(cut(q, block.queries), heads), cut(own.k, ranges), cut(own.v, ranges), mask)
    for (q, mask), ranges in zip(kinds, _key_ranges(plan, block))
  ]


def _scores(group: _Group) -> jax.Array:
  """float32 [M, R, s], MASKED where the query does not see the key."""
  scores = _product("mrh,smh->mrs", group.q, group.k) * group.q.shape[-1] ** -0.5
  by_token = scores.reshape(scores.shape[0], -1, *group.mask.shape)  # [M, R, s] -> [M, G, t, s]
  return jnp.where(group.mask, by_token, MASKED).reshape(scores.shape)


def _product(form: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """In the dtype of b, added up in float32."""
  return jnp.einsum(form, a.astype(b.dtype), b, preferred_element_type=jnp.float32)


def _add(x: jax.Array, ranges: Ranges, values: jax.Array) -> jax.Array:
  """x [T, ...] with values added to the tokens of some ranges."""
  done = 0
  for start, stop in ranges:
    x = x.at[start:stop].add(values[done : done + stop - start])
    done += stop - start
  return x


def _in_order(plan: Plan, blocks: list[jax.Array]) -> jax.Array:
  """The queries of all blocks [t, ...] -> [T, ...]."""
  pieces = []
  for block, x in zip(plan.blocks, blocks):
    done = 0
    for start, stop in block.queries:
      pieces.append((start, x[done : done + stop - start]))
      done += stop - start
  return jnp.concatenate([x for _, x in sorted(pieces, key=lambda piece: piece[0])])
