"""Changes what the user shows and says in training: other microphones, rooms, cameras.

A recording has one microphone at one level. An agent trained on it as it is answers half as often when the same voice
comes 12 dB quieter. So the loader plays every crop through a made-up chain: a room, a microphone's level, noise, a
codec, a lossy line; for pictures light, focus, and frames that do not arrive. `config.augment` has the probability and
the range of each. Draws are a pure function of (data.seed, step, row of the global batch): a resumed run, and one on
another number of hosts, sees the same numbers. Only the user's sound and pictures change, and only where they exist.
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import signal

from wanstreamer_jax.config import AugmentConfig
from wanstreamer_jax.data.loudness import LOUD, levels
from wanstreamer_jax.data.records import audio_to_float, audio_to_int16

STREAM = 4  # number of this random stream, beside those of data/mixture.py
BANK = 2**18  # samples of noise that are made once and read from anywhere
AT_ONCE = 16  # units of pictures whose light is changed in one call
PIECE = 50  # lost packets a second: 20 ms each
LONGEST_BURST = 5  # packets that are lost in a row
TELEPHONE = (300.0, 3400.0)  # Hz (ITU-T G.712)
MU = 255.0  # of mu-law (ITU-T G.711)


class Draws(NamedTuple):
  """A random generator for every effect, so that the settings of one do not change the draws of another."""

  room: np.random.Generator
  gain: np.random.Generator
  noise: np.random.Generator
  codec: np.random.Generator
  loss: np.random.Generator
  light: np.random.Generator
  blur: np.random.Generator
  drop: np.random.Generator


def draws(seed: int, step: int, row: int) -> Draws:
  """The generators of one crop: `row` of global batch `step`."""
  return Draws(*np.random.default_rng([seed, STREAM, step, row]).spawn(len(Draws._fields)))


def _between(rng: np.random.Generator, pair: tuple[float, ...]) -> float:
  return rng.uniform(pair[0], pair[1])


def augment_audio(audio: np.ndarray, valid: np.ndarray, rate: int, augment: AugmentConfig, rngs: Draws) -> np.ndarray:
  """The user's sound, int16 [K, samples], as another microphone would hear it. valid: bool [K], whether it exists."""
  chosen = [rng.random() < share for rng, share in zip(rngs, (augment.room, augment.gain, augment.noise, augment.codec,
                                                              augment.loss))]  # fmt: skip
  if not any(chosen) or not valid.any():
    return audio
  room, gain, noise, codec, loss = chosen
  x = audio_to_float(audio).reshape(-1)
  if room:
    x = add_room(x, rate, augment.room_seconds, rngs.room)
  if noise:
    x = add_noise(x, rate, augment.noise_snr_db, rngs.noise)
  if gain:
    x = x * np.float32(10 ** (_between(rngs.gain, augment.gain_db) / 20))
  if codec:
    x = through_codec(x, rate, augment.codec_hz, rngs.codec)
  if loss:
    x = lose_packets(x, rate, augment.loss_share, rngs.loss)
  changed = audio_to_int16(x).reshape(audio.shape)
  return np.where(valid[:, None], changed, audio)


