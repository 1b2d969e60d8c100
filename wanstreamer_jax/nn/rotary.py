"""Multimodal rotary embedding (M-RoPE) with exact angles at any session length.

A position is three int32 ids (t, h, w) on a grid whose rotary step is 1/4. Frequency j of a head turns with one of
the three axes, interleaved as in Qwen3-VL. Angles are never computed as float(t) * theta in float32 (wrong by 1.5e-3
after an hour); cos and sin come from two tables built in float64, joined by one complex product.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.config import POSITIONS_PER_UNIT

_LOW = 1024  # ids of the fine table; the coarse one has steps of this size
_COARSE_RANGE = (-8, 4088)  # ids from -8 192 (the words of WORLD) up to 4 186 111: 46 hours of 40 ms steps


class Angles(NamedTuple):
  """cos and sin of every token's angles: float32 [T, H / 2]."""

  cos: jax.Array
  sin: jax.Array


def axis_of_frequency(half: int) -> np.ndarray:
  """Which of (t, h, w) turns frequency j: h if j % 3 == 1, w if j % 3 == 2, up to 5/16 of the head each; else t."""
  section = 5 * half // 16
  index = np.arange(half)
  axis = np.zeros(half, np.int32)
  axis[(index % 3 == 1) & (index < 3 * section)] = 1
  axis[(index % 3 == 2) & (index < 3 * section)] = 2
  return axis


@functools.lru_cache(maxsize=8)
def _tables(half: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
  """Complex tables e^{i id theta_j / 4}: fine [1024, half] and coarse [4096, half], as float32 (cos, sin) pairs."""
  frequency = theta ** (-np.arange(half) / half) / POSITIONS_PER_UNIT
  fine = np.arange(_LOW)[:, None] * frequency
  coarse = np.arange(*_COARSE_RANGE)[:, None] * _LOW * frequency
  pack = lambda angle: np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
  return pack(fine), pack(coarse)


def angles(position: jax.Array, head_dim: int, theta: float) -> Angles:
  """Rotary angles of tokens. position: int32 [T, 3] -> cos, sin float32 [T, H / 2]."""
  half = head_dim // 2
  fine, coarse = _tables(half, theta)
  axis = axis_of_frequency(half)[:, None]
  pick = lambda rows: jnp.where(axis == 0, rows[:, 0], jnp.where(axis == 1, rows[:, 1], rows[:, 2]))
  low = pick(jnp.asarray(fine)[position % _LOW])  # whole rows [T, 3, H / 2, 2], then one axis per frequency
  high = pick(jnp.asarray(coarse)[position // _LOW - _COARSE_RANGE[0]])
  cos = high[..., 0] * low[..., 0] - high[..., 1] * low[..., 1]
  sin = high[..., 1] * low[..., 0] + high[..., 0] * low[..., 1]
  return Angles(cos, sin)


def rotate(x: jax.Array, turn: Angles) -> jax.Array:
  """Rotates the two halves of every head (Qwen convention). x: [T, heads, H] -> same shape and dtype."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = turn.cos[:, None], turn.sin[:, None]
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
