"""What a finished codec measures of its latents beside mean and deviation: what the past leaves unknown."""

import numpy as np

from wanstreamer_jax.codecs.posterior import LEAST_RESIDUAL, residual_std


def walk(rng, clips, frames, places, keep):
  """First-order processes of deviation 1 that keep `keep` of the value one unit before; `lag` 2 places apart."""
  x = rng.standard_normal((clips, frames, places, len(keep)))
  for t in range(2, frames):
    x[:, t] = keep * x[:, t - 2] + np.sqrt(1 - keep**2) * x[:, t]
  return x


def test_what_the_previous_unit_does_not_tell():
  keep = np.array([0.0, 0.6, 0.99, 1.0])
  x = walk(np.random.default_rng(0), 16, 60, 3, keep)
  found = residual_std(x, lag=2)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, np.maximum(np.sqrt(1 - keep**2), LEAST_RESIDUAL), atol=0.03)
  np.testing.assert_allclose(residual_std(x, lag=1)[:2], 1, atol=0.03)  # the frame before knows nothing


def test_other_channels_of_the_same_place_count():
  x = np.random.default_rng(0).standard_normal((8, 50, 2))
  x[:, 1:, 1] = x[:, :-1, 0]  # the second channel says what the first said before
  np.testing.assert_allclose(residual_std(x, lag=1), [1, LEAST_RESIDUAL], atol=0.05)


def test_too_few_examples_are_not_measured():
  x = np.random.default_rng(0).standard_normal((1, 9, 4))
  assert not residual_std(x, lag=1).any()
  assert not residual_std(x, lag=9).any()
