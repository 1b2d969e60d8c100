"""Speaks words with espeak-ng (an optional extra); returns phone and word times.

The library (GPL) comes from the user's own `pip install 'wanstreamer-jax[espeak]'` and is loaded only inside
`espeak_child.py`, a new process per utterance, so that speech is a pure function of its arguments and of the installed
version, which records therefore state. espeak-ng names its phones by mnemonics; `MNEMONICS` maps them to the phones of
`phones.py`, from which mouths are drawn.
"""

import importlib.metadata
import importlib.util
import json
import math
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from wanstreamer_jax.data.duplex_world import espeak_child
from wanstreamer_jax.data.duplex_world.phones import SILENCE, pronounce
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.session import Phone, Word
from wanstreamer_jax.errors import ConfigError, DataError

WHEEL = "espeakng-loader"
WORDS_PER_MINUTE = 150  # of a voice of rate 1: the formant voice's tempo
SLOWEST, FASTEST = 80, 450  # words per minute; faster ones have wrong times in espeak-ng 1.52
_PITCH_STEPS = 69.0  # espeak-ng's pitch 0..99 per octave, near the middle of its scale

# Variants (men, then women) and their median pitch in Hz at espeak-ng's pitch 50, measured over one sentence.
# Left out: robots, whispers, creaks, effects, and near copies of others.
TRAINING: tuple[dict[str, float], ...] = (
  {
    "m1": 91, "m2": 99, "m3": 101, "m4": 89, "m5": 101, "m7": 102, "Alex": 103, "Andy": 94, "Denis": 96, "Gene": 92,
    "Michael": 102, "Nguyen": 143, "Reed": 112, "ed": 120, "pablo": 109, "max": 98, "miguel": 107, "paul": 83,
  },
  {
    "f1": 172, "f2": 190, "f3": 202, "f5": 200, "Alicia": 247, "Annie": 223, "Andrea": 236, "belinda": 225,
    "linda": 225, "aunty": 170, "grandma": 188,
  },
)  # fmt: skip
HELD_OUT: tuple[dict[str, float], ...] = (
  {"m6": 98, "m8": 83, "david": 72, "marcelo": 92, "antonio": 106},
  {"f4": 175, "steph": 181, "anika": 261},
)
PITCHES: dict[str, float] = {name: hz for group in (*TRAINING, *HELD_OUT) for name, hz in group.items()}

# Phones of espeak-ng's American English (endings such as "2" and "#" mark how a phone may be reduced).
MNEMONICS: dict[str, tuple[str, ...]] = {
  "@": ("AX",), "@2": ("AX",), "@5": ("UH",), "@-": ("AX",), "@L": ("AX", "L"), "3": ("ER",), "3:": ("ER",),
  "a": ("AE",), "aa": ("AE",), "a#": ("AX",), "A": ("AA",), "A:": ("AA",), "A@": ("AA", "R"), "0": ("AA",),
  "O": ("AO",), "O2": ("AO",), "O:": ("AO",), "O@": ("AO", "R"), "o@": ("AO", "R"), "o": ("OW",), "V": ("AH",),
  "E": ("EH",), "E#": ("AX",), "e": ("EY",), "e@": ("EH", "R"), "I": ("IH",), "i": ("IY",), "i:": ("IY",),
  "i@": ("IY", "AX"), "i@3": ("IH", "R"), "U": ("UH",), "U@": ("UH", "R"), "u": ("UW",), "u:": ("UW",),
  "aI": ("AY",), "aI@": ("AY", "AX"), "aI3": ("AY", "ER"), "eI": ("EY",), "OI": ("OY",), "aU": ("AW",),
  "aU@": ("AW", "ER"), "oU": ("OW",),
  "p": ("P",), "b": ("B",), "t": ("T",), "t#": ("D",), "d": ("D",), "k": ("K",), "g": ("G",), "?": ("T",),
  "tS": ("CH",), "dZ": ("JH",), "f": ("F",), "v": ("V",), "T": ("TH",), "D": ("DH",), "s": ("S",), "z": ("Z",),
  "S": ("SH",), "Z": ("ZH",), "h": ("HH",), "x": ("HH",), "C": ("SH",), "m": ("M",), "n": ("N",), "N": ("NG",),
  "l": ("L",), "L": ("L",), "r": ("R",), "R": ("R",), "w": ("W",), "j": ("Y",), ";": ("Y",),
}  # fmt: skip
_STRESS = "',%="
_HUMMED = {"mhm": "[[m'@hm]]", "hm": "[[h'@m]]"}  # otherwise espeak-ng spells them letter by letter


def require() -> tuple[str, str]:
  """Paths of espeak-ng's library and data. Raises ConfigError with the command that installs them."""
  if importlib.util.find_spec("espeakng_loader") is None:
    raise ConfigError(
      "voices of espeak need espeak-ng, which is not installed: pip install 'wanstreamer-jax[espeak]', "
      "or set data.voices to 'formant'"
    )
  import espeakng_loader

  return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def version() -> str:
  """Version of the installed wheel, since versions may speak differently. Raises ConfigError without it."""
  require()
  return importlib.metadata.version(WHEEL)


