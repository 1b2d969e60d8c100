"""Speaks words with flite (an optional program); returns phone and word times.

The licence of Carnegie Mellon's program is permissive.
Speech is a pure function of its arguments and of the installed version, which records therefore state: as from a new
process for every utterance, or by the program's libraries, which give the same bits sooner (`flite_library.py`). A
voice of the program becomes many: its pitch, tempo and intonation are set, and the size of the speaker by playing what
was spoken slower, lower and then resampled.
"""

import functools
import math
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world.flite_library import SETTINGS, Library, Spoken
from wanstreamer_jax.data.duplex_world.phones import PHONES, SILENCE, pronounce
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.session import Phone, Word
from wanstreamer_jax.errors import ConfigError, DataError

# Speakers of the program: their median pitch in Hz and its deviation, measured over sentences, and a tempo that makes
# them as fast as a formant voice of rate 1. "slt" is a woman, the others are men; "awb" is a Scot.
SPEAKERS: dict[str, tuple[float, float, float]] = {
  "slt": (167.0, 13.0, 0.95), "rms": (104.0, 12.0, 1.0), "awb": (124.0, 13.0, 0.95), "kal16": (95.0, 11.0, 1.0),
}  # fmt: skip
_SPOKEN = {  # how the program reads a word rightly
  "a": "ay", "i": "I", "i'm": "I'm", "mhm": "umhum", "hm": "hum", "close": "cloze", "greta": "gretta", "hana": "hahna",
  "lena": "layna", "lima": "leema", "nina": "neena", "read": "reed", "reading": "reeding", "vera": "veera",
}  # fmt: skip
_NAMES: dict[str, tuple[str, ...]] = {
  "axr": ("ER",), "dx": ("D",), "el": ("AX", "L"), "em": ("AX", "M"), "en": ("AX", "N"), "hv": ("HH",), "nx": ("N",),
  "pau": (SILENCE,), "h#": (SILENCE,), "brth": (SILENCE,),
}  # fmt: skip
FOLDER = "WANSTREAMER_FLITE"  # the environment variable that names a folder with the program
_SIZES = 40  # sizes are multiples of 1 / _SIZES, so that resampling has small factors
_EDGES = (0.02, 0.08)  # seconds of the silence at the ends that are kept


def require() -> str:
  """Path of the program. Raises ConfigError with the command that installs it."""
  return command()[-1]


def command() -> tuple[str, ...]:
  """How the program is started: from the folder that WANSTREAMER_FLITE names, where one has its libraries with it
  (`launch/gpu_train.sh --pack`), else as it is installed. Raises ConfigError where it is not."""
  folder = os.environ.get(FOLDER)
  if folder:
    return _carried(pathlib.Path(folder).absolute())
  path = shutil.which("flite")
  if path is None:
    raise ConfigError(
      "voices of flite need the program flite, which is not installed: apt-get install flite (or brew install flite), "
      "or set data.voices to 'formant'"
    )
  return (path,)


def _carried(folder: pathlib.Path) -> tuple[str, ...]:
  """The program of a folder by the loader and the libraries that are beside it, so that no other is needed."""
  program, loaders = folder / "flite", sorted(folder.glob("ld-*.so*"))
  if not program.is_file() or not loaders:
    raise ConfigError(f"{FOLDER} is {folder}, which lacks flite and its libraries: expected a folder that "
                      "`bash launch/gpu_train.sh --pack FOLDER` made")  # fmt: skip
  return str(loaders[0]), "--library-path", str(folder), str(program)


@functools.cache
def version() -> str:
  """Version of the installed program. Raises ConfigError without it."""
  said = subprocess.run([*command(), "--version"], capture_output=True, text=True, check=False).stdout
  found = re.search(r"version:?\s*(\S+)", said)
  return found[1] if found else "unknown"


