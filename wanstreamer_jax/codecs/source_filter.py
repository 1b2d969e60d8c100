"""Streaming source-filter synthesis: pulses and noise through time-varying filters. The filters have minimum phase.

It is the last stage of the audio decoder. A frame of `hop` samples is described by a pitch and two cepstra. The source
of frame t is a band-limited pulse train (neural source-filter models, arXiv 1904.12088, and DDSP, arXiv 2001.04643,
have the same idea) and white noise; each goes through the minimum-phase filter whose causal cepstrum is given,
cross-faded from the filters of frame t - 1. No sample depends on a later frame.

Pitch lies on an integer grid and phase is counted in uint32 (a turn is 2^32), so that an hour has no drift and chunks
of any size give the same phase. With float phases, rounding errors would become audible.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

LOWEST_PITCH = 0.55  # cycles per frame: 55 Hz at frames of 10 ms
OCTAVES = 3.25  # up to 523 Hz
STEPS_PER_OCTAVE = 48
TURN = 2.0**32
REST_LEVEL = -7.0  # natural log of the filters' gain at cepstrum zero: an untrained or empty frame is nearly silent


class SourceFilterState(NamedTuple):
  """What the synthesis remembers between frames; `initial_state` is silence."""

  tail: Float[Array, "P hop"]  # the rest of earlier frames' filtered sound, which lies in frames to come
  cepstra: Float[Array, "2 K"]  # of the last frame: pulses, noise
  pitch: Int[Array, ""]  # of the last frame, a grid index
  phase: UInt32[Array, ""]  # of the next sample
  frame: Int[Array, ""]  # frames so far; seeds the noise


def transform_size(hop: int) -> int:
  """Samples of the filters' Fourier transforms: a power of two of at least four hops."""
  return 1 << (4 * hop - 1).bit_length()


