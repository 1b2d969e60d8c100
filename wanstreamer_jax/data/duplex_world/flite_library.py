"""Speaks with flite's own libraries, without the start of a program for every utterance.

They are used only where they give what the program gives, bit for bit (`flite.py` compares once). Calls are those of
flite.h of version 2.2. Random numbers of a vocoder come from `rand` of the C library, which a new process starts at 1:
no other thread of the process may call it meanwhile, and the processes that render have one thread. What flite takes
for a fatal error ends the process; the words of `flite.py`, which `phones.pronounce` knows how to say, never did.
"""

import ctypes
import pathlib
import threading

import numpy as np

ORDER = ("asound", "flite", "flite_usenglish", "flite_cmulex")  # what the speakers' libraries need
SETTINGS = ("int_f0_target_mean", "int_f0_target_stddev", "duration_stretch")  # that `speak` sets

_POINTERS = ("flite_synth_text", "utt_wave", "utt_relation", "relation_head", "item_next")  # functions that return one

# (sample rate, float32 [samples]), and of every phone (its name, its end in seconds)
Spoken = tuple[tuple[int, np.ndarray], tuple[tuple[str, float], ...]]


# flite's speakers belong to the process, as the C library's random numbers do, and keep pointers to these names.
_NAMES = tuple(ctypes.create_string_buffer(name.encode()) for name in SETTINGS)
_LOCK = threading.Lock()


class _Voice(ctypes.Structure):
  """The start of cst_voice."""

  _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


class _Wave(ctypes.Structure):
  """cst_wave."""

  _fields_ = [
    ("type", ctypes.c_char_p), ("sample_rate", ctypes.c_int), ("num_samples", ctypes.c_int),
    ("num_channels", ctypes.c_int), ("samples", ctypes.POINTER(ctypes.c_short)),
  ]  # fmt: skip


class Library:
  """The libraries of a folder, or those that are installed. Raises OSError or AttributeError where one is missing."""

  def __init__(self, folder: pathlib.Path | None, speakers: tuple[str, ...]):
    load = lambda name: ctypes.CDLL(_path(folder, name), mode=ctypes.RTLD_GLOBAL)
    _, self._flite, *_ = map(load, ORDER)
    for name in _POINTERS:
      getattr(self._flite, name).restype = ctypes.c_void_p
    self._flite.item_feat_string.restype = ctypes.c_char_p
    self._flite.item_feat_float.restype = ctypes.c_float
    self._seed = ctypes.CDLL(None).srand
    self._flite.flite_init()
    self._voices = {}
    for speaker in speakers:
      register = getattr(load(f"flite_cmu_us_{speaker}"), f"register_cmu_us_{speaker}")
      register.restype = ctypes.POINTER(_Voice)
      self._voices[speaker] = register(None)

  def speak(self, text: str, speaker: str, settings: tuple[float, ...]) -> Spoken | None:
    """A text, with these values of SETTINGS; None where it cannot be spoken."""
    flite, voice = self._flite, self._voices[speaker]
    with _LOCK:
      for name, value in zip(_NAMES, settings):
        flite.feat_set_float(ctypes.c_void_p(voice.contents.features), name, ctypes.c_float(value))
      self._seed(1)
      utterance = ctypes.c_void_p(flite.flite_synth_text(text.encode(), voice))
      if not utterance:
        return None
      try:
        return _samples(flite.utt_wave(utterance)), self._segments(utterance)
      finally:
        flite.delete_utterance(utterance)

  def _segments(self, utterance: ctypes.c_void_p) -> tuple[tuple[str, float], ...]:
    """Phones and their ends, rounded as the program prints them."""
    flite, found = self._flite, []
    item = flite.relation_head(ctypes.c_void_p(flite.utt_relation(utterance, b"Segment")))
    while item:
      here = ctypes.c_void_p(item)
      end = flite.item_feat_float(here, b"end")
      found.append((flite.item_feat_string(here, b"name").decode(), float(f"{end:.3f}")))
      item = flite.item_next(here)
    return tuple(found)


def _samples(pointer: int) -> tuple[int, np.ndarray]:
  wave = _Wave.from_address(pointer)
  samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,))
  return wave.sample_rate, samples.astype(np.float32) / 32768.0


def _path(folder: pathlib.Path | None, name: str) -> str:
  """Where a library is: in the folder, under whichever version, or its name for the system's loader."""
  if folder is None:
    return f"lib{name}.so.{2 if name == 'asound' else 1}"
  return str(next(iter(sorted(folder.glob(f"lib{name}.so*"))), folder / f"lib{name}.so"))
