"""The wire protocol of the live service, version 1: what `docs/protocol.md` describes. NumPy only.

Media travel as binary messages: a header of 16 bytes, then the payload. Everything else is a JSON object with a
"type". Both go over one WebSocket, in the order in which they were sent.

    byte  0      kind: 1 sound, 2 JPEG picture, 3 VP8 picture
    byte  1      flags: bit 0, this picture is a key frame; bit 1, this is the user's side (for who watches)
    bytes 2-3    0
    bytes 4-7    unit (uint32; from the server: which unit of the session this belongs to)
    bytes 8-15   time (float64, seconds; from the client: its own clock at capture; from the server: session time)
"""

import dataclasses
import json
import struct
from typing import Any

import numpy as np

from wanstreamer_jax.errors import DataError

VERSION = 1
SOUND, JPEG, VP8 = 1, 2, 3
KEY_FRAME, USERS = 1, 2
HEADER = struct.Struct("<BBHId")
LARGEST_MESSAGE = 1 << 20  # bytes; a portrait and a voice sample in the first message take most of it
LONGEST_SOUND = 24_000  # samples of one message: a second


@dataclasses.dataclass(frozen=True)
class Media:
  """One binary message. sound: int16 samples as bytes; pictures: the encoded bytes."""

  kind: int
  payload: bytes
  time: float
  unit: int = 0
  key_frame: bool = False
  users: bool = False

  def pack(self) -> bytes:
    flags = KEY_FRAME * self.key_frame | USERS * self.users
    return HEADER.pack(self.kind, flags, 0, self.unit, self.time) + self.payload

  @property
  def samples(self) -> np.ndarray:
    """float32 in [-1, 1]."""
    return np.frombuffer(self.payload, "<i2").astype(np.float32) / 32768


def sound(samples: np.ndarray, time: float, unit: int = 0, users: bool = False) -> Media:
  """float samples in [-1, 1] as a message."""
  return Media(SOUND, (np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes(), time, unit, users=users)


def unpack(message: bytes) -> Media:
  """A binary message. Raises DataError with what is wrong about it."""
  if len(message) < HEADER.size:
    raise DataError(f"a binary message of {len(message)} bytes: expected a header of {HEADER.size}")
  kind, flags, _, unit, time = HEADER.unpack_from(message)
  payload = message[HEADER.size :]
  if kind not in (SOUND, JPEG, VP8):
    raise DataError(f"a binary message of kind {kind}: expected {SOUND} (sound), {JPEG} (JPEG) or {VP8} (VP8)")
  if not np.isfinite(time):
    raise DataError("a binary message whose time is not a number")
  if kind == SOUND and (len(payload) % 2 or not 0 < len(payload) // 2 <= LONGEST_SOUND):
    raise DataError(f"a sound message of {len(payload)} bytes: expected 1 to {LONGEST_SOUND} samples of int16")
  if not payload:
    raise DataError("a picture message without a picture")
  return Media(kind, payload, time, unit, bool(flags & KEY_FRAME), bool(flags & USERS))


def say(type: str, **values: Any) -> str:
  """A JSON message."""
  return json.dumps({"type": type, **values}, ensure_ascii=False)


def hear(message: str) -> dict[str, Any]:
  """A JSON message with its "type". Raises DataError."""
  try:
    value = json.loads(message)
  except (ValueError, RecursionError) as error:
    raise DataError("a text message that is not JSON") from error
  if not isinstance(value, dict) or not isinstance(value.get("type"), str):
    raise DataError('a text message must be a JSON object with a "type"')
  return value