def speak(
  words: Sequence[str], voice: Voice, sample_rate: int, seed: int, question: bool, pace: float
) -> tuple[np.ndarray, tuple[Phone, ...], tuple[Word, ...]]:
  """Speaks `words` (a "," is a pause) as `synthesise` does: float32 [samples] at `sample_rate`, phones, words.

  A pure function of its arguments and the installed library. Phones follow each other without gaps from 0 to the
  sound's end. Raises ConfigError without the library, DataError for what cannot be spoken.
  """
  library, data = require()
  text, starts = _text(words, question)
  speed = round(WORDS_PER_MINUTE * voice.rate * pace)
  answer, samples = _ask({
    "library": library, "data": data, "text": text, "voice": f"en-us+{voice.variant}", "seed": seed,
    "rate": min(max(speed, SLOWEST), FASTEST), "pitch": _pitch(voice), "range": round(50 * voice.liveliness),
  })  # fmt: skip
  audio = _resampled(samples.astype(np.float32) / 32768.0, answer["rate"], sample_rate)
  names, characters, edges = _intervals(answer, len(samples) / answer["rate"])
  return audio, _phones(names, edges), _words(words, starts, names, characters, edges)


def _pitch(voice: Voice) -> int:
  """espeak-ng's pitch for a voice in Hz. Raises DataError for a variant that is not in the tables."""
  if voice.variant not in PITCHES:
    raise DataError(f"espeak variant is {voice.variant!r}: expected one of {', '.join(PITCHES)}")
  octaves = math.log2(voice.pitch / PITCHES[voice.variant])
  return min(max(round(50 + _PITCH_STEPS * octaves), 0), 99)


def _text(words: Sequence[str], question: bool) -> tuple[str, list[int]]:
  """The text for espeak-ng, and the character at which each word starts in it (a "," at the comma)."""
  text, starts = "", []
  for word in words:
    if word == ",":
      starts.append(len(text))
      text += ","
      continue
    pronounce(word)  # raises DataError as the formant voice would
    text += " " if text else ""
    starts.append(len(text))
    text += _HUMMED.get(word) or re.sub(r"[^a-z']", "", word.lower())
  return text + ("?" if question else "."), starts


def _ask(request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
  """The answer of a new process, and its int16 samples."""
  command = [sys.executable, "-I", "-S", str(pathlib.Path(espeak_child.__file__))]
  done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, check=False)
  if done.returncode:
    reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    raise DataError(f"espeak-ng cannot speak {request['text']!r} as {request['voice']}: {reason[0]}")
  line, samples = done.stdout.split(b"\n", 1)
  return json.loads(line), np.frombuffer(samples, "<i2")


def _resampled(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
  """Resamples with linear phase, which keeps times."""
  from scipy.signal import resample_poly  # takes a second to import, and formant voices do not need it

  common = math.gcd(rate, wanted)
  return resample_poly(audio, wanted // common, rate // common).astype(np.float32)


def _intervals(answer: dict[str, Any], seconds: float) -> tuple[list[str], list[int], np.ndarray]:
  """espeak-ng's phones: names, the character (from 0) where the word of each begins, and edges [phones + 1] in s."""
  names = [name for name, _, _ in answer["phones"]]
  characters = [character - 1 for _, character, _ in answer["phones"]]
  starts = np.maximum.accumulate([ms / 1000 for _, _, ms in answer["phones"]])
  edges = np.minimum(np.append(starts, seconds), seconds)
  edges[0] = 0.0  # espeak-ng's first event may come after the closure of a plosive
  return names, characters, edges


def translated(mnemonic: str) -> tuple[str, ...]:
  """Our phones for one of espeak-ng's: by the longest prefix in `MNEMONICS`, else a neutral vowel."""
  name = mnemonic.lstrip(_STRESS)
  if not name or name.startswith(("_", "|")):
    return (SILENCE,)
  for size in range(len(name), 0, -1):
    if name[:size] in MNEMONICS:
      return MNEMONICS[name[:size]]
  return ("AX",)


def _phones(names: list[str], edges: np.ndarray) -> tuple[Phone, ...]:
  """Phones by our names. Where one of espeak-ng's phones is two of ours, each gets half of its time."""
  phones = []
  for name, start, end in zip(names, edges, edges[1:]):
    parts = translated(name)
    bounds = np.linspace(start, end, len(parts) + 1)
    phones += [Phone(part, float(a), float(b)) for part, a, b in zip(parts, bounds, bounds[1:]) if b > a]
  return tuple(phones)


def _words(
  words: Sequence[str], starts: list[int], names: list[str], characters: list[int], edges: np.ndarray
) -> tuple[Word, ...]:
  """Words from the first to the last phone that begins inside them.

  espeak-ng reads some neighbours as one word ("in the", "of a"); they share its time by their numbers of phones.
  """
  spoken = [i for i, word in enumerate(words) if word != ","]
  voiced = [i for i, name in enumerate(names) if translated(name) != (SILENCE,)]
  owners = np.searchsorted([starts[i] for i in spoken], [characters[i] for i in voiced], "right") - 1
  owners = np.maximum.accumulate(np.maximum(owners, 0))
  groups = np.unique(owners).tolist()
  timed: list[Word] = []
  for place, first in enumerate(groups):
    members = spoken[first if place else 0 : groups[place + 1] if place + 1 < len(groups) else len(spoken)]
    own = [phone for phone, owner in zip(voiced, owners) if owner == first]
    shares = np.cumsum([0] + [len(pronounce(words[i])) for i in members])
    bounds = np.interp(shares, [0, shares[-1]], [edges[own[0]], edges[own[-1] + 1]]).tolist()
    timed += [Word(words[i], a, a, b) for i, a, b in zip(members, bounds, bounds[1:])]
  return tuple(timed)
