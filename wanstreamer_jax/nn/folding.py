"""Folds space and time into channels, and back. Letters: T time, H W rows and columns, C channels, s side, k ratio."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def space_to_depth(x: Float[Array, "*B H W C"], side: int) -> Float[Array, "*B R Q SSC"]:
  """Folds squares of `side` x `side` into channels; borders are padded with zeros to whole squares."""
  *batch, height, width, channels = x.shape
  rows, columns = -(-height // side), -(-width // side)
  if (rows * side, columns * side) != (height, width):
    missing = ((0, rows * side - height), (0, columns * side - width), (0, 0))
    x = jnp.pad(x, (*[(0, 0)] * len(batch), *missing))
  x = x.reshape(*batch, rows, side, columns, side, channels)
  return jnp.moveaxis(x, -4, -3).reshape(*batch, rows, columns, side**2 * channels)


def depth_to_space(x: Float[Array, "*B R Q SSC"], side: int) -> Float[Array, "*B H W C"]:
  """Unfolds channels into `side` x `side` squares; the inverse of `space_to_depth` without padding."""
  *batch, rows, columns, channels = x.shape
  x = x.reshape(*batch, rows, columns, side, side, channels // side**2)
  return jnp.moveaxis(x, -3, -4).reshape(*batch, rows * side, columns * side, channels // side**2)


def depth_to_time(x: Float[Array, "T H W KC"], ratio: int) -> Float[Array, "kT H W C"]:
  """Unfolds channels into `ratio` frames."""
  frames, height, width, channels = x.shape
  x = x.reshape(frames, height, width, ratio, channels // ratio).transpose(0, 3, 1, 2, 4)
  return x.reshape(frames * ratio, height, width, channels // ratio)


def time_to_depth(x: Float[Array, "kT H W C"], ratio: int) -> Float[Array, "T H W KC"]:
  """Folds groups of `ratio` frames into channels; the inverse of `depth_to_time`."""
  frames, height, width, channels = x.shape
  x = x.reshape(frames // ratio, ratio, height, width, channels).transpose(0, 2, 3, 1, 4)
  return x.reshape(frames // ratio, height, width, ratio * channels)
