"""Multimodal rotary embedding (M-RoPE) with exact angles at any session length.

A position is three int32 ids (t, h, w), of which `ids_per_step` are one step of a language model's positions. Frequency
j of a head rotates with one of the three axes, interleaved as in Qwen3-VL. Angles are never computed as float(t) *
theta in float32 (wrong by 1.5e-3 after an hour): cos and sin come from two tables built in float64, joined by one
complex product. Ids beyond the tables (FIRST_ID .. LAST_ID, 46 hours of 40 ms) give NaN, so that errors do not stay
hidden.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

_LOW = 1024  # ids of the fine table; the coarse one has steps of this size
_COARSE_RANGE = (-8, 4088)
FIRST_ID, LAST_ID = (-8 * _LOW, 4088 * _LOW - 1)  # -8 192, for the text of WORLD, to 4 186 111


class Angles(NamedTuple):
  """cos and sin of every token's angles: half the head dimension."""

  cos: Float32[Array, "T half"]
  sin: Float32[Array, "T half"]


def axis_of_frequency(half: int) -> np.ndarray:
  """The axis of (t, h, w) that rotates frequency j: h if j % 3 == 1, w if j % 3 == 2, up to 5/16 of the head each; else
  t."""
  section = 5 * half // 16
  index = np.arange(half)
  axis = np.zeros(half, np.int32)
  axis[(index % 3 == 1) & (index < 3 * section)] = 1
  axis[(index % 3 == 2) & (index < 3 * section)] = 2
  return axis


@functools.lru_cache(maxsize=8)
def _tables(half: int, theta: float, ids_per_step: int) -> tuple[np.ndarray, np.ndarray]:
  """e^{i id theta_j / ids_per_step}: fine [1024, half, 2] and coarse [4096, half, 2], float32 (cos, sin) pairs."""
  frequency = theta ** (-np.arange(half) / half) / ids_per_step
  fine = np.arange(_LOW)[:, None] * frequency
  coarse = np.arange(*_COARSE_RANGE)[:, None] * _LOW * frequency
  pack = lambda angle: np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
  return pack(fine), pack(coarse)


def angles(position: Int[Array, "T 3"], head_dim: int, theta: float, ids_per_step: int) -> Angles:
  """Rotary angles of tokens; NaN beyond FIRST_ID .. LAST_ID."""
  half = head_dim // 2
  fine, coarse = _tables(half, theta, ids_per_step)
  axis = axis_of_frequency(half)[:, None]

  def pick(rows: jax.Array) -> jax.Array:
    """Picks from the rows of t, h and w [T, 3, H / 2, 2] the axis of every frequency: [T, H / 2, 2]."""
    return jnp.where(axis == 0, rows[:, 0], jnp.where(axis == 1, rows[:, 1], rows[:, 2]))

  row = position // _LOW - _COARSE_RANGE[0]
  row = jnp.where(row < 0, len(coarse), row)  # a negative index would count from the end
  low = pick(jnp.asarray(fine)[position % _LOW])
  high = pick(jnp.asarray(coarse).at[row].get(mode="fill", fill_value=jnp.nan))
  cos = high[..., 0] * low[..., 0] - high[..., 1] * low[..., 1]
  sin = high[..., 1] * low[..., 0] + high[..., 0] * low[..., 1]
  return Angles(cos, sin)


def rotate(x: Float[Array, "T N H"], angle: Angles) -> Float[Array, "T N H"]:
  """Rotates the two halves of every head (Qwen convention), in float32; the dtype stays."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = angle.cos[:, None], angle.sin[:, None]  # [T, 1, H / 2]
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
