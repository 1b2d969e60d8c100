"""Causal resampling by a rational factor. `(x, state) -> (y, state)`, a windowed-sinc filter in polyphase form.

`down` samples in, `up` samples out. The filter is symmetric, so it delays all frequencies alike, by `delay` input
samples; output j of a group depends on no input after the group.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wanstreamer_jax.nn.causal_conv import stack_taps

ZERO_CROSSINGS = 16  # of the sinc on either side, at the lower of the two rates
BETA = 8.0  # of the Kaiser window: what folds back is 80 dB down
BAND = 0.93  # of the lower rate's band that passes


@dataclasses.dataclass(frozen=True)
class Resampler:
  """From `source` to `target` samples a second."""

  source: int
  target: int

  @property
  def up(self) -> int:
    return self.target // math.gcd(self.source, self.target)

  @property
  def down(self) -> int:
    return self.source // math.gcd(self.source, self.target)

  @property
  def half(self) -> int:
    """Taps on either side of the filter's middle, at the common rate source x up."""
    return 0 if self.up == self.down else ZERO_CROSSINGS * max(self.up, self.down)

  @property
  def delay(self) -> float:
    """Input samples by which the output is late."""
    return self.half / self.up

  @property
  def tail(self) -> int:
    """Input samples that the state holds, a multiple of `down`."""
    return -(-2 * self.half // (self.up * self.down)) * self.down

  def initial_state(self) -> Float[Array, "P"]:
    return jnp.zeros(self.tail)

  def __call__(self, x: Float[Array, "S"], state: Float[Array, "P"]) -> tuple[Float[Array, "R"], Float[Array, "P"]]:
    """S samples, a multiple of `down`, to R = S / down * up."""
    if self.up == self.down:
      return x, state
    stream = jnp.concatenate([state, x])
    windows = stack_taps(stream.reshape(-1, self.down), 1 + self.tail // self.down)  # [groups, tail + down]
    return (windows @ jnp.asarray(_taps(self))).reshape(-1), stream[stream.shape[0] - self.tail :]


@functools.cache
def _taps(resampler: Resampler) -> np.ndarray:
  """[tail + down, up]: what each input of a group, and of the tail before it, adds to each of the group's outputs."""
  r = resampler
  middle = np.arange(-r.half, r.half + 1)
  cutoff = BAND / max(r.up, r.down)
  low_pass = r.up * cutoff * np.sinc(cutoff * middle) * np.kaiser(2 * r.half + 1, BETA)  # at the common rate
  at_input = r.up * (np.arange(r.tail + r.down) - r.tail)  # places at the common rate, the group's first input at 0
  at_output = r.down * np.arange(r.up)
  age = at_output - at_input[:, None]
  inside = (age >= 0) & (age <= 2 * r.half)
  return np.where(inside, low_pass[np.clip(age, 0, 2 * r.half)], 0).astype(np.float32)
