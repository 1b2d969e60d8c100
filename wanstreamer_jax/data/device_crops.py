"""Crops of the users' pictures that an accelerator keeps, and what changes in each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

PICTURES = "user_video"  # the field that is kept
# What changes of a user in every crop (`varied`), beside what was changed once for the session.
SHIFT = 3  # pixels up or down, left or right
LIGHT = 0.15  # e-fold
LEVEL_DB = 6.0
HISS_DB = (-90.0, -45.0)  # below full scale
COLOUR_DB = (
  6.0  # deviation of a microphone's gain at TONES frequencies, evenly spaced in octaves from LOWEST to the highest
)
TONES, LOWEST = 8, 60.0  # Hz
TAPS = 1024  # of its response


def without_pictures(units: np.ndarray) -> np.ndarray:
  """Unit records whose field of the user's pictures has size 0."""
  dtype = units.dtype
  narrow = np.dtype([(name, *((np.uint8, (0,)) if name == PICTURES else (dtype[name],))) for name in dtype.names or ()])
  kept = np.zeros(len(units), narrow)
  for name in narrow.names or ():
    if name != PICTURES:
      kept[name] = units[name]
  return kept


@functools.partial(jax.jit, static_argnums=2)
def cut_pictures(pictures: tuple[jax.Array, ...], starts: np.ndarray, units: int) -> jax.Array:
  """Crops of `units` units of several sessions' pictures: [rows, units, frames, H, W, 3]."""
  return jnp.stack([jax.lax.dynamic_slice_in_dim(one, start, units) for one, start in zip(pictures, starts)])


def coloured(audio: jax.Array, key: jax.Array, rate: int) -> jax.Array:
  """Sound [units, samples] through a microphone that has another gain at every frequency; float32 of the same level.

  Its response has minimum phase, from the real cepstrum of the gains (Oppenheim and Schafer), so that nothing sounds
  before it is spoken.
  """
  octaves = jnp.log2(jnp.maximum(jnp.fft.rfftfreq(4 * TAPS, 1 / rate), LOWEST) / LOWEST)
  places = jnp.linspace(0, np.log2(rate / 2 / LOWEST), TONES)
  gains = jnp.interp(octaves, places, COLOUR_DB * jax.random.normal(key, (TONES,))) * (np.log(10) / 20)
  cepstrum = jnp.fft.irfft(gains).at[1 : 2 * TAPS].multiply(2).at[2 * TAPS + 1 :].set(0)
  response = jnp.fft.irfft(jnp.exp(jnp.fft.rfft(cepstrum)))[:TAPS]
  flat = audio.reshape(-1).astype(jnp.float32)
  size = 1 << (flat.size + TAPS - 1).bit_length()  # a length for which transforms are fast
  heard = jnp.fft.irfft(jnp.fft.rfft(flat, size) * jnp.fft.rfft(response, size), size)[: flat.size]
  same = jnp.sqrt(jnp.mean(jnp.square(flat)) / jnp.maximum(jnp.mean(jnp.square(heard)), 1e-6))
  return (same * heard).reshape(audio.shape)


@functools.partial(jax.jit, static_argnums=3)
def varied(pictures: jax.Array, audio: jax.Array, seed: np.ndarray, rate: int) -> tuple[jax.Array, jax.Array]:
  """The user of every crop, a little different each time that it is used: framing and light, level, hiss and
  the colour of the microphone.

  pictures: uint8 [rows, units, frames, H, W, 3]; audio: int16 [rows, units, samples]; seed: uint32 [2]; rate: samples
  a second.
  """

  def row(pictures: jax.Array, audio: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key, 7)
    flat = pictures.reshape(-1, *pictures.shape[2:])
    wide = jnp.pad(flat, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "edge")
    rows, columns = jax.random.randint(keys[0], (2,), 0, 2 * SHIFT + 1)
    moved = jax.lax.dynamic_slice(wide, (0, rows, columns, 0), flat.shape).reshape(pictures.shape)
    gain = jnp.exp(jax.random.uniform(keys[1], (3,), minval=-LIGHT, maxval=LIGHT) / 2)  # of each colour, and of all
    gain *= jnp.exp(jax.random.uniform(keys[2], minval=-LIGHT, maxval=LIGHT))
    lit = jnp.clip(moved * gain, 0, 255).astype(jnp.uint8)
    level = 10 ** (jax.random.uniform(keys[3], minval=-LEVEL_DB, maxval=LEVEL_DB) / 20)
    hiss = 32768 * 10 ** (jax.random.uniform(keys[4], minval=HISS_DB[0], maxval=HISS_DB[1]) / 20)
    heard = level * coloured(audio, keys[6], rate) + hiss * jax.random.normal(keys[5], audio.shape)
    return lit, jnp.clip(jnp.rint(heard), -32768, 32767).astype(jnp.int16)

  return jax.vmap(row)(pictures, audio, jax.random.split(jax.random.wrap_key_data(jnp.asarray(seed)), len(audio)))
