"""The path of flow matching, and the velocity of a head that knows what to expect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wanstreamer_jax.flow import euler, guided, interpolate, schedule, velocity, velocity_from_mean


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("std", [0.2, 1.0])
def test_the_velocity_is_the_best_linear_guess(tau, std):
  """Least squares over draws finds the same slope and offset."""
  keys, mean, tau = jax.random.split(jax.random.key(0)), 0.8, jnp.asarray(tau)
  z0, noise = mean + std * jax.random.normal(keys[0], (200_000,)), jax.random.normal(keys[1], (200_000,))
  z = interpolate(z0, noise, tau)
  slope, offset = np.polyfit(np.asarray(z, np.float64), np.asarray(velocity(z0, noise), np.float64), 1)
  at = lambda z: float(velocity_from_mean(jnp.asarray(mean), jnp.asarray(z), tau, std**2))
  np.testing.assert_allclose([at(1.0) - at(0.0), at(0.0)], [slope, offset], atol=0.05)


def test_from_pure_noise_the_mean_itself_is_reached():
  """z - v at tau = 1 is the mean, to the last bit of what is left of the noise."""
  mean, noise = jax.random.normal(jax.random.key(1), (2, 64))
  np.testing.assert_allclose(noise - velocity_from_mean(mean, noise, jnp.ones(()), 0.04), mean, atol=1e-6)


def test_every_channel_has_its_own_variance():
  mean, z = jax.random.normal(jax.random.key(1), (2, 5, 3))
  variance, tau = jnp.array([0.01, 0.2, 1.0]), jnp.asarray(0.3)
  whole = velocity_from_mean(mean, z, tau, variance)
  for channel, value in enumerate((0.01, 0.2, 1.0)):
    np.testing.assert_array_equal(whole[:, channel], velocity_from_mean(mean[:, channel], z[:, channel], tau, value))


def test_data_and_noise_meet_finite_velocities():
  for tau in (0.0, 1e-6, 1.0):
    assert np.isfinite(velocity_from_mean(jnp.ones(4), jnp.ones(4), jnp.asarray(tau), 0.04)).all()


def test_steps_that_are_not_taken_move_nothing():
  field = lambda z, tau: -jnp.sin(3 * z) * (1 + tau)
  solve = lambda *steps: euler(field, jnp.linspace(-1, 1, 9), schedule(*steps))[0]
  np.testing.assert_array_equal(solve(2, 3.0, 5), solve(2, 3.0))
  assert np.abs(solve(3, 3.0, 5) - solve(2, 3.0)).max() > 1e-3


def test_guidance_goes_from_one_field_to_the_other_and_beyond():
  told, untold, z = (lambda z, tau: 3 * z), (lambda z, tau: z + tau), jnp.linspace(-1, 1, 9)
  at = lambda scale: guided(told, untold, jnp.asarray(scale))(z, jnp.asarray(0.25))
  np.testing.assert_array_equal(at(1.0), 3 * z)  # to the bit
  np.testing.assert_allclose(at(0.0), z + 0.25, atol=1e-6)
  np.testing.assert_allclose(at(2.0), 5 * z - 0.25, atol=1e-6)