def speak(
  words: Sequence[str], voice: Voice, sample_rate: int, seed: int, pace: float
) -> tuple[np.ndarray, tuple[Phone, ...], tuple[Word, ...]]:
  """Speaks `words` (a "," is a pause) as `synthesise` does: float32 [samples] at `sample_rate`, phones, words.

  Phones follow each other without gaps from 0 to the sound's end. flite has no rising pitch for questions. Raises
  ConfigError without the program, DataError for what cannot be spoken.
  """
  if voice.variant not in SPEAKERS:
    raise DataError(f"flite voice is {voice.variant!r}: expected one of {', '.join(SPEAKERS)}")
  rng = np.random.default_rng([seed, 0xF117E])
  _, deviation, tempo = SPEAKERS[voice.variant]
  size = round(voice.size * _SIZES)
  pitch = voice.pitch * 2 ** (rng.uniform(-0.5, 0.5) / 12)
  stretch = tempo * rng.uniform(0.96, 1.04) / (voice.rate * pace)
  spoken, segments = _ask(
    _text(words), voice.variant, pitch * _SIZES / size, deviation * voice.liveliness, stretch * size / _SIZES
  )
  rate, samples = spoken
  audio = _resampled(samples, rate * size, sample_rate * _SIZES)
  phones = _trimmed(segments, _SIZES / size, len(audio) / sample_rate)
  shift = phones[0].start
  audio = audio[round(shift * sample_rate) : round(phones[-1].end * sample_rate)]
  phones = [Phone(phone.name, phone.start - shift, phone.end - shift) for phone in phones]
  return audio, tuple(phones), _words(words, phones)


def _text(words: Sequence[str]) -> str:
  """What the program is asked to say."""
  out = []
  for word in words:
    if word == ",":
      out.append(",")
      continue
    pronounce(word)  # raises DataError as the formant voice would
    out.append(" " + (_SPOKEN.get(word) or re.sub(r"[^a-z']", "", word.lower())))
  return "".join(out).strip(" ,")


@functools.lru_cache(maxsize=32)
def _ask(text: str, speaker: str, pitch: float, deviation: float, stretch: float) -> Spoken:
  """What is spoken with the settings of the program: by its libraries where they can be used, else by a process."""
  settings = tuple(float(f"{value:.4f}") for value in (pitch, deviation, stretch))
  own = _library()
  found = own.speak(text, speaker, settings) if own else None
  return found or _by_process(text, speaker, settings)


@functools.cache
def _library() -> Library | None:
  """flite in this process, without the start of a program for every utterance; None where its libraries cannot be
  loaded (another operating system, an older C library) or speak otherwise than the program."""
  folder = os.environ.get(FOLDER)
  try:
    own = Library(pathlib.Path(folder).absolute() if folder else None, tuple(SPEAKERS))
  except (OSError, AttributeError):
    return None
  text, settings = "hello", (99.0, 12.0, 1.1)
  if all(_same(own.speak(text, one, settings), _by_process(text, one, settings)) for one in SPEAKERS):
    return own
  print("flite's libraries do not speak as its program does: every utterance starts the program, which is slower")
  return None


def _same(a: Spoken | None, b: Spoken) -> bool:
  """Whether two ways to speak gave the same."""
  return a is not None and a[0][0] == b[0][0] and np.array_equal(a[0][1], b[0][1]) and a[1] == b[1]


def _by_process(text: str, speaker: str, settings: tuple[float, ...]) -> Spoken:
  """What a new process speaks. Raises DataError where it cannot."""
  options = [part for name, value in zip(SETTINGS, settings) for part in ("--setf", f"{name}={value:.4f}")]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "speech.wav"
    arguments = ["-voice", speaker, *options, "-psdur", "-t", text, "-o", str(path)]
    done = subprocess.run([*command(), *arguments], capture_output=True, text=True, check=False)
    pairs = [pair.rsplit(":", 1) for pair in done.stdout.split()]
    if done.returncode or not path.is_file() or not pairs or not all(len(pair) == 2 for pair in pairs):
      raise DataError(f"flite cannot speak {text!r} as {speaker}: {(done.stderr or done.stdout).strip()[:100]!r}")
    with wave.open(str(path)) as file:
      samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768.0
      return (file.getframerate(), samples), tuple((name, float(end)) for name, end in pairs)


