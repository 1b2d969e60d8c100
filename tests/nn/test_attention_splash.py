"""The splash kernel, interpreted on the CPU: the same numbers and gradients as the dense mask of `units.visible`."""

import functools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from wanstreamer_jax.config import POSITIONS_PER_UNIT, Config
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.loader import PREVIOUS
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import teacher_forced_attention
from wanstreamer_jax.model.attention_tpu import teacher_forced_attention_tpu, two_copy_pattern
from wanstreamer_jax.model.streamer import UserTokens, WanStreamer, WorldArrays
from wanstreamer_jax.model.tokens import Latents, Past
from wanstreamer_jax.nn.attention_parts import KeyValue, Queries
from wanstreamer_jax.nn.attention_splash import LANES, Pattern, mask_infos, visited_blocks
from wanstreamer_jax.nn.rotary import angles, rotate
from wanstreamer_jax.teacher_forcing import Conditions, Inputs, teacher_forced
from wanstreamer_jax.units import (
  CLEAN_PHASES,
  NOISY_PHASES,
  Coords,
  Dynamic,
  build_layout,
  evicted,
  unit_coords,
  visible,
  world_coords,
)

UNITS = 4
LAYOUTS = {
  "base": (),
  "full history": ("layout.window=None",),
  "refeed": ("layout.commit_delay=2",),
  "sinks": ("layout.sinks=2", "layout.window=4"),
  "split": ("layout.split_modalities=True", "layout.commit_delay=2"),
  "token causal": ("layout.token_causal_hear=True",),
  "no world": ("layout.world_text=0", "flow.anchor=False", "layout.portrait=False"),
}


def nano(*overrides: str) -> Config:
  return load_config("configs/nano.py", overrides)


def coordinates(
  config: Config, first: int, drop: bool, picked: tuple[int, ...] = tuple(range(UNITS))
) -> tuple[Coords, Coords]:
  """[WORLD | clean units] and the noisy ones of some units, from unit `first` on; drop: some keys do not exist."""
  layout = build_layout(config)
  gone = {"user_video", "world_text", "refeed_audio"}
  dynamic = {name: Dynamic(valid=jnp.zeros((), bool)) for name in gone} if drop else {}
  join = lambda phases, units: Coords.concatenate(
    *(unit_coords(layout, layout.phase(*phases), jnp.int32(first + k), dynamic) for k in units)
  )
  world = {"world_text": Dynamic(jnp.arange(config.layout.world_text) >= 2)} if drop else {}
  return Coords.concatenate(world_coords(layout, world), join(CLEAN_PHASES, range(UNITS))), join(NOISY_PHASES, picked)


def dense(pattern: Pattern, padded: int = 0, place: tuple[int, ...] = ()) -> np.ndarray:
  padded = padded or pattern.tokens
  bounds = pattern.bounds_at(jnp.array(place), padded) if place else pattern.bounds(padded)
  return np.asarray(pattern(np.asarray(bounds)[:, None], np.arange(padded, dtype=np.int32)[None]))


def test_the_drawn_mask():
  pattern = Pattern(groups=2, prefix_bounds=(1,), clean_bounds=(1,), noisy_bounds=(1,))
  drawing = """
    x....
    xx...
    xxx..
    xx.x.
    xxx.x
  """
  expected = np.array([[character == "x" for character in line] for line in drawing.split()])
  np.testing.assert_array_equal(dense(pattern), expected)


