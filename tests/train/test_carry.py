"""`flow.carry` and `flow.anchor`: what is predicted is a change of the previous unit's latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.models import duplex_batch
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.errors import CheckpointError, ConfigError
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.model.tokens import Latents, Past, Reference
from wanstreamer_jax.teacher_forcing import crop_past
from wanstreamer_jax.train import duplex
from wanstreamer_jax.train.duplex import crop_loss, duplex_stage
from wanstreamer_jax.weights import agent as agent_weights


def past_of(config, valid: bool) -> Past:
  r = np.random.default_rng(3)
  shape = (config.latent_height, config.latent_width, config.video_codec.latent_dim)
  latents = Latents(
    jnp.asarray(r.standard_normal(shape), jnp.float32), jnp.zeros((config.audio_latents, config.audio_codec.latent_dim))
  )
  return Past.clean(latents, jnp.array([valid, valid]))


@pytest.mark.parametrize("height", [32, 48], ids=["square", "higher than wide"])
def test_a_new_model_predicts_the_previous_unit_or_the_portrait_before_there_is_one(height):
  """At flow time 1 the velocity is noise minus the prediction."""
  config = nano_agent(f"media.height={height}").config
  heads = WanStreamer(config, rngs=nnx.Rngs(0)).heads
  tokens = config.noisy_grid[0] * config.noisy_grid[1] + config.audio_latents
  hidden = jax.random.normal(jax.random.key(0), (tokens, config.model.width))
  noisy = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), past_of(config, True).latents)
  for valid in (True, False):
    past = past_of(config, valid)
    reference = Reference.of(past, jnp.full_like(past.latents.video, 0.5))
    found = noisy.video - heads.velocity(hidden, noisy, jnp.float32(1), reference).video
    assert_close(found, past.latents.video if valid else jnp.full_like(found, 0.5))


@pytest.mark.parametrize("without", [("flow.anchor=False",), ("flow.anchor=False", "flow.carry=False")])
def test_training_goes_on_from_weights_without_it_as_they_were(tmp_path, without):
  """Every loss is the same where there is a unit before, and the new parameters learn. Weights that carry did not carry
  the portrait into a first unit."""
  old = nano_agent("data.units=4", *without)
  agent_weights.export_agent(old, tmp_path / "agent", "f32")
  config = nano_agent("data.units=4").config
  abstract = jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))
  begun = duplex_stage().load(tmp_path / "agent", abstract, config)
  crop = jax.tree.map(lambda x: jnp.asarray(x[0]), duplex_batch(config, 1))
  loss = lambda streamer, crop: crop_loss(streamer, crop, jax.random.key(0))
  (found, metrics), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(begun, crop)
  expected = jax.jit(loss)(old.streamer, crop)
  assert_close((found, metrics), expected)
  new = (slopes.heads.anchor, slopes.tokens.anchor_in, slopes.heads.carry, slopes.tokens.carry_in)
  for weights in new[: 2 * len(without)]:
    assert float(jnp.abs(weights.w[...]).max()) > 0
  first = crop._replace(agent_video_valid=crop.agent_video_valid.at[: -len(crop.agent_text)].set(False))
  same = jnp.allclose(jax.jit(loss)(begun, first)[0], jax.jit(loss)(old.streamer, first)[0])
  assert bool(same) == ("flow.carry=False" in without)


@pytest.mark.parametrize("without", [("flow.anchor=False",), ("flow.anchor=False", "flow.carry=False")])
def test_weights_with_it_are_refused_by_a_model_without(tmp_path, without):
  """Their video head predicts changes: without what is carried its pictures would be wrong."""
  agent_weights.export_agent(nano_agent("data.units=4"), tmp_path / "agent", "f32")
  config = nano_agent("data.units=4", *without).config
  abstract = jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))
  name = without[-1].partition("=")[0]
  with pytest.raises(CheckpointError, match=rf"was trained with {name}: set it"):
    duplex_stage().load(tmp_path / "agent", abstract, config)


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_history_that_is_noised_is_carried_as_large_as_clean(level):
  """Without noise, (1 - s) z at flow time s is z again: a model that learned from smaller ones would add contrast."""
  clean = past_of(nano_agent().config, True)
  smaller = jax.tree.map(lambda x: (1 - level) * x, clean.latents)
  assert_close(clean._replace(latents=smaller, flow_time=jnp.float32(level)).carried, clean.latents.video, 1e-6)


def test_an_agent_without_its_own_past_carries_nothing():
  with pytest.raises(ConfigError, match="set flow.carry=False"):
    nano_agent("layout.committed_history=False")


def test_without_a_portrait_nothing_is_anchored():
  with pytest.raises(ConfigError, match=r"layout\.portrait is False: set flow\.anchor=False"):
    nano_agent("layout.portrait=False")


def test_history_drifts_as_much_as_the_config_says_and_targets_do_not():
  """All units of a crop alike: gains and offsets of deviation U(0, most), half of a gain common to channels."""
  config = nano_agent("data.units=4", "train.history_noise=0.2", "train.history_drift=0.5").config
  crop = jax.tree.map(lambda x: jnp.asarray(x[0]), duplex_batch(config, 1))._replace(portrait_valid=jnp.ones((), bool))
  many = jax.vmap(lambda key: duplex.draw(key, crop, config))(jax.random.split(jax.random.key(0), 4000))
  seen = many.history_drift[many.shown.portrait]
  assert not many.history_drift[~many.shown.portrait].any()  # nothing would tell what is right
  np.testing.assert_allclose(jnp.sqrt(jnp.mean(jnp.square(seen), (0, 2))), 0.5 / 3**0.5, rtol=0.05)
  gains = np.asarray(seen[:, 0])
  assert np.mean(gains[:, 0] * gains[:, 1]) / np.mean(gains**2) == pytest.approx(0.5, abs=0.08)
  unseen = crop._replace(portrait_valid=jnp.zeros((), bool))
  assert not duplex.draw(jax.random.key(0), unseen, config).history_drift.any()

  draws = jax.tree.map(lambda x: x[np.argmax(many.shown.portrait)], many)
  noiseless = draws._replace(history_noise=jax.tree.map(jnp.zeros_like, draws.history_noise))
  inputs, targets = duplex.stage_inputs(crop, noiseless)
  gain, offset = draws.history_drift
  past = crop_past(crop)
  assert_close(inputs.history.carried[past.valid[:, 0]], (past.latents.video * (1 + gain) + offset)[past.valid[:, 0]])
  still = noiseless._replace(history_drift=jnp.zeros_like(draws.history_drift))
  assert_close(duplex.stage_inputs(crop, still)[1], targets)


def test_pictures_do_not_drift_where_nothing_anchors_them():
  with pytest.raises(ConfigError, match=r"train\.history_drift is 0\.1, but without flow\.anchor"):
    nano_agent("flow.anchor=False", "train.history_drift=0.1")
