"""Causal convolutions: laws 1, 2 and 9, and equality with XLA's own convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.streaming import check_causality, check_chunking
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.nn.causal_conv import (
  CausalConv1d,
  CausalConv3d,
  ChannelNorm,
  Residual1d,
  Residual3d,
  UpsampleConv1d,
)
from wanstreamer_jax.nn.folding import depth_to_space, depth_to_time, space_to_depth, time_to_depth


def step(module, x, state):
  return module(x, state)


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def layers_1d():
  rngs = nnx.Rngs(0)
  return {
    "plain": (CausalConv1d(3, 4, 5, rngs=rngs), 1),
    "point": (CausalConv1d(3, 4, 1, rngs=rngs), 1),
    "dilated": (CausalConv1d(3, 4, 3, dilation=3, rngs=rngs), 1),
    "strided": (CausalConv1d(3, 4, 7, stride=3, rngs=rngs), 3),
    "no overlap": (CausalConv1d(3, 4, 4, stride=4, rngs=rngs), 4),
    "upsample": (UpsampleConv1d(3, 4, 5, rngs=rngs), 1),
    "residual": (Residual1d(3, 3, rngs=rngs), 1),
  }


def layers_3d():
  rngs = nnx.Rngs(1)
  return {
    "3x3x3": CausalConv3d(2, 3, (3, 3, 3), rngs=rngs),
    "2x1x1": CausalConv3d(2, 3, (2, 1, 1), rngs=rngs),
    "1x3x3": CausalConv3d(2, 3, (1, 3, 3), rngs=rngs),
    "residual": Residual3d(2, 3, rngs=rngs),
  }


@pytest.mark.parametrize("name", layers_1d())
def test_1d_chunks_equal_the_whole(name):
  layer, grid = layers_1d()[name]
  x = normal(12 * grid, 3)
  splits = [[grid] * 12, [5 * grid, 7 * grid], [grid, 9 * grid, 2 * grid]]
  check_chunking(step, layer, x, layer.initial_state(), splits)


@pytest.mark.parametrize("name", layers_1d())
def test_1d_never_sees_the_future(name):
  layer, grid = layers_1d()[name]
  outputs = 4 * getattr(layer, "ratio", 1)
  check_causality(step, layer, normal(9 * grid, 3), layer.initial_state(), 4 * grid, outputs)


@pytest.mark.parametrize("name", layers_3d())
def test_3d_chunks_equal_the_whole(name):
  layer = layers_3d()[name]
  x = normal(7, 4, 5, 2)
  check_chunking(step, layer, x, layer.initial_state(4, 5), [[1] * 7, [4, 3], [1, 4, 2]])


@pytest.mark.parametrize("name", layers_3d())
def test_3d_never_sees_the_future(name):
  layer = layers_3d()[name]
  check_causality(step, layer, normal(6, 4, 5, 2), layer.initial_state(4, 5), 3, 3)


def test_3d_is_the_convolution_of_xla(close):
  layer = CausalConv3d(4, 5, (3, 3, 3), rngs=nnx.Rngs(0))
  x = normal(6, 7, 8, 4)

  def reference(w, x):
    padding = [(2, 0), (1, 1), (1, 1)]
    return jax.lax.conv_general_dilated(x[None], w, (1, 1, 1), padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))[
      0
    ]

  close(layer(x, layer.initial_state(7, 8))[0], reference(layer.w[...], x))
  ours = jax.grad(lambda layer, x: jnp.sum(jnp.sin(layer(x, layer.initial_state(7, 8))[0])), (0, 1))(layer, x)
  theirs = jax.grad(lambda w, x: jnp.sum(jnp.sin(reference(w, x))), (0, 1))(layer.w[...], x)
  close((ours[0].w[...], ours[1]), theirs)


def test_1d_is_the_convolution_of_xla(close):
  layer = CausalConv1d(3, 4, 7, stride=2, rngs=nnx.Rngs(0))
  x = normal(20, 3)
  expected = jax.lax.conv_general_dilated(
    x[None], layer.w[...], (2,), [(5, 0)], dimension_numbers=("NWC", "WIO", "NWC")
  )
  close(layer(x, layer.initial_state())[0], expected[0])


def test_upsampling_is_a_transposed_convolution(close):
  layer = UpsampleConv1d(3, 4, 5, rngs=nnx.Rngs(0))
  layer.conv.w = nnx.Param(normal(*layer.conv.w.shape))
  x = normal(6, 3)
  # kernel [taps * ratio, in, out] of the transposed convolution, newest input first
  kernel = layer.conv.w[...].reshape(2, 3, 5, 4)[::-1].transpose(0, 2, 1, 3).reshape(10, 3, 4)
  expected = jnp.zeros((35, 4))
  for t in range(6):
    expected = expected.at[5 * t : 5 * t + 10].add(jnp.einsum("i,kio->ko", x[t], kernel))
  close(layer(x, layer.initial_state())[0], expected[:30])


def test_an_untrained_upsampling_repeats():
  layer = UpsampleConv1d(3, 4, 5, rngs=nnx.Rngs(0))
  y = layer(normal(6, 3), layer.initial_state())[0].reshape(6, 5, 4)
  np.testing.assert_allclose(y, jnp.broadcast_to(y[:, :1], y.shape), rtol=1e-5, atol=1e-6)


def test_folding_is_undone_by_unfolding():
  x = normal(4, 6, 8, 3)
  np.testing.assert_array_equal(depth_to_space(space_to_depth(x, 2), 2), x)
  np.testing.assert_array_equal(depth_to_time(time_to_depth(x, 4), 4), x)
  np.testing.assert_array_equal(space_to_depth(x, 2)[1, 2, 3], x[1, 4:6, 6:8].reshape(-1))
  np.testing.assert_array_equal(time_to_depth(x, 4)[0, 2, 3], x[:, 2, 3].reshape(-1))


def test_the_norm_looks_at_one_position_only():
  norm, x = ChannelNorm(3), normal(4, 5, 3)
  np.testing.assert_allclose(jnp.mean(norm(x) ** 2, -1), 1.0, rtol=1e-4)
  jacobian = jax.jacobian(norm)(x)
  for t in range(4):
    for h in range(5):
      assert np.abs(jacobian[t, h, :, t, h]).max() > 0
      assert not np.any(np.delete(jacobian[t, h].reshape(3, 20, 3), t * 5 + h, axis=1))


def test_lengths_off_the_grid_are_refused():
  layer = CausalConv1d(3, 4, 7, stride=3, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="10 inputs are not a whole number of strides of 3"):
    layer(normal(10, 3), layer.initial_state())
  with pytest.raises(ConfigError, match="skips inputs at stride 5"):
    CausalConv1d(3, 4, 4, stride=5, rngs=nnx.Rngs(0))
