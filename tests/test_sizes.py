"""Real sizes by `eval_shape`: the published geometries have the published counts, the small ones their budgets."""

import functools
import math

import jax
import pytest
from flax import nnx

from tests import CONFIGS
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.units import PERFORM, build_layout
from wanstreamer_jax.weights.agent import without_readouts

# Parameters of the published language models without embeddings and output layer, and with them.
PUBLISHED = {
  "qwen2p5_1p5b": (1_310_340_608, 1_543_714_304),
  "qwen3_0p6b": (440_467_456, 596_049_920),
  "qwen3_1p7b": (1_409_410_048, 1_720_574_976),
  "qwen3_8b": (6_946_075_648, 8_190_735_360),
}
FLOW_TIME = ("flow_time", "modulation", "shared_modulation")  # what a language model does not have
VOCABULARY = ("streamer.tokens.embedding", "streamer.heads.text.w")


@functools.cache
def sizes(config: str) -> dict[str, int]:
  """{parameter name: how many numbers} of the whole agent, without what only trains it."""
  frozen = without_readouts(load_config(CONFIGS / config))
  agent = jax.eval_shape(lambda: Agent(frozen, rngs=nnx.Rngs(0)))
  return {name: math.prod(leaf.shape) for name, leaf in named_leaves(agent).items()}


@pytest.mark.parametrize("size", ["192x336", "640x368"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_geometries_have_the_published_counts(name, size):
  parameters = sizes(f"{name}.py:{size}")
  transformer = sum(
    count
    for path, count in parameters.items()
    if path.startswith("streamer.transformer.") and not any(part in FLOW_TIME for part in path.split("."))
  )
  vocabulary = sum(count for path, count in parameters.items() if path.startswith(VOCABULARY))
  assert (transformer, transformer + vocabulary) == PUBLISHED[name]


@pytest.mark.parametrize(("size", "video_tokens"), [("192x336", 252), ("640x368", 920)])
def test_published_pictures_have_the_expected_tokens(size, video_tokens):
  config = load_config(CONFIGS / f"qwen2p5_1p5b.py:{size}")
  layout = build_layout(config)
  assert layout.tokens(PERFORM) == video_tokens + config.audio_latents
  assert {segment.name: segment.tokens for segment in layout.unit}["commit_video"] == video_tokens


def test_an_unknown_picture_size_is_refused():
  with pytest.raises(ConfigError, match="size is '8x8': expected one of 192x336, 640x368"):
    load_config(CONFIGS / "qwen3_8b.py:8x8")


def test_demo_fits_in_git_and_tiny_on_a_cpu():
  assert 2 * sum(sizes("demo.py").values()) < 16e6  # bytes in bf16
  tiny = sum(count for path, count in sizes("tiny.py").items() if path.startswith("streamer."))
  assert 1.0e6 < tiny < 1.4e6
  layout = build_layout(load_config(CONFIGS / "tiny.py"))
  assert layout.clean_tokens + layout.tokens(PERFORM) <= 29