@pytest.mark.parametrize("overrides", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("first", [0, 3])
def test_the_static_bounds_are_the_visibility_rule(overrides, first):
  config = nano(*overrides)
  clean, noisy = coordinates(config, first, drop=False)
  coords = Coords.concatenate(clean, noisy)
  expected = visible(coords, coords, config.layout.window)
  np.testing.assert_array_equal(dense(two_copy_pattern(build_layout(config), UNITS)), expected)


@pytest.mark.parametrize("picked", [(0, 2), (1, 2), (1, 3), (0,), (2,), (3,)])
def test_a_subset_of_late_groups_is_the_visibility_rule(picked):
  config = nano("layout.commit_delay=2")
  coords = Coords.concatenate(*coordinates(config, 5, False, picked))
  pattern = two_copy_pattern(build_layout(config), UNITS, len(picked))
  place = tuple(unit % pattern.stride for unit in picked)
  np.testing.assert_array_equal(dense(pattern, place=place), visible(coords, coords, config.layout.window))


@pytest.mark.parametrize("noisy_units", [40, 10, 8])
@pytest.mark.parametrize("overrides", [(), ("layout.commit_delay=2",)])
def test_blocks_are_visited_where_somebody_may_see_something(overrides, noisy_units):
  pattern = two_copy_pattern(
    build_layout(nano(*overrides, "layout.world_text=150", "layout.window=None")), 40, noisy_units
  )
  padded = -(-pattern.tokens // LANES) * LANES
  places = [(place,) * noisy_units for place in range(pattern.stride)]
  blocks = sum(dense(pattern, padded, place).reshape(padded // LANES, LANES, -1, LANES).any((1, 3)) for place in places)
  np.testing.assert_array_equal(visited_blocks(pattern, LANES), blocks > 0)


def test_the_kernels_grid_visits_exactly_those_blocks():
  """Row by row in forward, column by column backward; an idle turn fetches nothing new."""
  pattern = two_copy_pattern(build_layout(nano("layout.world_text=150", "layout.window=None")), 40)
  visited = visited_blocks(pattern, LANES)
  forward, backward = (jax.tree.map(lambda x: x[0], info) for info in mask_infos(pattern, LANES))
  turned = lambda info, axis: np.moveaxis(np.stack([info.data_next, info.block_mask]), axis + 1, -1)
  for grid, expected in ((turned(forward, 1), visited), (turned(backward, 0), visited.T)):
    for (blocks, runs), seen in zip(grid.swapaxes(0, 1), expected):
      np.testing.assert_array_equal(blocks[runs > 0], np.flatnonzero(seen))
      assert seen[blocks].all()


def random_attention(config: Config, first: int, picked: tuple[int, ...] = tuple(range(UNITS))):
  """Random queries, keys and values, rotated to their times as the model does, as a function of a way to attend."""
  layout, model = build_layout(config), config.model
  clean, noisy = coordinates(config, first, True, picked)
  coords = Coords.concatenate(clean, noisy)
  gap = evicted(coords.unit, config.layout)[:, None] * jnp.array(layout.ids_per_unit)
  angle = lambda position: angles(position, model.head_dim, model.rope_theta, POSITIONS_PER_UNIT)
  normal = np.random.default_rng(0).standard_normal
  tokens = coords.unit.shape[0]
  q = jnp.asarray(normal((tokens, model.heads, model.head_dim)), jnp.float32)
  k, v, out = (jnp.asarray(normal((tokens, model.kv_heads, model.head_dim)), jnp.float32) for _ in range(3))
  out = jnp.repeat(out, model.heads // model.kv_heads, axis=1) * coords.valid[:, None, None]

  def attention(way, q, k, v):
    queries = Queries(rotate(q, angle(coords.position)), rotate(q, angle(coords.position - gap)))
    return way(clean, noisy, layout)(queries, KeyValue(rotate(k, angle(coords.position)), v), None)

  return attention, (q, k, v), out, coords.valid[:, None, None]


@pytest.mark.parametrize(
  ("overrides", "first", "picked"),
  [
    ((), 0, range(UNITS)), ((), 50, (0, 3)), (("layout.window=None",), 50, (2,)),
    (("layout.sinks=2",), 1, range(UNITS)), (LAYOUTS["split"], 7, (1, 2)),
  ],
)  # fmt: skip
def test_values_and_gradients_equal_the_dense_mask(overrides, first, picked):
  config = nano(*overrides, "model.heads=4", "model.kv_heads=2")
  attention, inputs, out, valid = random_attention(config, first, tuple(picked))

  def value(way, *inputs):
    mixed = attention(way, *inputs)
    return jnp.sum(mixed * out), mixed * valid  # what tokens that do not exist see is nobody's business

  by = lambda way: jax.jit(jax.grad(functools.partial(value, way), (0, 1, 2), has_aux=True))(*inputs)
  assert_close(by(teacher_forced_attention_tpu), by(teacher_forced_attention), 1e-5)


def crop(config: Config, key: jax.Array, units: int = UNITS) -> tuple[Conditions, Inputs]:
  """Random arguments of `teacher_forced`."""
  layout, width = config.layout, config.model.width
  keys = iter(jax.random.split(key, 12))
  normal = lambda *shape: jax.random.normal(next(keys), shape)
  ids = lambda *shape: jax.random.randint(next(keys), shape, 0, 5)
  latents = lambda units: Latents(
    normal(units, config.latent_height, config.latent_width, config.video_codec.latent_dim),
    normal(units, config.audio_latents, config.audio_codec.latent_dim),
  )
  rows, columns = config.user_video_grid
  exists = jnp.arange(units) > 0
  user = UserTokens(
    normal(units, config.perception.audio_tokens, width), normal(units, rows * columns, width),
    ids(units, layout.user_text_slots), exists, ~exists,
  )  # fmt: skip
  history = Past.clean(latents(PREVIOUS + units), jnp.stack(2 * [jnp.arange(PREVIOUS + units) > PREVIOUS], axis=1))
  world = WorldArrays.empty(config)._replace(text=ids(layout.world_text))
  tau = jax.random.uniform(next(keys), (units,))
  conditions = Conditions(world, user, ids(units, layout.text_slots), jnp.int32(30), jnp.int32(9))
  return conditions, Inputs(history, latents(units), tau)


def loss(streamer: WanStreamer, batch: tuple):
  """A number that depends on every output of a batch of crops, for its gradient."""

  def one(crop):
    predictions = teacher_forced(streamer, *crop)
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(predictions)), predictions

  values, predictions = jax.vmap(one)(batch)
  return jnp.sum(values), predictions


def random_streamer(config: Config) -> WanStreamer:
  """Small random weights in which no scale is one and no bias zero."""
  abstract = jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))
  normal = np.random.default_rng(0).standard_normal
  return jax.tree.map(lambda x: (0.2 * normal(x.shape)).astype(np.float32), abstract)


def batch_of(config: Config, rows: int) -> tuple:
  return jax.vmap(lambda key: crop(config, key))(jax.random.split(jax.random.key(1), rows))


def gradients(config: Config, batch: tuple):
  """(gradients of the weights as a list, predictions) of the same weights under a choice of attention."""
  (grads, predictions) = jax.jit(jax.grad(loss, has_aux=True))(random_streamer(config), batch)
  return jax.tree.leaves(grads), predictions


def test_the_model_trains_the_same_with_either_attention():
  batch = batch_of(nano(), 2)
  kernel = gradients(nano("model.attention=splash", "model.remat=full"), batch)
  assert_close(kernel, gradients(nano(), batch), 2e-5)


def test_a_crop_longer_than_the_window_is_refused():
  with pytest.raises(ConfigError, match=r"data.units is 7, layout.window 6"):
    two_copy_pattern(build_layout(nano()), 7)


def test_the_mask_of_a_minute_is_made_by_counting_blocks():
  """219k tokens, 430 x 430 blocks: arrays of tokens and of blocks are all that it ever holds."""
  pattern = two_copy_pattern(build_layout(load_config("configs/qwen2p5_1p5b.py")), 375)
  assert pattern.tokens > 219_000
  tracemalloc.start()
  visited = visited_blocks(pattern, 512)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 16 * 8 * pattern.tokens + 16 * visited.size
  forward, _ = mask_infos(pattern, 512)
  assert forward.block_mask.shape[2] < 0.6 * visited.shape[1]  # noisy rows see no other unit's noisy keys
