"""The causal resampler: what it delays, what it lets through, and that it streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.streaming import check_causality, check_chunking
from wanstreamer_jax.nn.resample import Resampler

RESAMPLER = Resampler(24_000, 16_000)


def step(gain, x, state):
  return RESAMPLER(gain * x, state)


@pytest.mark.parametrize(("source", "target"), [(24_000, 16_000), (48_000, 16_000), (16_000, 24_000)])
def test_a_tone_comes_out_later_by_the_stated_delay(source, target):
  resampler = Resampler(source, target)
  run = jax.jit(lambda x: resampler(x, resampler.initial_state())[0])
  seconds, band = 0.1, min(source, target) / 2
  for frequency in (200.0, 1000.0, 0.7 * band):
    x = np.sin(2 * np.pi * frequency * np.arange(round(seconds * source)) / source)
    y = run(jnp.asarray(x, jnp.float32))
    time = np.arange(round(seconds * target)) / target - resampler.delay / source
    settled = slice(len(time) // 2, None)
    np.testing.assert_allclose(y[settled], np.sin(2 * np.pi * frequency * time)[settled], atol=3e-3)


def test_what_would_fold_back_is_removed():
  x = np.sin(2 * np.pi * 9500 * np.arange(2400) / 24_000)  # would come back at 6.5 kHz
  y, _ = RESAMPLER(jnp.asarray(x, jnp.float32), RESAMPLER.initial_state())
  assert np.abs(y[800:]).max() < 1e-3


def test_laws_1_and_2():
  x = jnp.asarray(np.random.default_rng(0).standard_normal(240), jnp.float32)
  gain, state = jnp.ones(()), RESAMPLER.initial_state()
  check_chunking(step, gain, x, state, [[120, 120], [3, 57, 180]])
  check_causality(step, gain, x, state, 120, 80)


def test_equal_rates_change_nothing():
  resampler, x = Resampler(16_000, 16_000), jnp.arange(5.0)
  assert resampler.delay == 0
  np.testing.assert_array_equal(resampler(x, resampler.initial_state())[0], x)