def add_room(x: np.ndarray, rate: int, seconds: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
  """Sound [S] in a room that decays by 60 dB within a drawn time of `seconds`: the direct sound, and behind it
  reflections that are noise under an exponential. It keeps its timing and its level."""
  decay = _between(rng, seconds)
  taps = np.arange(max(2, round(decay * rate)))
  response = rng.standard_normal(len(taps)).astype(np.float32) * np.exp(-6.9 * taps / len(taps)).astype(np.float32)
  response[: max(1, round(rng.uniform(0.002, 0.02) * rate))] = 0.0  # the first reflection comes later
  energy = float(np.sqrt(np.square(response).sum())) or 1.0
  response *= np.float32(10 ** (rng.uniform(-15.0, 0.0) / 20) / energy)  # beside the direct sound
  response[0] = 1.0
  wet = signal.oaconvolve(x, response)[: len(x)].astype(np.float32)
  power = np.square(wet).mean()
  return wet * np.float32(np.sqrt(np.square(x).mean() / power)) if power > 0 else wet


def add_noise(x: np.ndarray, rate: int, snr_db: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
  """Sound [S] with white or pink noise, as many dB below the user's speech as is drawn from `snr_db`. The level of the
  speech is that of the loud 20 ms pieces; where there are none, LOUD."""
  pieces = max(1, len(x) * PIECE // rate)
  heard = levels(x[: len(x) // pieces * pieces], pieces)
  loud = heard[heard > LOUD]
  speech = 10 * np.log10(np.mean(10 ** (loud / 10))) if len(loud) else LOUD
  bank = noise_bank()[int(rng.integers(2))]
  start = int(rng.integers(BANK))
  noise = np.resize(np.concatenate([bank[start:], bank[:start]]), len(x))
  return x + noise * np.float32(10 ** ((speech - _between(rng, snr_db)) / 20))


@functools.cache
def noise_bank() -> np.ndarray:
  """White and pink noise of power 1: float32 [2, BANK]."""
  spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(BANK))
  slope = np.maximum(np.arange(len(spectrum)), 32.0) ** -0.5  # power falls with 1/f, and is flat below 3 Hz at 24 kHz
  both = np.stack([np.fft.irfft(spectrum, BANK), np.fft.irfft(spectrum * slope, BANK)])
  return (both / both.std(axis=1, keepdims=True)).astype(np.float32)


def through_codec(x: np.ndarray, rate: int, hertz: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
  """Sound [S] over a telephone (its band, 8 bits of mu-law) or without what is above a frequency drawn from `hertz`;
  one as often as the other. Bands that the sample rate does not have are left alone."""
  telephone, cutoff = rng.random() < 0.5, _between(rng, hertz)
  low, high = TELEPHONE if telephone else (0.0, cutoff)
  edges = [2 * low / rate, 2 * high / rate]
  if edges[1] < 1.0:
    band = signal.butter(4, edges if low else edges[1], "bandpass" if low else "lowpass", output="sos")
    x = signal.sosfilt(band.astype(np.float32), x).astype(np.float32)
  return mu_law(x) if telephone else x


def mu_law(x: np.ndarray) -> np.ndarray:
  """Sound [S] after 8 bits of mu-law: sign(x) ln(1 + 255 |x|) / ln 256, rounded to steps of 1/128, and back (ITU-T
  G.711 in its continuous form)."""
  coded = np.round(np.log1p(MU * np.minimum(np.abs(x), 1.0)) * np.float32(128 / np.log1p(MU)))
  return np.sign(x) * np.expm1(coded * np.float32(np.log1p(MU) / 128)) * np.float32(1 / MU)


def lose_packets(x: np.ndarray, rate: int, share: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
  """Sound [S] with a drawn share of its 20 ms pieces silent, in bursts of up to LONGEST_BURST."""
  size = max(1, rate // PIECE)
  pieces = -(-len(x) // size)
  mean_burst = (1 + LONGEST_BURST) / 2
  starts = np.flatnonzero(rng.random(pieces) < _between(rng, share) / mean_burst)
  lost = np.zeros(pieces, bool)
  for start, burst in zip(starts, rng.integers(1, LONGEST_BURST + 1, len(starts))):
    lost[start : start + burst] = True
  return np.where(np.repeat(lost, size)[: len(x)], np.float32(0), x)


def augment_video(video: np.ndarray, valid: np.ndarray, augment: AugmentConfig, rngs: Draws) -> np.ndarray:
  """The user's pictures, uint8 [K, F, H, W, 3], as another camera would see them. valid: bool [K]."""
  light, blur, drop = (
    rng.random() < share
    for rng, share in zip((rngs.light, rngs.blur, rngs.drop), (augment.light, augment.blur, augment.frame_drop))
  )
  if not valid.any() or not (light or blur or drop):
    return video
  changed = video
  if light:
    changed = in_light(changed, light_table(augment.light_gain, rngs.light))
  if blur:
    changed = blurred(changed, _between(rngs.blur, augment.blur_factor))
  if light or blur:
    video = np.where(valid[:, None, None, None, None], changed, video)
  if drop:
    frames = video.reshape(-1, *video.shape[2:])
    video = frames[held_frames(np.repeat(valid, video.shape[1]), augment.frame_drop_share, rngs.drop)]
    video = video.reshape(len(valid), -1, *video.shape[1:])
  return video


def light_table(gain: tuple[float, ...], rng: np.random.Generator) -> list[int]:
  """256 values for each of red, green and blue: another exposure (from `gain`), contrast and colour of the light."""
  x = np.linspace(0.0, 1.0, 256)
  gamma, tint = rng.uniform(0.8, 1.25), rng.uniform(0.9, 1.1, 3)
  table = _between(rng, gain) * tint[:, None] * x**gamma
  return np.round(255 * np.clip(table, 0.0, 1.0)).astype(int).reshape(-1).tolist()


def in_light(video: np.ndarray, table: list[int]) -> np.ndarray:
  """Pictures [K, F, H, W, 3] with new values for each colour, as of `light_table`."""
  changed = np.empty_like(video)
  for start in range(0, len(video), AT_ONCE):
    part = video[start : start + AT_ONCE]
    tall = Image.fromarray(part.reshape(-1, *part.shape[3:]))  # all pictures below one another
    changed[start : start + AT_ONCE] = np.asarray(tall.point(table)).reshape(part.shape)
  return changed


def blurred(video: np.ndarray, factor: float) -> np.ndarray:
  """Pictures [K, F, H, W, 3] as sharp as pictures that are `factor` times smaller."""
  height, width = video.shape[2:4]
  small = (max(1, round(width / factor)), max(1, round(height / factor)))
  shrink, grow = Image.Resampling.BOX, Image.Resampling.BILINEAR
  changed = np.empty_like(video)
  for index in np.ndindex(video.shape[:2]):
    changed[index] = np.asarray(Image.fromarray(video[index]).resize(small, shrink).resize((width, height), grow))
  return changed


def held_frames(valid: np.ndarray, share: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
  """Which frame is seen at every frame when a drawn share does not arrive and the one before is held: int [T]. A frame
  where the pictures begin (valid: bool [T]) always arrives, and frames that are not valid stay as they are."""
  arrives = (rng.random(len(valid)) >= _between(rng, share)) | ~valid
  arrives[0] = True
  arrives[1:] |= ~valid[:-1]
  return np.maximum.accumulate(np.where(arrives, np.arange(len(valid)), 0))
