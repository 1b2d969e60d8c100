"""train.video_motion: places of a picture that move weigh more, and the mean weight stays 1."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.nano_agent import nano_agent
from tests.test_noisy_units import crop
from wanstreamer_jax.model.tokens import Latents, Past
from wanstreamer_jax.train import duplex

UNITS, WEIGHT = 4, 2.0


def past_of(video, valid=None) -> Past:
  """The agent's past of PREVIOUS + UNITS units with these video latents."""
  total = video.shape[0]
  valid = np.ones((total, 2), bool) if valid is None else valid
  return Past(Latents(jnp.asarray(video), jnp.zeros((total, 2, 3))), jnp.zeros(total), jnp.asarray(valid))


def test_what_moves_weighs_more():
  video = np.zeros((6, 2, 2, 3), np.float32)
  np.testing.assert_array_equal(duplex.motion_weights(past_of(video), UNITS, WEIGHT), 1)
  video[3:, 0, 1] = 1.0  # from unit 3 on, which is the second of the last four: one change of one place of 16
  weights = np.asarray(duplex.motion_weights(past_of(video), UNITS, WEIGHT))[..., 0]
  assert weights.shape == (4, 2, 2)
  np.testing.assert_allclose(weights.mean(), 1, rtol=1e-6)
  np.testing.assert_allclose(weights[1, 0, 1] / weights[0, 0, 0], 1 + WEIGHT * 16, rtol=1e-5)
  assert len(np.unique(weights)) == 2


def test_no_change_from_what_does_not_exist():
  video = np.zeros((6, 2, 2, 3), np.float32)
  video[2:] = 5.0
  begins = np.repeat(np.arange(6)[:, None] >= 2, 2, axis=1)  # the session begins with the crop
  np.testing.assert_array_equal(duplex.motion_weights(past_of(video, begins), UNITS, WEIGHT), 1)


def test_the_loss_weighs_them():
  streamer, row, draws = crop()
  other = nano_agent("data.units=4", "layout.commit_delay=2", f"train.video_motion={WEIGHT}").streamer
  (plain, before), (weighed, after) = (jax.jit(duplex.drawn_loss)(one, row, draws) for one in (streamer, other))
  assert abs(after["video"].value - before["video"].value) > 1e-3
  np.testing.assert_allclose(after["audio"].value, before["audio"].value, rtol=1e-6)
  np.testing.assert_allclose(weighed - plain, after["video"].value - before["video"].value, rtol=1e-3)
