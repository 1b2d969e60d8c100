"""A noisy copy of some units only: unbiased, and each copy as it would be among all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import assert_close
from tests.helpers.models import duplex_batch
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.loader import PREVIOUS
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.train import duplex

UNITS, PICKED = 4, 2


@functools.cache
def crop():
  """(streamer, a crop with a failed camera, draws for all of its units)."""
  streamer = nano_agent(f"data.units={UNITS}", "layout.commit_delay=2").streamer
  row = jax.tree.map(lambda rows: jnp.asarray(rows[0]), duplex_batch(streamer.config, 1))
  row = row._replace(agent_video_valid=row.agent_video_valid.at[PREVIOUS + 1].set(False))
  return streamer, row, duplex.draw(jax.random.key(5), row, streamer.config)


def of_units(draws: duplex.Draws, picked: jax.Array) -> duplex.Draws:
  take = lambda x: x[picked]
  return draws._replace(picked=picked, tau=take(draws.tau), noise=jax.tree.map(take, draws.noise))


def test_the_mean_over_all_choices_is_the_whole_loss_and_gradient():
  streamer, row, draws = crop()
  loss = jax.jit(jax.value_and_grad(duplex.drawn_loss, has_aux=True))
  whole = loss(streamer, row, draws)
  choices = [loss(streamer, row, of_units(draws, jnp.array(picked))) for picked in ([0, 3], [1, 2])]
  assert_close(jax.tree.map(lambda a, b: (a + b) / 2, *choices), whole, 1e-5)
  (_, first), (_, second) = choices[0][0], choices[1][0]
  assert abs(first["video"].value - second["video"].value) > 1e-3


def test_every_unit_is_as_likely_and_none_leaves_its_stride():
  keys = jax.random.split(jax.random.key(0), 3000)
  picked = np.asarray(jax.vmap(lambda key: duplex.one_of_each(key, 12, 4))(keys))
  assert (picked // 3 == np.arange(4)).all()
  np.testing.assert_allclose(np.bincount(picked.ravel()) / 3000, 1 / 3, atol=0.04)


def test_the_number_of_noisy_units_must_divide_the_crop():
  with pytest.raises(ConfigError, match="train.noisy_units is 3, which does not divide data.units 8"):
    duplex.noisy_units(load_config("configs/nano.py", ["train.noisy_units=3"]), 8)
  assert duplex.noisy_units(load_config("configs/nano.py"), 8) == 8


def test_nothing_is_evicted_only_where_no_unit_can_be_late():
  fits = ("layout.window=8", "data.session_units=8")
  for overrides, expected in (
    (fits, False), ((*fits, "train.shift_clock=False"), True), (("train.shift_clock=False",), False),
    (("layout.window=None", "train.shift_clock=False"), True),
  ):  # fmt: skip
    assert duplex.keeps_all(load_config("configs/nano.py", overrides)) == expected
