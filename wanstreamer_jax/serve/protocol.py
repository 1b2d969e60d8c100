"""Packs and parses the messages of the live service, protocol version 2. NumPy only.

`docs/protocol.md` describes them.

Audio and video travel as binary messages: a header of 16 bytes, then the payload. Everything else is a JSON object with
a "type". Both share one WebSocket and arrive in the order in which they were sent.

    byte  0      kind: 1 audio, 2 JPEG frame, 3 VP8 frame
    byte  1      flags: bit 0, the frame is a key frame; bit 1, this is the user's side (sent to viewers only)
    bytes 2-3    0
    bytes 4-7    unit (uint32; from the server: the unit of the session to which this belongs)
    bytes 8-15   time (float64, seconds; from the client: its own clock at capture; from the server: session time)
"""

import dataclasses
import json
import struct
from typing import Any

import numpy as np

from wanstreamer_jax.errors import DataError

VERSION = 2
AUDIO, JPEG, VP8 = 1, 2, 3
KEY_FRAME, USER_SIDE = 1, 2  # flags
HEADER = struct.Struct("<BBHId")
MAX_MESSAGE = 1 << 20  # bytes; a portrait and a voice sample in the first message take most of it
MAX_SAMPLES = 24_000  # of one audio message: a second
PART_SECONDS = 0.02  # audio per message, in both directions


@dataclasses.dataclass(frozen=True)
class MediaMessage:
  """One binary message. The payload is int16 samples (audio) or an encoded frame."""

  kind: int
  payload: bytes
  time: float
  unit: int = 0
  key_frame: bool = False
  user_side: bool = False

  def pack(self) -> bytes:
    """The message as it is sent."""
    flags = KEY_FRAME * self.key_frame | USER_SIDE * self.user_side
    return HEADER.pack(self.kind, flags, 0, self.unit, self.time) + self.payload

  @property
  def samples(self) -> np.ndarray:
    """The payload of an audio message as float32 in [-1, 1]."""
    return np.frombuffer(self.payload, "<i2").astype(np.float32) / 32768


def audio_message(samples: np.ndarray, time: float, unit: int = 0, user_side: bool = False) -> MediaMessage:
  """Float samples in [-1, 1] as a message; samples outside are clipped."""
  payload = (np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes()
  return MediaMessage(AUDIO, payload, time, unit, user_side=user_side)


def unpack(message: bytes) -> MediaMessage:
  """Parses a binary message. Raises DataError that says what is wrong with it."""
  if len(message) < HEADER.size:
    raise DataError(f"a binary message of {len(message)} bytes: expected a header of {HEADER.size}")
  kind, flags, _, unit, time = HEADER.unpack_from(message)
  payload = message[HEADER.size :]
  if kind not in (AUDIO, JPEG, VP8):
    raise DataError(f"a binary message of kind {kind}: expected {AUDIO} (audio), {JPEG} (JPEG) or {VP8} (VP8)")
  if not np.isfinite(time):
    raise DataError("the time of a binary message is not a number")
  if kind == AUDIO and (len(payload) % 2 or not 0 < len(payload) // 2 <= MAX_SAMPLES):
    raise DataError(f"an audio message of {len(payload)} bytes: expected 1 to {MAX_SAMPLES} samples of int16")
  if not payload:
    raise DataError("a video message is empty: expected an encoded frame")
  return MediaMessage(kind, payload, time, unit, bool(flags & KEY_FRAME), bool(flags & USER_SIDE))


def dump(type: str, **values: Any) -> str:
  """A JSON message of this type."""
  return json.dumps({"type": type, **values}, ensure_ascii=False)


def parse(message: str) -> dict[str, Any]:
  """Parses a JSON message; the result has a "type". Raises DataError."""
  try:
    value = json.loads(message)
  except (ValueError, RecursionError) as error:
    raise DataError("a text message is not JSON") from error
  if not isinstance(value, dict) or not isinstance(value.get("type"), str):
    raise DataError('a text message must be a JSON object with a "type"')
  return value


def check_hello(hello: dict[str, Any]) -> None:
  """Raises DataError, as one line for people, unless this is a hello of this protocol version."""
  if hello["type"] != "hello":
    raise DataError(f'the first message must be {{"type": "hello", "version": {VERSION}, ...}}')
  if hello.get("version") != VERSION:
    raise DataError(
      f"this server speaks protocol version {VERSION}, but the client sent version {hello.get('version')!r}: "
      "reload the page, or update the client"
    )
