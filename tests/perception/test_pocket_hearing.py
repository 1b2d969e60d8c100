"""Hearing through the voice codec's encoder: the folder that fills the codec fills the ears as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.agents import random_sound
from tests.helpers.encoders import config_with
from tests.helpers.pretrained import NANO_POCKET, pocket_folder
from wanstreamer_jax.errors import CheckpointError, ConfigError
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.perception.make import make_hearing
from wanstreamer_jax.weights.import_codec import import_codec
from wanstreamer_jax.weights.perception import import_hearing


def test_it_hears_the_latents_of_the_codec(tmp_path):
  folder = pocket_folder(tmp_path / "pocket", NANO_POCKET)
  codec = import_codec(folder, config_with())
  config = config_with(audio="pocket").replace(audio_codec=codec.config.audio_codec.replace()).freeze()
  found = import_hearing(folder, config)
  trunk = jax.eval_shape(lambda: make_hearing(config, rngs=nnx.Rngs(0))).trunk
  assert set(found.values) == {f"hear.trunk.{name}" for name in named_leaves(trunk)}
  trunk = fill_leaves(trunk, {name: jnp.asarray(found.values[f"hear.trunk.{name}"]) for name in named_leaves(trunk)})
  sound = jnp.asarray(random_sound(np.random.default_rng(0), 1, 2 * config.media.samples)[0], jnp.float32)
  heard, _ = jax.jit(lambda trunk, x: trunk(x[:, None], trunk.initial_state()))(trunk, sound)
  spoken, _ = jax.jit(lambda codec, x: codec.encode(x, codec.encoder_state()))(codec.codec, sound)
  assert_close(heard, spoken.mean, 1e-6)  # nothing is standardised in a codec that was only imported


def test_other_folders_are_refused(tmp_path):
  folder = pocket_folder(tmp_path / "pocket", NANO_POCKET)
  with pytest.raises(CheckpointError, match="has filters 6, but audio_codec.pocket.filters is 4"):
    import_hearing(folder, config_with(audio="pocket"))
  with pytest.raises(ConfigError, match="perception.audio is native: set it to pocket or moonshine"):
    import_hearing(folder, config_with())
