"""Units whose words nobody wrote down: no text loss, no TEXT tokens, and no NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import assert_close
from tests.helpers.models import duplex_batch
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.data.loader import PREVIOUS
from wanstreamer_jax.eval.latent_errors import unit_errors
from wanstreamer_jax.train import duplex

UNITS = 4
KNOWN = np.array([True, False, True, True])


@functools.cache
def crop():
  streamer = nano_agent(f"data.units={UNITS}").streamer
  row = jax.tree.map(lambda rows: jnp.asarray(rows[0]), duplex_batch(streamer.config, 1))
  return streamer, row, duplex.draw(jax.random.key(5), row, streamer.config)


@functools.cache
def loss_of():
  return jax.jit(jax.value_and_grad(duplex.drawn_loss, has_aux=True))


def with_text(row, known, text=None):
  return row._replace(agent_text_valid=jnp.asarray(known), agent_text=row.agent_text if text is None else text)


def test_words_that_are_not_known_change_nothing():
  """Whatever ids stand there: they are neither shown to the model nor expected of it."""
  streamer, row, draws = crop()
  other = row.agent_text.at[1].set(1 - row.agent_text[1] % 2)
  first, second = (loss_of()(streamer, with_text(row, KNOWN, text), draws) for text in (row.agent_text, other))
  assert_close(first, second, 1e-6)
  shown = [loss_of()(streamer, with_text(row, [True] * UNITS, text), draws)[0][0] for text in (row.agent_text, other)]
  assert abs(shown[0] - shown[1]) > 1e-3  # of known words they do


def test_without_any_words_only_sound_and_picture_are_learned():
  streamer, row, draws = crop()
  (loss, metrics), gradient = loss_of()(streamer, with_text(row, [False] * UNITS), draws)
  train = streamer.config.train
  assert float(loss) == pytest.approx(
    float(train.audio_weight * metrics["audio"].value + train.video_weight * metrics["video"].value)
  )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  assert not metrics["text"].weight  # and it counts nowhere in the mean over a batch
  assert loss_of()(streamer, with_text(row, KNOWN), draws)[0][1]["text"].weight


def test_the_loss_of_known_units_does_not_depend_on_how_many_others_there_are():
  streamer, row, _ = crop()
  hidden = jax.random.normal(jax.random.key(0), (*row.agent_text.shape, streamer.config.model.width))
  of = lambda rows, known: duplex.text_losses(streamer, hidden[rows], row.agent_text[rows], known)
  some, _ = of(np.arange(UNITS), jnp.asarray(KNOWN))
  alone, _ = of(np.flatnonzero(KNOWN), None)
  assert_close(some, alone, 1e-6)


def test_a_unit_of_a_shorter_session_weighs_no_more_than_others():
  """The last two of four units are past the session's end."""
  streamer, row, draws = crop()
  there, past = jnp.arange(UNITS) < 2, jnp.arange(PREVIOUS + UNITS) < PREVIOUS + 2
  short = with_text(row, jnp.zeros(UNITS, bool))._replace(
    user_audio_valid=there, user_video_valid=there, agent_audio_valid=past, agent_video_valid=past
  )
  (loss, metrics), _ = loss_of()(streamer, short, draws)
  train = streamer.config.train
  assert float(loss) == pytest.approx(
    0.5 * float(train.audio_weight * metrics["audio"].value + train.video_weight * metrics["video"].value)
  )
  assert float(duplex.share_of_session(row)) == 1.0
  assert float(duplex.share_of_session(short._replace(user_audio_valid=row.user_audio_valid))) == 1.0


def test_a_row_without_a_picture_counts_nowhere_in_the_mean_of_pictures():
  streamer, row, draws = crop()
  blind = row._replace(agent_video_valid=jnp.zeros_like(row.agent_video_valid))
  (_, metrics), _ = loss_of()(streamer, with_text(blind, KNOWN), draws)
  assert (float(metrics["video"].weight), float(metrics["audio"].weight)) == (0.0, 1.0)


def test_errors_count_only_what_exists():
  streamer, row, _ = crop()
  row = with_text(row, KNOWN)._replace(agent_video_valid=row.agent_video_valid.at[PREVIOUS + 3].set(False))
  errors = jax.jit(unit_errors)(streamer, row, jax.random.key(0))
  assert list(np.isfinite(errors.video)) == [True, True, True, False]
  assert np.isfinite(errors.audio).all()
  assert list(np.isfinite(errors.nll).all(1)) == list(KNOWN)
