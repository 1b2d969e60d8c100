"""A formant voice in NumPy: words to speech with phone and word times; deterministic.

Source and filter, as in Klatt (1980), but filtered in short-time spectra so that nothing loops over samples: glottal
pulses (with jitter and an intonation contour) and breath go through a cascade of moving formants with a nasal
pole-zero pair; frication and bursts have their own spectra. Frames are 128 samples at 24 kHz, joined by overlap-add.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world import espeak, flite
from wanstreamer_jax.data.duplex_world.allophones import length, realised
from wanstreamer_jax.data.duplex_world.phones import NOISES, PHONES, SILENCE, PhoneSegment, pronounce
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.session import Phone, Word

FRAME_MS = 16 / 3  # 128 samples at 24 kHz
_BANDWIDTHS = (75.0, 95.0, 150.0)
_UPPER = ((3550.0, 220.0), (4500.0, 280.0), (5600.0, 380.0), (6900.0, 500.0), (8300.0, 650.0), (9900.0, 800.0))
_SHELF = 0.68
_ACCENT = (0.08, 0.06, 0.04)  # e-fold by which an accent moves the formants of a vowel
_NOISE_KEYS = ("", *NOISES)


@dataclasses.dataclass(frozen=True)
class Utterance:
  """Speech: audio float32 [samples], and phones and words with times in seconds from its start."""

  audio: np.ndarray
  phones: tuple[Phone, ...]
  words: tuple[Word, ...]


@dataclasses.dataclass(frozen=True)
class _Score:
  """What to synthesise: segments with their lengths in frames, and the phone and word of each."""

  segments: tuple[PhoneSegment, ...]
  frames: np.ndarray
  phone_index: np.ndarray
  phones: tuple[str, ...]
  word_index: np.ndarray  # per phone, -1 in pauses
  accents: np.ndarray  # per phone


def synthesise(
  words: Sequence[str], voice: Voice, sample_rate: int, seed: int = 0, question: bool = False, pace: float = 1.0
) -> Utterance:
  """Speaks `words` (a "," is a short pause). Returns audio float32 [samples] in [-1, 1] with phone and word times.

  A pure function of its arguments. `question` ends on a rising pitch, `pace` > 1 is faster.
  """
  if voice.engine == "espeak":
    audio, phones, timed = espeak.speak(words, voice, sample_rate, seed, question, pace)
    return Utterance(_level(audio), phones, timed)
  if voice.engine == "flite":
    audio, phones, timed = flite.speak(words, voice, sample_rate, seed, pace)
    return Utterance(_level(audio), phones, timed)
  rng = np.random.default_rng([seed, 0x5EEC])
  score = _score(words, voice, pace, rng)
  hop = round(sample_rate * FRAME_MS / 1000)
  tracks = _tracks(score, voice)
  pitch = _pitch(score, voice, rng, question)
  audio = _render(tracks, pitch, voice, sample_rate, hop, rng)
  return Utterance(audio, *_times(score, words, hop / sample_rate))


def timing(
  words: Sequence[str], voice: Voice, sample_rate: int, seed: int = 0, question: bool = False, pace: float = 1.0
) -> Utterance:
  """The phone and word times of `synthesise`, without its sound where the engine knows them before."""
  if voice.engine != "formant":
    return synthesise(words, voice, sample_rate, seed, question, pace)
  score = _score(words, voice, pace, np.random.default_rng([seed, 0x5EEC]))
  hop = round(sample_rate * FRAME_MS / 1000)
  return Utterance(np.zeros(0, np.float32), *_times(score, words, hop / sample_rate))


def _score(words: Sequence[str], voice: Voice, pace: float, rng: np.random.Generator) -> _Score:
  """Phones and durations. The last syllable is lengthened and every duration varies a little."""
  said = [(word, name) for word, names in enumerate(map(_phones_of, words)) for name in names]
  plain = [name.rstrip("1") for _, name in said]
  around, accented = [SILENCE, *plain, SILENCE], [*(name.endswith("1") for _, name in said), False]
  segments: list[PhoneSegment] = []
  lengths: list[float] = []
  owner: list[int] = []
  for place, stretch in enumerate(_stretches(words)):
    stretch *= float(rng.uniform(0.92, 1.08)) / (voice.rate * pace)
    for segment in realised(plain[place], around[place], around[place + 2], accented[place + 1]):
      if voice.accent:
        segment = _accented(segment, plain[place], voice.accent)
      segments.append(segment)
      lengths.append(segment.ms * stretch)
      owner.append(place)
  edges = np.round(np.concatenate([[0.0], np.cumsum(lengths)]) / FRAME_MS).astype(int)
  frames = np.maximum(np.diff(edges), 1)
  word_index = np.array([-1 if words[word] == "," else word for word, _ in said])
  accents = np.array([float(name.endswith("1")) for _, name in said])
  return _Score(tuple(segments), frames, np.array(owner), tuple(plain), word_index, accents)


@functools.lru_cache(maxsize=4096)
def _accented(segment: PhoneSegment, phone: str, accent: int) -> PhoneSegment:
  """A phone as a speaker of this accent says it: longer or shorter, a vowel elsewhere in the mouth. Regional accents
  of English differ by as much in their first two formants (Ferragne and Pellegrino, 2010)."""
  rng = np.random.default_rng([accent, *phone.encode()])
  shift = np.exp((1.0 if PHONES[phone].vowel else 0.4) * rng.normal(0, _ACCENT)) * segment.formants
  ms = segment.ms * float(np.exp(rng.normal(0, 0.15)))
  return dataclasses.replace(segment, ms=ms, formants=tuple(np.sort(shift).tolist()))


def _phones_of(word: str) -> tuple[str, ...]:
  return (SILENCE,) if word == "," else pronounce(word)


def _stretches(words: Sequence[str]) -> list[float]:
  """For every phone how much longer than usual it is."""
  out: list[float] = []
  for position, names in enumerate(map(_phones_of, words)):
    light = not any(name.endswith("1") for name in names)
    final = position == len(words) - 1 or words[position + 1] == ","
    for place, name in enumerate(names):
      vowel = PHONES[name.rstrip("1")].vowel
      stretch = (1.18 if name.endswith("1") else 0.88 if light and not final else 0.95) if vowel else 0.95
      if final and place >= len(names) - 2:
        stretch *= 1.35 if vowel else 1.15
      following = names[place + 1].rstrip("1") if place + 1 < len(names) else SILENCE if final else "N"
      out.append(stretch * length(name.rstrip("1"), following))
  return out


def _times(score: _Score, words: Sequence[str], seconds: float) -> tuple[tuple[Phone, ...], tuple[Word, ...]]:
  """Phone and word intervals from frame counts; `seconds` is the length of a frame."""
  per_phone = np.bincount(score.phone_index, weights=score.frames)
  edges = np.concatenate([[0.0], np.cumsum(per_phone)]) * seconds
  phones = tuple(Phone(n, float(a), float(b)) for n, a, b in zip(score.phones, edges, edges[1:]))
  timed = []
  for index, text in enumerate(words):
    own = np.flatnonzero(score.word_index == index)
    if len(own):
      start, end = float(edges[own[0]]), float(edges[own[-1] + 1])
      timed.append(Word(text, start, start, end))
  return phones, tuple(timed)


def _smooth(track: np.ndarray, width: int) -> np.ndarray:
  """Hann smoothing along axis 0 with held ends."""
  kernel = np.hanning(width + 2)[1:-1]
  kernel /= kernel.sum()
  half = width // 2
  padded = np.concatenate([np.repeat(track[:1], half, 0), track, np.repeat(track[-1:], half, 0)])
  out = np.zeros_like(track)
  for offset, weight in enumerate(kernel):
    out += weight * padded[offset : offset + len(track)]
  return out


def _formant_targets(score: _Score) -> np.ndarray:
  """[segments, 3]: each segment's target, blended with the next vowel's first target where the phone asks for it."""
  targets = np.array([segment.formants for segment in score.segments], np.float64)
  blend = np.array([segment.blend for segment in score.segments])[:, None]
  vowel = np.array([PHONES[score.phones[i]].vowel for i in score.phone_index])
  following = np.empty_like(targets)
  current = targets[np.flatnonzero(vowel)[-1]] if vowel.any() else targets[-1]
  for index in range(len(targets) - 1, -1, -1):
    following[index] = current
    if vowel[index]:
      current = targets[index]
  return (1 - blend) * targets + blend * following


@dataclasses.dataclass(frozen=True)
class _Tracks:
  """Control tracks, one row per frame."""

  formants: np.ndarray  # [T, 3] Hz
  nasal: np.ndarray  # [T]
  bar: np.ndarray  # [T]
  zero: np.ndarray  # [T] Hz of the nasal zero
  voice: np.ndarray  # [T]
  breath: np.ndarray  # [T]
  noise: np.ndarray  # [T] gain
  noise_kind: np.ndarray  # [T] index of _NOISE_KEYS


def _tracks(score: _Score, voice: Voice) -> _Tracks:
  """Coarticulated control tracks: formants move in 40 ms, in glides in 100 ms; stops and nasals are abrupt,
  other sources switch over about 20 ms."""
  table = np.array(
    [[s.nasal, s.voice, s.breath, s.gain, _NOISE_KEYS.index(s.noise), s.glide, s.bar, s.zero] for s in score.segments]
  )
  aims = _formant_targets(score)
  velar = table[:, 4] == _NOISE_KEYS.index("k")  # its burst is where the next vowel's second formant is
  table[velar & (aims[:, 1] > 1900), 4] = _NOISE_KEYS.index("k front")
  table[velar & (aims[:, 1] < 1450), 4] = _NOISE_KEYS.index("k back")
  rows = np.repeat(table, score.frames, axis=0)
  targets, glide = np.repeat(aims, score.frames, axis=0), _smooth(rows[:, 5], 13)[:, None]
  formants = ((1 - glide) * _smooth(targets, 7) + glide * _smooth(targets, 19)) * voice.size
  kind = rows[:, 4].astype(int)
  abrupt = (
    _smooth(np.isin(kind, [i for i, name in enumerate(_NOISE_KEYS) if name.split(" ")[0] in ("p", "t", "k")]) * 1.0, 9)
    > 0
  )
  abrupt |= _smooth(rows[:, 0], 5) > 0
  voiced, breath = (np.where(abrupt, track, _smooth(track, 5)) for track in (rows[:, 1], rows[:, 2]))
  breath = breath + voice.breath * voiced
  edge = np.minimum(1.0, np.minimum(np.arange(len(rows)) + 0.5, np.arange(len(rows))[::-1] + 0.5) / 4)
  fricative = np.isin(kind, [_NOISE_KEYS.index(name) for name in ("s", "sh", "f", "th")])
  noise = np.where(fricative, _smooth(np.where(fricative, rows[:, 3], 0.0), 5), rows[:, 3])
  return _Tracks(
    formants,
    _smooth(rows[:, 0], 3),
    _smooth(rows[:, 6], 3),
    rows[:, 7],
    voiced * edge,
    breath * edge,
    noise,
    _spread(kind),
  )


def _spread(kind: np.ndarray) -> np.ndarray:
  """Extends each noise kind over neighbouring frames without one, where smoothing has spread its gain."""
  for shift in (1, -1, 2, -2):
    kind = np.where(kind == 0, np.roll(kind, shift), kind)
  return kind


def _pitch(score: _Score, voice: Voice, rng: np.random.Generator, question: bool) -> np.ndarray:
  """[T] Hz: declination, a bump on every accent, a final fall or rise, jitter and a slow drift."""
  total = int(score.frames.sum())
  time = np.arange(total)
  semitones = 1.5 - 3.0 * time / max(total, 1)
  starts = np.concatenate([[0], np.cumsum(np.bincount(score.phone_index, weights=score.frames))])
  accents = np.flatnonzero(score.accents)
  for number, phone in enumerate(accents):
    height = (2.8 if number == len(accents) - 1 else 2.0) * rng.uniform(0.7, 1.3)
    centre = 0.6 * starts[phone] + 0.4 * starts[phone + 1]
    semitones = semitones + height * np.exp(-0.5 * ((time - centre) / 18.0) ** 2)
  ending = np.clip((time - (total - 45)) / 45.0, 0, 1)
  semitones = semitones + (5.5 if question else -3.5) * ending**1.5
  wander = _smooth(rng.standard_normal(total), 41) * 1.3 + _smooth(rng.standard_normal(total), 3) * 0.12
  return voice.pitch * 2.0 ** ((semitones * voice.liveliness + wander) / 12.0)


@functools.cache
def _noise_shapes(size: int, sample_rate: int) -> np.ndarray:
  """[kinds, bins] float32 spectra of the noises of equal power, the first one empty."""
  freq = np.fft.rfftfreq(size, 1 / sample_rate)
  shapes = [np.zeros_like(freq)]
  for centre, below, above, floor in NOISES.values():
    width = np.where(freq < centre, below, above)
    shape = np.exp(-0.5 * ((freq - centre) / width) ** 2) + floor * np.exp(-freq / 9000.0)
    shapes.append(shape / np.sqrt(np.mean(shape**2)) * np.clip(freq / 250.0, 0, 1))
  return np.array(shapes, np.float32)


@functools.cache
def _upper_poles(size: int, sample_rate: int, scale: float, tilt: float) -> np.ndarray:
  """[bins] complex64: the fixed formants above the third, and the voice's spectral tilt."""
  z1 = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
  response = np.ones(size // 2 + 1, np.complex128)
  for centre, width in _UPPER:
    if centre * scale < 0.46 * sample_rate:
      response /= _resonator(centre * scale, width, sample_rate, z1, z1 * z1)
  pole = 0.15 + 0.55 * tilt
  shelf = (1 - _SHELF * z1) / (1 - _SHELF)  # more of what is above 3 kHz
  return (response * shelf * (1 - pole) / (1 - pole * z1)).astype(np.complex64)


def _resonator(
  centre: float | np.ndarray, width: float | np.ndarray, sample_rate: int, z1: np.ndarray, z2: np.ndarray
) -> np.ndarray:
  """Denominator of a two-pole resonator with unit gain at 0 Hz (Klatt 1980, eq. 2), on the bins of z1."""
  radius = np.exp(-np.pi * np.asarray(width) / sample_rate)
  b1 = (-2 * radius * np.cos(2 * np.pi * np.asarray(centre) / sample_rate)).astype(np.float32)
  b2 = np.asarray(radius * radius).astype(np.float32)
  return (1 + b1 * z1 + b2 * z2) / (1 + b1 + b2)


def _transfer(tracks: _Tracks, voice: Voice, sample_rate: int, size: int) -> np.ndarray:
  """[T, bins] complex64: the vocal tract, frame by frame: three moving formants, a nasal pole and zero, the rest."""
  z1 = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size).astype(np.complex64)[None]
  z2 = z1 * z1
  denominator = np.ones((1, 1), np.complex64)
  for index, width in enumerate(_BANDWIDTHS):
    widened = width * (1.0 + 0.8 * tracks.nasal)[:, None]
    denominator = denominator * _resonator(tracks.formants[:, index, None], widened, sample_rate, z1, z2)
  nasal = np.flatnonzero(tracks.nasal > 0.01)
  response = _upper_poles(size, sample_rate, voice.size, voice.tilt)[None] / denominator
  barred = np.flatnonzero(tracks.bar > 0.01)
  if len(barred):  # behind a closed mouth only what is low is heard
    response[barred] /= 1 + tracks.bar[barred, None] * (np.arange(size // 2 + 1) * sample_rate / size / 400.0) ** 2
  if len(nasal):  # the zero leaves the pole (they cancel) as the velum opens
    amount = tracks.nasal[nasal, None]
    zero = _resonator(270.0 + (tracks.zero[nasal, None] - 270.0) * amount * voice.size, 100.0, sample_rate, z1, z2)
    response[nasal] *= zero / _resonator(270.0, 100.0, sample_rate, z1, z2)
  return response


def _glottis(pitch: np.ndarray, voice: Voice, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
  """Derivative of glottal flow at sample rate (KLGLOTT88 pulse, edges band-limited), and the open phase (0..1)."""
  step = pitch / sample_rate
  phase = np.cumsum(step) % 1.0
  quotient = voice.open_quotient
  x = phase / quotient
  flow = np.where(x < 1, 2 * x - 3 * x * x, 0.0)
  before, after = (quotient - phase) / step, (phase - quotient) / step
  flow -= np.where((before > 0) & (before < 1), -0.5 * (1 - before) ** 2, 0.0)
  flow += np.where((after >= 0) & (after < 1), -0.5 * (1 - after) ** 2, 0.0)
  return flow.astype(np.float32), (x < 1).astype(np.float32)


def _render(
  tracks: _Tracks, pitch: np.ndarray, voice: Voice, sample_rate: int, hop: int, rng: np.random.Generator
) -> np.ndarray:
  """Sources at sample rate, filtered frame by frame and overlap-added. Returns float32 [frames * hop]."""
  frames = len(pitch)
  samples, size = frames * hop, 4 * hop
  at, grid = np.arange(samples) / hop, np.arange(frames) + 0.5
  upsample = lambda track: np.interp(at, grid, track).astype(np.float32)
  flow, is_open = _glottis(np.interp(at, grid, pitch), voice, sample_rate)
  white = rng.standard_normal(samples, dtype=np.float32)
  tract = flow * upsample(tracks.voice) + 0.35 * white * upsample(tracks.breath) * (0.35 + 0.65 * is_open)
  hiss = white * upsample(tracks.noise)
  window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
  spectra = _spectra(tract, window, hop, size) * _edges(_transfer(tracks, voice, sample_rate, size))
  spectra += 0.3 * _spectra(hiss, window, hop, size) * _edges(_noise_shapes(size, sample_rate)[tracks.noise_kind])
  return _level(_overlap_add(np.fft.irfft(spectra, size), hop)[hop : hop + samples])


def _edges(rows: np.ndarray) -> np.ndarray:
  """Windows are centred between frames: one more of them than frames, so the last row is used twice."""
  return np.concatenate([rows, rows[-1:]])


def _spectra(signal: np.ndarray, window: np.ndarray, hop: int, size: int) -> np.ndarray:
  """Hann-windowed spectra [frames + 1, bins] at half overlap, zero-padded to leave room for the filter's ringing."""
  padded = np.concatenate([np.zeros(hop, np.float32), signal, np.zeros(hop, np.float32)])
  frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop]
  return np.fft.rfft(frames * window, size)


def _overlap_add(frames: np.ndarray, hop: int) -> np.ndarray:
  """Sums frames [n, parts * hop] that start `hop` apart."""
  count, size = frames.shape
  parts = size // hop
  out = np.zeros((count + parts - 1, hop), np.float32)
  for part in range(parts):
    out[part : part + count] += frames[:, part * hop : (part + 1) * hop]
  return out.reshape(-1)


def _level(audio: np.ndarray, target: float = 0.11) -> np.ndarray:
  """Scales speech to a comfortable loudness: the louder half of 20 ms pieces has RMS `target`; peaks are bent."""
  pieces = audio[: len(audio) // 480 * 480].reshape(-1, 480) if len(audio) >= 480 else audio[None]
  power = np.sort(np.mean(np.square(pieces), axis=1))[len(pieces) // 2 :]
  scaled = audio * np.float32(target / max(float(np.sqrt(power.mean())), 1e-6))
  return np.tanh(scaled * 1.2).astype(np.float32) / np.float32(1.2)
