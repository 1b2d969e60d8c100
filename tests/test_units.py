"""The visibility rule as literal matrices, and what a layout must not be."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.agents import small_config
from wanstreamer_jax.config import Config, LayoutConfig
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.units import (
  CLEAN_PHASES,
  PERFORM,
  Coords,
  Dynamic,
  build_layout,
  evicted,
  segment_slices,
  unit_coords,
  visible,
  world_coords,
)


def picture(mask) -> list[str]:
  return ["".join("x" if seen else "." for seen in row) for row in np.asarray(mask)]


def one_token_config(**changes) -> Config:
  """Exactly the layout that the docstring of units.py draws: one token per segment, no user text, n = 1."""
  config = Config()
  config.media.height = config.media.width = 8
  config.perception.audio_tokens, config.perception.video_patch, config.perception.video_merge = 1, 8, 1
  config.audio_codec.source_filter.strides = (240, 16)
  layout = {"patch": 1, "commit_patch": 1, "text_slots": 1, "user_text_slots": 0, "world_text": 1, "portrait": False}
  config.layout = LayoutConfig(**({**layout, "window": None} | changes))
  return config.freeze()


def two_units(config: Config) -> Coords:
  """WORLD, the clean tokens of units 0 and 1, then their PERFORM tokens."""
  layout = build_layout(config)
  clean, noisy = layout.phase(*CLEAN_PHASES), layout.phase(PERFORM)
  early = {"commit_video": Dynamic(jnp.zeros((), bool)), "commit_audio": Dynamic(jnp.zeros((), bool))}
  return Coords.concatenate(
    world_coords(layout, {}),
    unit_coords(layout, clean, jnp.int32(0), early),
    unit_coords(layout, clean, jnp.int32(1), {}),
    unit_coords(layout, noisy, jnp.int32(0), {}),
    unit_coords(layout, noisy, jnp.int32(1), {}),
  )


def one_per_block(coords: Coords, config: Config) -> Coords:
  """Drops the second token (audio) of the two-token blocks, as the drawing does."""
  layout = build_layout(config)
  keep = [0]
  start = 1
  for phases in (CLEAN_PHASES, CLEAN_PHASES, (PERFORM,), (PERFORM,)):
    at = segment_slices(layout.phase(*phases))
    keep += [start + where.start for name, where in at.items() if "audio" not in name]
    start += layout.tokens(*phases)
  return coords[jnp.asarray(keep)]


def test_the_drawn_mask():
  config = one_token_config()
  coords = one_per_block(two_units(config), config)
  assert picture(visible(coords, coords, None)) == [
    "x..........",  # W
    "x..........",  # C0
    "x.x........",  # H0
    "x.xx.......",  # S0
    "x.xxx......",  # T0
    "x.xxxx.....",  # C1
    "x.xxxxx....",  # H1
    "x.xxxxxx...",  # S1
    "x.xxxxxxx..",  # T1
    "x.xxx....x.",  # P0
    "x.xxxxxxx.x",  # P1
  ]


def test_a_window_of_one_unit_sees_world_and_itself_only():
  config = one_token_config(window=1)
  coords = one_per_block(two_units(config), config)
  mask = picture(visible(coords, coords, 1))
  assert mask[7] == "x....xxx..."  # S1
  assert mask[10] == "x....xxxx.x"  # P1


def test_a_sink_unit_stays_visible():
  config = one_token_config(window=1, sinks=1)
  coords = one_per_block(two_units(config), config)
  assert picture(visible(coords, coords, 1))[7] == "x.xxxxxx..."


def test_other_sessions_are_invisible():
  coords = two_units(one_token_config())
  other = Coords(**{**vars(coords), "session": coords.session + 1})
  assert not np.asarray(visible(coords, other, None)).any()


def test_hear_is_bidirectional_and_text_is_causal():
  config = small_config(world_text=0, portrait=False, voice_units=0)
  layout = build_layout(config)
  coords = unit_coords(layout, layout.phase("HEAR", "TEXT"), jnp.int32(0), {})
  mask = np.asarray(visible(coords, coords, None))
  at = segment_slices(layout.phase("HEAR", "TEXT"))
  assert mask[at["user_video"], at["user_audio"]].all()
  assert mask[at["user_audio"], at["user_video"]].all()
  assert picture(mask[at["text"], at["text"]]) == ["x..", "xx.", "xxx"]
  assert not mask[at["user_text"], at["user_video"]].any()


def test_split_modalities_order_audio_before_video_and_causal_hear_is_triangular():
  layout = build_layout(small_config(split_modalities=True))
  coords = unit_coords(layout, layout.phase(PERFORM), jnp.int32(0), {})
  mask = np.asarray(visible(coords, coords, None))
  at = segment_slices(layout.phase(PERFORM))
  assert mask[at["noisy_video"], at["noisy_audio"]].all()
  assert not mask[at["noisy_audio"], at["noisy_video"]].any()
  layout = build_layout(small_config(token_causal_hear=True))
  coords = unit_coords(layout, layout.phase("HEAR"), jnp.int32(0), {})
  mask = np.asarray(visible(coords, coords, None))
  assert (mask == np.tril(np.ones_like(mask))).all()


def test_blocks_increase_along_the_cache_order():
  for config in (small_config(), small_config(split_modalities=True), small_config(commit_delay=2, commit_patch=2)):
    layout = build_layout(config)
    blocks = [block for segment in layout.unit for block in segment.blocks]
    clean = [block for segment in layout.phase(*CLEAN_PHASES) for block in segment.blocks]
    assert clean == sorted(clean)
    assert max(blocks) < layout.blocks_per_unit
    assert max(b for s in layout.world for b in s.blocks) < 0


def test_ring_slots_are_exactly_the_window_and_sinks_stay():
  config = small_config()  # window 4, one sink
  layout = build_layout(config)
  slots = [int(layout.first_index(jnp.int32(k), 4)) for k in range(10)]
  index = [(slot - layout.world_tokens) // layout.clean_tokens for slot in slots]
  assert index == [0, 1, 2, 3, 4, 1, 2, 3, 4, 1]
  assert [int(evicted(jnp.int32(k), config.layout)) for k in range(8)] == [0, 0, 0, 0, 0, 1, 2, 3]


def test_positions_tell_time_place_and_words():
  layout = build_layout(small_config(commit_patch=2, text_slots=5))
  coords = unit_coords(layout, layout.unit, jnp.int32(3), {"text": Dynamic(ordinal=jnp.arange(7, 12))})
  at = segment_slices(layout.unit)
  position = np.asarray(coords.position)
  assert position[at["text"]].tolist() == [[12, 28, 28], [13, 32, 32], [14, 36, 36], [15, 40, 40], [15, 44, 44]]
  assert position[at["commit_video"]].tolist() == [[8, 0, 0], [8, 0, 8], [8, 8, 0], [8, 8, 8]]
  assert position[at["commit_audio"]].tolist() == [[8, 0, 0], [10, 0, 0]]
  assert position[at["noisy_video"]][:5].tolist() == [[12, 0, 0], [12, 0, 4], [12, 0, 8], [12, 0, 12], [12, 4, 0]]


@pytest.mark.parametrize("size", ["nano", "tiny", "demo", "qwen2p5_1p5b:192x336", "qwen2p5_1p5b:640x368"])
def test_the_users_picture_lies_over_the_agents(size):
  """The same pixel of both pictures has the same place, to half a noisy patch."""
  name, _, picture = size.partition(":")
  config = load_config(f"configs/{name}.py:{picture}" if picture else f"configs/{name}.py")
  tokens = {segment.name: np.asarray(segment.positions) for segment in build_layout(config).unit}
  sizes, sides = (config.media.height, config.media.width), config.user_video_sides
  for axis, pixels, side in zip((1, 2), sizes, sides):
    noisy, user = np.unique(tokens["noisy_video"][:, axis]), np.unique(tokens["user_video"][:, axis])
    at = np.arange(len(user)) * side
    assert at[-1] < pixels <= at[-1] + side
    assert np.abs(user - np.interp(at, np.arange(len(noisy)) * config.noisy_side, noisy)).max() <= 2


@pytest.mark.parametrize(
  ("section", "field", "value", "message"),
  [
    ("media", "unit_ms", 100, "2500 / 1000"),
    ("media", "unit_ms", 80, "2 / 4"),
    ("media", "height", 60, "60 / 8"),
    ("layout", "patch", 3, "8 / 3"),
    ("layout", "commit_delay", 3, "expected one of 1, 2"),
    ("layout", "window", 0, "at least 1"),
    ("model", "kv_heads", 3, "4 / 3"),
    ("audio_codec.source_filter", "strides", (240, 7), "3840 / 1680"),
  ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(section, field, value, message):
  config = Config()
  setattr(functools.reduce(getattr, section.split("."), config), field, value)
  with pytest.raises(ConfigError, match=message):
    config.freeze()
