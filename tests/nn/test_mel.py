"""Spectra: products with sinusoids, where FFTs of two programs would block each other, are Fourier transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wanstreamer_jax.nn import mel


@pytest.mark.parametrize("size", [32, 480, 720, 1024, 2048])
def test_power_spectra_are_those_of_a_fourier_transform(size):
  frames = np.random.default_rng(0).standard_normal((5, size))
  exact = np.square(np.abs(np.fft.rfft(frames * mel.sine_window(size, np.float64))))
  found = jax.jit(mel.power_spectrum)(jnp.asarray(frames, jnp.float32), mel.sine_window(size))
  np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-6 * exact.max())


def test_short_frames_need_no_fft_on_a_cpu():
  has_fft = lambda size: (
    "fft" in jax.jit(mel.power_spectrum).lower(jnp.ones((3, size)), mel.sine_window(size)).as_text()
  )
  assert not has_fft(720)
  assert has_fft(2 * mel.LONGEST_PRODUCT)
