"""Speaks one utterance with espeak-ng in a process of its own. It reads a request on stdin and writes phones and
samples to stdout.

`espeak.py` only runs this file as a script. It imports nothing but the standard library, so that an utterance costs
about 35 ms of processor time. A new process with a given seed makes speech repeatable: the library carries state from
one utterance to the next that cannot be reset, and seeds its noise from the time of day when it starts. (Forks of an
initialised process would agree with each other, but not with those of another day.)

    request    {"library": path, "data": folder, "voice": "en-us+m3", "text": ..., "rate": words per minute,
                "pitch": 0..99, "range": 0..99, "seed": int}
    answer     a line of JSON, {"rate": Hz, "phones": [[name, character, ms], ...], "end": ms}, then int16 samples

`character` counts from 1 and is where the phone's word begins in the text.
"""

import ctypes
import json
import os
import sys
from typing import Any

_SYNCHRONOUS, _BUFFER_MS = 2, 500
_PHONEME_EVENTS, _DO_NOT_EXIT = 0x1, 0x8000
_RATE, _PITCH, _RANGE = 1, 3, 4
_POSITION_IN_CHARACTERS = 1
_UTF8, _PHONEMES_IN_BRACKETS = 0x1, 0x100
_LIST_END, _CLAUSE_END, _PHONEME = 0, 5, 7


class _Id(ctypes.Union):
  _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
  """espeak_EVENT of speak_lib.h."""

  _fields_ = [
    ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
    ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
    ("user_data", ctypes.c_void_p), ("id", _Id),
  ]  # fmt: skip


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def main() -> None:
  """Answers the request on stdin. Exits with a message and status 1 when espeak-ng refuses it."""
  answer, samples = _speak(json.load(sys.stdin))
  sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + samples)


def _speak(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
  library = ctypes.CDLL(request["library"])
  folder, name = os.path.split(request["data"])
  os.chdir(folder)  # espeak-ng 1.52 refuses paths of more than about 160 characters
  rate = library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, name.encode(), _PHONEME_EVENTS | _DO_NOT_EXIT)
  if rate <= 0:
    sys.exit(f"espeak_Initialize: {rate}, data {request['data']}")
  library.espeak_ng_SetRandSeed(ctypes.c_long(request["seed"]))
  if library.espeak_SetVoiceByName(request["voice"].encode()):
    sys.exit(f"no voice {request['voice']}")
  for parameter, field in ((_RATE, "rate"), (_PITCH, "pitch"), (_RANGE, "range")):
    library.espeak_SetParameter(parameter, request[field], 0)
  pieces: list[bytes] = []
  phones: list[tuple[str, int, int]] = []
  ends = [0]

  @_Callback
  def listen(samples: Any, count: int, events: Any) -> int:
    if samples and count > 0:
      pieces.append(ctypes.string_at(samples, 2 * count))
    index = 0
    while events[index].type != _LIST_END:
      event = events[index]
      if event.type == _PHONEME:
        phones.append((event.id.string.decode(errors="replace"), event.text_position, event.audio_position))
      elif event.type == _CLAUSE_END:
        ends.append(event.audio_position)
      index += 1
    return 0

  library.espeak_SetSynthCallback(listen)
  text = request["text"].encode() + b"\0"
  flags = _UTF8 | _PHONEMES_IN_BRACKETS
  size, start, to_the_end = ctypes.c_size_t(len(text)), ctypes.c_uint(0), ctypes.c_uint(0)
  status = library.espeak_Synth(text, size, start, _POSITION_IN_CHARACTERS, to_the_end, flags, None, None)
  if status or not pieces:
    sys.exit(f"espeak_Synth: {status}, {len(pieces)} pieces of audio")
  return {"rate": rate, "phones": phones, "end": max(ends)}, b"".join(pieces)


if __name__ == "__main__":
  main()
