"""Rotary angles are those of float64 arithmetic, at any time of a session."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import assert_close
from wanstreamer_jax.nn.rotary import FIRST_ID, LAST_ID, angles, axis_of_frequency, rotate

HOUR = 22_500 * 4  # ids of 40 ms: an hour of units of 160 ms
THETA = 1_000_000.0


def exact(position: np.ndarray, head_dim: int, theta: float) -> np.ndarray:
  """Angles in float64: [T, H / 2]."""
  half = head_dim // 2
  frequency = np.float64(theta) ** (-np.arange(half) / half)
  return position[:, axis_of_frequency(half)].astype(np.float64) / 4 * frequency


@pytest.mark.parametrize("head_dim", [24, 128])
@pytest.mark.parametrize("theta", [10_000.0, THETA])
def test_angles_are_exact_for_a_day(head_dim, theta):
  random = np.random.default_rng(0)
  hour = random.integers(0, HOUR, (2000, 3))
  edges = np.array([-1024, -1023, -1, 0, 1, 1023, 1024, 2047, 2048, HOUR - 1, HOUR, 24 * HOUR])
  position = np.concatenate([hour, np.repeat(edges[:, None], 3, 1)]).astype(np.int32)
  found = jax.jit(angles, static_argnums=(1, 2, 3))(position, head_dim, theta, 4)
  angle = exact(position, head_dim, theta)
  assert np.abs(found.cos - np.cos(angle)).max() < 3e-7
  assert np.abs(found.sin - np.sin(angle)).max() < 3e-7


def test_float32_products_would_not_do():
  """The reason for the tables: after an hour, float32(t) * theta is wrong by more than a thousandth."""
  position = np.arange(HOUR - 1000, HOUR, dtype=np.int32)
  frequency = (np.float32(THETA) ** (-np.arange(64, dtype=np.float32) / 64)).astype(np.float32)
  naive = np.cos(position[:, None].astype(np.float32) / 4 * frequency)
  angle = exact(np.repeat(position[:, None], 3, 1), 128, THETA)
  assert np.abs(naive - np.cos(angle)).max() > 1e-3


def test_scores_depend_on_differences_of_time_only():
  random = np.random.default_rng(1)
  q, k = (jnp.asarray(random.standard_normal((1, 1, 64)), jnp.float32) for _ in range(2))

  def score(query_time: int, key_time: int) -> jax.Array:
    angle = lambda t: angles(jnp.array([[t, t // 2, 3 * t]], jnp.int32), 64, THETA, 4)
    return jnp.sum(rotate(q, angle(query_time)) * rotate(k, angle(key_time)))

  later = HOUR - HOUR % 4
  assert_close(score(1000 + later, 960 + later), score(1000, 960), 1e-5)
  assert abs(float(score(1000, 900) - score(1000, 960))) > 1e-2


def test_axes_are_interleaved_and_time_keeps_the_slow_frequencies():
  axis = axis_of_frequency(64)  # a head of 128, as in Qwen3-VL: sections of 24, 20 and 20
  assert axis[:6].tolist() == [0, 1, 2, 0, 1, 2]
  assert [int((axis == a).sum()) for a in range(3)] == [24, 20, 20]
  assert set(axis[60:].tolist()) == {0}


def test_a_rotation_keeps_lengths_and_swaps_halves():
  x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 2, 8)), jnp.float32)
  angle = angles(jnp.full((3, 3), 77, jnp.int32), 8, 100.0, 4)
  y = rotate(x, angle)
  assert_close(jnp.sum(y * y, -1), jnp.sum(x * x, -1), 1e-6)
  assert_close(y[0, 0, :4], x[0, 0, :4] * angle.cos[0] - x[0, 0, 4:] * angle.sin[0], 1e-6)
  assert rotate(x.astype(jnp.bfloat16), angle).dtype == jnp.bfloat16


def test_ids_beyond_the_tables_are_not_a_number():
  """Rather than the angles of another time: a session that runs for longer is found to be broken, and ended."""
  position = jnp.repeat(jnp.array([FIRST_ID - 1, FIRST_ID, LAST_ID, LAST_ID + 1], jnp.int32)[:, None], 3, axis=1)
  assert np.isfinite(angles(position, 8, THETA, 4).cos).all(axis=1).tolist() == [False, True, True, False]