def _resampled(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
  """Resamples with linear phase, which keeps times."""
  from scipy.signal import resample_poly  # takes a second to import, and formant voices do not need it

  common = math.gcd(rate, wanted)
  return resample_poly(audio, wanted // common, rate // common).astype(np.float32)


def _trimmed(segments: Sequence[tuple[str, float]], scale: float, seconds: float) -> list[Phone]:
  """Our phones of the program's, whose times are multiplied by `scale`, with shorter silences at both ends."""
  phones: list[Phone] = []
  start = 0.0
  for name, at in segments:
    end = min(at * scale, seconds)
    parts = _translated(name)
    bounds = np.linspace(start, end, len(parts) + 1)
    phones += [Phone(part, float(a), float(b)) for part, a, b in zip(parts, bounds, bounds[1:]) if b > a]
    start = end
  if phones[0].name == SILENCE:
    phones[0] = Phone(SILENCE, max(phones[0].start, phones[0].end - _EDGES[0]), phones[0].end)
  if phones[-1].name == SILENCE:
    phones[-1] = Phone(SILENCE, phones[-1].start, min(phones[-1].end, phones[-1].start + _EDGES[1]))
  return phones


def _translated(name: str) -> tuple[str, ...]:
  """Our phones for one of the program's, a neutral vowel for an unknown one."""
  if name in _NAMES:
    return _NAMES[name]
  return (name.upper(),) if name.upper() in PHONES else ("AX",)


def _words(words: Sequence[str], phones: Sequence[Phone]) -> tuple[Word, ...]:
  """Words with the times of their phones, by the cheapest alignment of what we would say with what was said."""
  spoken = [(place, phone.rstrip("1")) for place, word in enumerate(words) if word != "," for phone in pronounce(word)]
  voiced = [phone for phone in phones if phone.name != SILENCE]
  owners = _aligned([phone for _, phone in spoken], [phone.name for phone in voiced])
  place = [spoken[owner][0] for owner in owners]
  timed = []
  for index in sorted({place for place, _ in spoken}):
    own = [phone for phone, owner in zip(voiced, place) if owner == index]
    if not own:  # swallowed: an instant where the next one begins
      later = [phone.start for phone, owner in zip(voiced, place) if owner > index]
      edge = later[0] if later else voiced[-1].end
      timed.append(Word(words[index], edge, edge, edge))
    else:
      timed.append(Word(words[index], own[0].start, own[0].start, own[-1].end))
  return tuple(timed)


def _aligned(expected: list[str], said: list[str]) -> list[int]:
  """For each phone that was said the index of the expected one that it stands for, never falling (Levenshtein)."""
  vowel = lambda name: PHONES[name].vowel
  differ = lambda a, b: 0.0 if a == b else 0.6 if vowel(a) == vowel(b) else 1.2
  cost = np.zeros((len(expected) + 1, len(said) + 1))
  cost[:, 0], cost[0] = np.arange(len(expected) + 1), np.arange(len(said) + 1)
  for i, a in enumerate(expected, 1):
    for j, b in enumerate(said, 1):
      cost[i, j] = min(cost[i - 1, j - 1] + differ(a, b), cost[i - 1, j] + 1, cost[i, j - 1] + 1)
  owners, i, j = [0] * len(said), len(expected), len(said)
  while j:
    if i and cost[i, j] == cost[i - 1, j - 1] + differ(expected[i - 1], said[j - 1]):
      i, j = i - 1, j - 1
      owners[j] = i
    elif i and cost[i, j] == cost[i - 1, j] + 1:
      i -= 1
    else:
      j -= 1
      owners[j] = max(i - 1, 0)
  return owners
