"""`flow.carry` and `flow.anchor`: what is predicted is a change of the previous unit's latents."""

import functools

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


def test_training_goes_on_from_weights_without_it_as_they_were(tmp_path):
  """Every loss is the same, and the new parameters learn."""
  old = nano_agent("data.units=4", "flow.anchor=False", "flow.carry=False")
  agent_weights.export_agent(old, tmp_path / "agent", "f32")
  config = nano_agent("data.units=4").config
  abstract = jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))
  begun = duplex_stage().load(tmp_path / "agent", abstract, config)
  crop = jax.tree.map(lambda x: jnp.asarray(x[0]), duplex_batch(config, 1))
  loss = functools.partial(crop_loss, crop=crop, key=jax.random.key(0))
  (found, metrics), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(begun)
  expected = jax.jit(loss)(old.streamer)
  assert_close((found, metrics), expected)
  for new in (slopes.heads.carry, slopes.tokens.carry_in, slopes.heads.anchor, slopes.tokens.anchor_in):
    assert float(jnp.abs(new.w[...]).max()) > 0


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


@pytest.mark.parametrize("change", ["layout.portrait=False", "flow.carry=False"])
def test_without_a_portrait_or_what_is_carried_nothing_is_anchored(change):
  with pytest.raises(ConfigError, match=r"flow\.anchor shows the portrait"):
    nano_agent(change)


def test_history_drifts_as_drawn_and_targets_do_not():
  """Every unit of a crop has the same gain and offset of a channel; targets have none."""
  config = nano_agent("data.units=4", "train.history_noise=0", "train.history_drift=0.5").config
  crop = jax.tree.map(lambda x: jnp.asarray(x[0]), duplex_batch(config, 1))
  clean = crop_past(crop).latents.video
  for key in range(2):
    draws = duplex.draw(jax.random.key(key), crop, config)
    inputs, targets = duplex.stage_inputs(crop, draws)
    gain, offset = draws.history_drift
    assert float(jnp.abs(gain).min()) > 0
    assert_close(inputs.history.latents.video, clean * (1 + gain) + offset)
    still = draws._replace(history_drift=jnp.zeros_like(draws.history_drift))
    assert_close(duplex.stage_inputs(crop, still)[1], targets)
  none = config.replace(train=config.train.replace(history_drift=0.0)).freeze()
  assert not duplex.draw(jax.random.key(0), crop, none).history_drift.any()
