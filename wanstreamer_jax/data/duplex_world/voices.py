"""Who speaks how. Voices of users and agents drawn from the engines of `data.voices`, coughs.

An engine is a synthesiser: "formant" (`speech.py`), "flite" and "espeak" (programs that the user installs). Training
never has the held-out users' voices: a band of pitches of the formant voice, one voice of flite, some of espeak-ng.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world import espeak, flite
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.errors import ConfigError

ENGINES = ("formant", "flite", "espeak")
_PROGRAMS = {"flite": flite, "espeak": espeak}
_PITCHES, _GAP = (95.0, 240.0), (138.0, 152.0)  # Hz of formant users; the band is kept for evaluation


def engines_of(text: str) -> tuple[str, ...]:
  """Engines of a comma-separated list as in `data.voices`; "mixed" is "formant,espeak".

  Raises ConfigError for names that are unknown or come twice, and for an engine that is not installed.
  """
  names = tuple(name.strip() for name in ("formant,espeak" if text == "mixed" else text).split(","))
  for name in names:
    if name not in ENGINES or names.count(name) > 1:
      raise ConfigError(f"voices is {text!r}: expected engines once each, with commas, of {', '.join(ENGINES)}")
  for name in names:
    if name in _PROGRAMS:
      _PROGRAMS[name].require()
  return names


def versions(engines: Sequence[str]) -> dict[str, str]:
  """The installed version of every engine that is a program of its own, since versions may speak differently."""
  return {name: _PROGRAMS[name].version() for name in engines if name in _PROGRAMS}


def user_voice(rng: np.random.Generator, held_out: bool, engines: Sequence[str] = ("formant",)) -> Voice:
  """A user's voice by one of `engines`, each as likely: one of training, or one that training never hears."""
  return {"formant": _formant_user, "flite": _flite_user, "espeak": _espeak_user}[_one(rng, engines)](rng, held_out)


def far_voice(rng: np.random.Generator, engines: Sequence[str] = ("formant",)) -> Voice:
  """A user's voice far from the usual: faster or slower, livelier or flatter, a size that does not follow its pitch; a
  formant voice has vowels and lengths of its own too. For training: held-out pitches and speakers stay out.

  Of `engines`, flite is the likelier, since its statistical speakers are the hardest to understand.
  """
  weights = np.array([1.5 if engine == "flite" else 1.0 for engine in engines])
  engine = engines[int(rng.choice(len(engines), p=weights / weights.sum()))]
  if engine == "espeak":
    return dataclasses.replace(_espeak_user(rng, held_out=False), rate=rng.uniform(0.8, 1.25))
  if engine == "flite":
    choices = [one for one in _FLITE_TRAINING for _ in range(1 if one.startswith("kal") else 2)]
    voice = _flite(
      choices[int(rng.integers(len(choices)))], _semitones(rng), rng, rate=rng.uniform(0.82, 1.25), width=1.8
    )
    return dataclasses.replace(voice, name=f"far {voice.name}", liveliness=rng.uniform(0.5, 1.7))
  voice = _formant_user(rng, held_out=False)
  return dataclasses.replace(
    voice, name=f"accent{voice.pitch:.1f}", size=rng.uniform(0.92, 1.28), rate=rng.uniform(0.8, 1.25),
    breath=rng.uniform(0.02, 0.2), tilt=rng.uniform(0.2, 0.8), liveliness=rng.uniform(0.5, 1.5),
    accent=int(rng.integers(1, 2**31)),
  )  # fmt: skip


def agent_voice(rng: np.random.Generator, held_out: bool, engines: Sequence[str] = ("formant",)) -> Voice:
  """A voice for an agent by one of `engines`, from the clearer middle of what users have.

  It takes one number from `rng` whatever the engine, so that all else that is drawn is the same with any.
  """
  rng = np.random.default_rng(int(rng.integers(2**62)))
  return {"formant": _formant_agent, "flite": _flite_agent, "espeak": _espeak_user}[_one(rng, engines)](rng, held_out)


def cough(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
  """One to three coughs: a burst of noise through an open throat, then a hoarse, falling end. float32 [samples]."""
  pieces = []
  for _ in range(int(rng.integers(1, 4))):
    count = int(sample_rate * rng.uniform(0.16, 0.28))
    time = np.arange(count) / sample_rate
    pitch = rng.uniform(120, 260) * np.exp(-2.5 * time)
    hoarse = np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / sample_rate)) * np.exp(-(((time - 0.09) / 0.05) ** 2))
    burst = np.exp(-time / 0.045) + 0.35 * np.exp(-(((time - 0.1) / 0.06) ** 2))
    source = rng.standard_normal(count) * burst + 0.5 * hoarse
    frequency = np.fft.rfftfreq(2 * count, 1 / sample_rate)
    throat = sum(gain / (1 + ((frequency - centre) / width) ** 2) for centre, width, gain in _throat(rng))
    pieces += [np.fft.irfft(np.fft.rfft(source, 2 * count) * throat, 2 * count)[:count]]
    pieces += [np.zeros(int(sample_rate * rng.uniform(0.03, 0.15)))]
  audio = np.concatenate(pieces[:-1])
  audio *= np.minimum(1, np.arange(len(audio))[::-1] / (0.02 * sample_rate))
  return (audio * (rng.uniform(0.25, 0.6) / np.abs(audio).max())).astype(np.float32)


