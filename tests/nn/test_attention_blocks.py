"""The training pass in blocks of queries: the numbers and gradients of one dense mask of `units.visible`."""

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.conftest import assert_close
from tests.nn.test_attention_splash import LAYOUTS, UNITS, coordinates, nano, random_attention
from wanstreamer_jax.model.attention import plan_blocks, teacher_forced_attention
from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_parts import KeyValue, Part, Queries
from wanstreamer_jax.units import NOISY_PHASES, Coords, Layout, build_layout, visible

EVERY = tuple(range(UNITS))


def dense(clean: Coords, noisy: Coords, layout: Layout):
  """All tokens against all tokens."""
  both, tokens = Coords.concatenate(clean, noisy), layout.tokens(*NOISY_PHASES)
  copy = jnp.arange(both.unit.shape[0]) - clean.unit.shape[0]
  other = (copy >= 0)[None] & (copy // tokens != (copy // tokens)[:, None])
  mask, pinned = visible(both, both, layout.config.window) & ~other, clean.pinned[: layout.pinned_tokens]
  return lambda queries, own, _: attend(queries, [Part(*own.by_head(), mask, pinned)])


@pytest.mark.parametrize(
  ("overrides", "first", "picked", "size"),
  [
    ((), 50, EVERY, 1),
    (("layout.window=2",), 3, (1, 2), 1),
    (("layout.window=None",), 50, (2,), 1),
    (("layout.sinks=2", "layout.window=1"), 0, EVERY, 1),
    (("layout.sinks=1", "layout.window=2"), 9, (0, 2), 10_000),
    (LAYOUTS["split"], 7, (1, 2), 40),
    (LAYOUTS["no world"], 2, EVERY, 40),
    (("layout.window=2",), 5, (0, 0, 1, 1, 2, 2, 3, 3), 40),
  ],
)
def test_blocks_are_the_dense_mask(overrides, first, picked, size):
  config = nano(*overrides, "model.heads=4", "model.kv_heads=2")
  attention, inputs, out, valid = random_attention(config, first, picked)

  def value(way, *inputs):
    mixed = attention(way, *inputs)
    return jnp.sum(mixed * out), mixed * valid

  by = lambda way: jax.jit(jax.grad(functools.partial(value, way), (0, 1, 2), has_aux=True))(*inputs)
  assert_close(by(functools.partial(teacher_forced_attention, size=size)), by(dense), 1e-5)


def test_a_row_of_a_batch_is_what_it_is_alone():
  """Law 5: `jax.vmap` over rows with queries, keys and clocks of their own."""
  layout = build_layout(nano("layout.window=2", "layout.sinks=1"))
  rows = [(*coordinates(nano("layout.window=2", "layout.sinks=1"), first, True), first) for first in (0, 7)]
  tokens = rows[0][0].unit.shape[0] + rows[0][1].unit.shape[0]

  def value(x, clean, noisy):
    queries, own = Queries(x[0], x[1]), KeyValue(x[2], x[3])
    return jnp.sum(jnp.sin(teacher_forced_attention(clean, noisy, layout, 40)(queries, own, None)))

  x = jax.random.normal(jax.random.key(0), (len(rows), 4, tokens, 2, 8))
  gradient = jax.value_and_grad(value)
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(row[:2] for row in rows))
  together = jax.jit(jax.vmap(gradient))(x, *stacked)
  for i, (clean, noisy, _) in enumerate(rows):
    assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), jax.jit(gradient)(x[i], clean, noisy), 1e-6)


def test_blocks_score_few_pairs_that_nobody_sees():
  """At the size of `tiny`: the keys of every block begin at the window and end with the block."""
  layout = build_layout(nano("layout.window=10", "layout.sinks=2"))
  noisy, clean = layout.tokens(*NOISY_PHASES), layout.clean_tokens
  plan = plan_blocks(layout, 40, 20, 5 * clean + 3 * noisy)
  tokens = sorted(i for block in plan.blocks for start, stop in block.queries for i in range(start, stop))
  assert tokens == list(range(layout.world_tokens + 40 * clean + 20 * noisy))
  length = lambda ranges: sum(stop - start for start, stop in ranges)
  last = plan.blocks[-1]
  units = length(last.queries[:1]) // clean
  assert length(last.keys[:1]) <= (units + 10) * clean
  assert plan.prefix == layout.world_tokens + 2 * clean
  assert max(length(block.queries) for block in plan.blocks[1:]) <= 2 * (5 * clean + 3 * noisy)


def test_long_crops_have_a_bounded_number_of_blocks():
  layout = build_layout(nano("layout.window=None"))
  assert len(plan_blocks(layout, 4000, 1000, 1).blocks) == 17


def test_scores_are_not_kept_for_the_gradient():
  """Forward keeps nothing that is as large as the scores of a head."""
  attention, inputs, _, _ = random_attention(nano("layout.window=None"), 0)
  backward = lambda *x: jax.vjp(functools.partial(attention, teacher_forced_attention), *x)[1]
  tokens = inputs[0].shape[0]
  kept = jax.tree.leaves(jax.eval_shape(backward, *inputs))
  assert all(leaf.size < tokens * tokens or leaf.dtype == bool for leaf in kept)