def initial_state(hop: int, cepstrum: int) -> SourceFilterState:
  """The state before the first frame: silence."""
  parts = -(-transform_size(hop) // hop)
  return SourceFilterState(
    tail=jnp.zeros((parts - 1, hop)),
    cepstra=jnp.zeros((2, cepstrum)),
    pitch=jnp.int32(0),
    phase=jnp.uint32(0),
    frame=jnp.int32(0),
  )


def pitch_octaves(logit: Float[Array, "*T"]) -> Float[Array, "*T"]:
  """Octaves above LOWEST_PITCH, in (0, OCTAVES)."""
  return OCTAVES * jax.nn.sigmoid(logit)


def pitch_index(logit: Float[Array, "*T"]) -> Int[Array, "*T"]:
  """The nearest point of the pitch grid. It has no gradient, since pitch is learned from its own loss."""
  return jnp.round(jax.lax.stop_gradient(pitch_octaves(logit)) * STEPS_PER_OCTAVE).astype(jnp.int32)


def phase_increments(hop: int) -> np.ndarray:
  """uint32 phase per sample for every grid pitch, each divisible by 2 * hop so that glides are exact too."""
  grid = np.arange(round(OCTAVES * STEPS_PER_OCTAVE) + 1)
  cycles = LOWEST_PITCH * 2.0 ** (grid / STEPS_PER_OCTAVE) / hop  # per sample
  return (np.round(cycles * TURN / (2 * hop)) * 2 * hop).astype(np.uint32)


def pulses(phase: UInt32[Array, "*T"], increment: UInt32[Array, "*T"]) -> Float[Array, "*T"]:
  """Band-limited pulse train of unit power: the sum of cos(k * phase) over all harmonics below half the rate.

  Closed form: sin((2K + 1) x) / (2 sin x) - 1/2 with x = phase / 2 and K harmonics.
  """
  x = np.pi / TURN * phase.astype(jnp.int32).astype(jnp.float32)
  period = TURN / increment.astype(jnp.float32)
  harmonics = jnp.floor(0.5 * period)
  near = jnp.abs(x) < 1e-6
  safe = jnp.where(near, 1.0, x)
  train = jnp.where(near, harmonics, jnp.sin((2 * harmonics + 1) * safe) / (2 * jnp.sin(safe)) - 0.5)
  return train * jnp.sqrt(4.0 / period)


def pulse_source(
  pitch: Int[Array, "T"], state: SourceFilterState, hop: int
) -> tuple[Float[Array, "T hop"], UInt32[Array, ""]]:
  """Pulses whose pitch glides, within frame t, from that of frame t - 1 to that of frame t. Returns the next phase."""
  table = jnp.asarray(phase_increments(hop))
  target = table[pitch]
  start = jnp.concatenate([table[state.pitch][None], target[:-1]])
  bend = (target.astype(jnp.int32) - start.astype(jnp.int32)) // (2 * hop)  # exact; half the change per sample
  bend = bend.astype(jnp.uint32)  # wraps like the phase does
  per_frame = start * jnp.uint32(hop) + bend * jnp.uint32(hop * hop)
  ends = state.phase + jnp.cumsum(per_frame, dtype=jnp.uint32)
  starts = jnp.concatenate([state.phase[None], ends[:-1]])
  n = jnp.arange(hop, dtype=jnp.uint32)
  phase = starts[:, None] + start[:, None] * n + bend[:, None] * (n * n)
  increment = start[:, None] + bend[:, None] * (2 * n)
  return pulses(phase, increment), ends[-1]


def noise_source(frames: int, state: SourceFilterState, hop: int) -> Float[Array, "T hop"]:
  """White noise of unit power that depends only on the frame's number."""
  key = jax.random.key(0)
  draw = lambda frame: jax.random.normal(jax.random.fold_in(key, frame), (hop,))
  return jax.vmap(draw)(state.frame + jnp.arange(frames))


def filter_spectrum(cepstra: Float[Array, "*T K"], size: int) -> tuple[Float[Array, "*T F"], Float[Array, "*T F"]]:
  """Real and imaginary part of exp(sum_n c_n e^(-2 pi i f n / size)): a minimum-phase filter."""
  angles = 2 * np.pi / size * np.outer(np.arange(cepstra.shape[-1]), np.arange(size // 2 + 1))
  level = cepstra @ jnp.asarray(np.cos(angles), jnp.float32) + REST_LEVEL
  delay = cepstra @ jnp.asarray(np.sin(angles), jnp.float32)
  gain = jnp.exp(jnp.clip(level, -16.0, 6.0))
  return gain * jnp.cos(delay), -gain * jnp.sin(delay)


def synthesise(
  pitch: Int[Array, "T"], cepstra: Float[Array, "T 2 K"], state: SourceFilterState, hop: int
) -> tuple[Float[Array, "S"], SourceFilterState]:
  """T frames to T * hop samples.

  pitch: grid indices. cepstra: of the filters for pulses and for noise.
  """
  frames, size = pitch.shape[0], transform_size(hop)
  source, phase = pulse_source(pitch, state, hop)
  source = jnp.stack([source, noise_source(frames, state, hop)], axis=1)  # [T, 2, hop]
  fade = jnp.asarray((np.arange(hop) + 0.5) / hop, jnp.float32)

  real, imaginary = filter_spectrum(jnp.concatenate([state.cepstra[None], cepstra]), size)
  spectrum = jax.lax.complex(real, imaginary)  # [T + 1, 2, F]
  rising, falling = jnp.fft.rfft(source * fade, size), jnp.fft.rfft(source * (1 - fade), size)
  filtered = jnp.sum(rising * spectrum[1:] + falling * spectrum[:-1], axis=1)
  pieces = jnp.fft.irfft(filtered, size)  # [T, size], the first `hop` samples are this frame's own

  parts = state.tail.shape[0] + 1
  pieces = jnp.pad(pieces, ((0, 0), (0, parts * hop - size))).reshape(frames, parts, hop)
  samples = jnp.zeros((frames + parts - 1, hop)).at[: parts - 1].set(state.tail)
  for part in range(parts):
    samples = samples.at[part : part + frames].add(pieces[:, part])
  state = SourceFilterState(samples[frames:], cepstra[-1], pitch[-1], phase, state.frame + frames)
  return samples[:frames].reshape(-1), state
