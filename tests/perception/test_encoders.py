"""Every choice of ears and eyes keeps the laws: chunking, causality, one truth, and what their docstrings say."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.agents import (
  random_sound,
  random_text,
  random_users,
  random_weights,
  random_world,
  replay,
  small_agent,
)
from tests.helpers.encoders import MOONSHINE, config_with
from tests.helpers.streaming import check_causality, check_chunking
from wanstreamer_jax import rollout
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.tokens import text_valid
from wanstreamer_jax.perception.make import make_hearing, make_seeing
from wanstreamer_jax.perception.vision_transformer import resized, triangles

SHORT = MOONSHINE.replace(past=(4, 3), future=(3, 0))
DELAYED = SHORT.replace(look_ahead="delay")
HEARING = {
  "pocket": config_with(audio="pocket"),
  "moonshine": config_with(audio="moonshine", moonshine=SHORT),
  "moonshine, delayed": config_with(audio="moonshine", moonshine=DELAYED),
}


def hear(encoder, samples, state):
  return encoder(samples, state)


def hearing(config):
  return random_weights(jax.eval_shape(lambda: make_hearing(config, rngs=nnx.Rngs(0))))


def sound(config, units):
  return jnp.asarray(random_sound(np.random.default_rng(0), units, config.media.samples).reshape(-1), jnp.float32)


@pytest.mark.parametrize("kind", HEARING)
def test_laws_1_and_2_of_hearing(kind):
  config = HEARING[kind]
  encoder, unit, units = hearing(config), config.media.samples, 3
  x, state = sound(config, units), encoder.initial_state()
  check_chunking(hear, encoder, x, state, [[unit] * units])
  check_causality(hear, encoder, x, state, 2 * unit, 2, poison=1e30)


def test_a_delay_is_what_it_says():
  """Seconds: 1 ms of the resampler, and 20 ms for every step that a layer waits for."""
  assert hearing(HEARING["moonshine, delayed"]).delay == pytest.approx(1e-3 + 2 * 20e-3)
  assert hearing(HEARING["moonshine"]).delay == pytest.approx(1e-3)
  assert hearing(config_with()).delay == 0


DELAYED_PAIR = {"moonshine": DELAYED, "video_every": 2, "video_merge": 3}


@pytest.mark.parametrize(
  ("audio", "more"),
  [("moonshine", DELAYED_PAIR), pytest.param("pocket", {}, marks=pytest.mark.slow)],
  ids=["moonshine, delayed, two frames a unit", "pocket"],
)
def test_law_3_the_pass_over_a_session_gives_what_was_streamed(audio, more):
  config, units = config_with(audio, "siglip2", **more), 4
  agent, world, users = small_agent(config), random_world(config), random_users(config, units)

  @jax.jit
  def both(agent, text):
    _, spoken = rollout.rollout(agent, rollout.start_session(agent, jax.random.key(1), world), users, text)
    predicted = replay(agent, world, users, spoken, 1, 0, 0)
    exists = text_valid(spoken.text, config.model.pad)[..., None]  # no pass is run for slots behind the first PAD
    return jnp.where(exists, agent.streamer.logits(predicted.text), 0), jnp.where(exists, spoken.trace["logits"], 0)

  assert_close(*both(agent, random_text(config, units)), 1e-5)


def test_siglip_sees_the_last_of_every_n_frames():
  config = config_with(video="siglip2", video_every=2)
  encoder = random_weights(jax.eval_shape(lambda: make_seeing(config, rngs=nnx.Rngs(0))))
  frames = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)), jnp.float32)
  see = jax.jit(lambda encoder, frames: encoder(frames))
  tokens = see(encoder, frames)
  assert tokens.shape == (4, config.model.width)
  for frame, seen in enumerate((False, True, False, True)):
    changed = see(encoder, frames.at[frame].add(0.5))
    assert np.array_equal(changed, tokens) != seen


def test_grids():
  """The picture's aspect is kept, 192x336 needs no resizing, and a token's place is where it looks."""
  config = config_with(video="siglip2").replace()
  sizes = config.perception.siglip2
  sizes.patch, sizes.patches = 16, 256
  config.layout.patch = 1
  for size, grid in {(192, 336): (12, 21), (64, 64): (16, 16), (368, 640): (12, 21), (336, 192): (21, 12)}.items():
    config.media.height, config.media.width = size
    assert config.siglip2_grid == grid
    rows, columns = config.user_video_grid
    assert (rows, columns) == tuple(math.ceil(n / 2) for n in grid)
    sides = config.user_video_sides
    assert sides == pytest.approx((2 * size[0] / grid[0], 2 * size[1] / grid[1]))


def test_resizing_is_that_of_jax():
  picture = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (12, 20, 3)), jnp.float32)
  for size in ((12, 20), (24, 40), (8, 10), (5, 33)):
    expected = jax.image.resize(picture, (*size, 3), "linear", antialias=True)
    assert_close(resized(picture, *size), expected, 1e-5)
  np.testing.assert_array_equal(triangles(4, 4), np.eye(4))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"audio": "moonshine", "audio_tokens": 3}, "features per audio token .*: 8 / 3 is not a whole number"),
    ({"audio": "pocket", "audio_tokens": 4}, "latents per audio token .*: 2 / 4 is not a whole number"),
    ({"video": "siglip2", "video_every": 3}, "frames per unit 4 / perception.video_every 3: 4 / 3"),
    ({"moonshine": dataclasses.replace(MOONSHINE, past=(1, 2))}, "2 entries of past and 3 of future"),
  ],
)
def test_bad_choices(changes, words):
  with pytest.raises(ConfigError, match=words):
    config_with(**changes)