def _throat(rng: np.random.Generator) -> list[tuple[float, float, float]]:
  """(centre Hz, width Hz, gain) of a cough's resonances."""
  size = rng.uniform(0.9, 1.2)
  return [(size * 600, 180, 1.0), (size * 1450, 260, 0.8), (size * 2700, 500, 0.4), (size * 4200, 1200, 0.15)]


def _one(rng: np.random.Generator, engines: Sequence[str]) -> str:
  return engines[int(rng.integers(len(engines)))]


def _formant_user(rng: np.random.Generator, held_out: bool) -> Voice:
  """A voice from the training range of pitches, or from the band inside it that training never hears."""
  (low, high), gap = _PITCHES, _GAP
  pitch = rng.uniform(*gap) if held_out else rng.uniform(low, high - (gap[1] - gap[0]))
  if not held_out and pitch >= gap[0]:
    pitch += gap[1] - gap[0]
  size = 1.0 + 0.18 * (pitch - low) / (high - low) + rng.uniform(-0.04, 0.04)
  return Voice(
    f"user{pitch:.1f}", pitch=pitch, size=size, rate=rng.uniform(0.92, 1.1), breath=rng.uniform(0.03, 0.1),
    tilt=rng.uniform(0.35, 0.65),
  )  # fmt: skip


def _formant_agent(rng: np.random.Generator, held_out: bool) -> Voice:
  """As a user's, slower and clear."""
  user = _formant_user(rng, held_out)
  return Voice(user.name, pitch=user.pitch, size=user.size, rate=rng.uniform(0.9, 1.0), tilt=rng.uniform(0.35, 0.5))


# Ranges of flite's speakers for users: semitones from their own pitch, and sizes. The band of semitones is kept for
# evaluation, and so is the speaker "awb".
_FLITE_TRAINING, _FLITE_HELD_OUT = ("slt", "rms", "kal16"), "awb"
_SEMITONES, _SEMITONES_KEPT = (-4.0, 5.0), (2.0, 3.5)


def _flite_user(rng: np.random.Generator, held_out: bool) -> Voice:
  """A speaker of flite with another pitch, size, tempo and intonation."""
  kept = held_out and rng.random() < 0.5  # half of those held out have the pitch that is kept, half are the speaker
  speaker = _FLITE_HELD_OUT if held_out and not kept else _FLITE_TRAINING[int(rng.integers(len(_FLITE_TRAINING)))]
  semitones = rng.uniform(*_SEMITONES_KEPT) if kept else _semitones(rng)
  return _flite(speaker, semitones, rng, rate=rng.uniform(0.92, 1.12))


def _semitones(rng: np.random.Generator) -> float:
  """From a speaker's own pitch, outside of the band that is kept."""
  (low, high), (first, last) = _SEMITONES, _SEMITONES_KEPT
  semitones = rng.uniform(low, high - (last - first))
  return semitones + (last - first) * (semitones >= first)


def _flite_agent(rng: np.random.Generator, held_out: bool) -> Voice:
  """A clear speaker of flite, near its own pitch and size, a little slower: about .10 of its words are misheard."""
  semitones = rng.uniform(1.2, 2.0) if held_out else rng.uniform(-2.0, 1.2)
  speaker = ("slt", "rms")[int(rng.integers(2))]
  return _flite(speaker, semitones, rng, rate=rng.uniform(0.86, 0.95), width=0.5)


def _flite(speaker: str, semitones: float, rng: np.random.Generator, rate: float, width: float = 1.0) -> Voice:
  """The speaker with another pitch; size follows pitch, with a deviation of its own. width: how far both vary."""
  pitch = flite.SPEAKERS[speaker][0] * 2 ** (semitones / 12)
  size = 2 ** (0.25 * semitones / 12) * (1 + width * rng.uniform(-0.05, 0.07))
  return Voice(
    f"{speaker}{pitch:.1f}", pitch=pitch, size=size, rate=rate, liveliness=1.05 + 0.3 * width * rng.uniform(-1, 1),
    engine="flite", variant=speaker,
  )  # fmt: skip


def _espeak_user(rng: np.random.Generator, held_out: bool) -> Voice:
  """An espeak-ng voice within 2 semitones of a variant's own pitch."""
  variants = (espeak.HELD_OUT if held_out else espeak.TRAINING)[int(rng.integers(2))]
  variant = list(variants)[int(rng.integers(len(variants)))]
  pitch = variants[variant] * 2 ** (rng.uniform(-2, 2) / 12)
  return Voice(
    f"{variant}{pitch:.1f}", pitch=pitch, rate=rng.uniform(0.92, 1.1), liveliness=rng.uniform(0.7, 1.3),
    engine="espeak", variant=variant,
  )  # fmt: skip
