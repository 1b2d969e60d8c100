"""What goes over the wire: messages, frames, and how they are refused."""

import numpy as np
import pytest

from wanstreamer_jax.errors import DataError
from wanstreamer_jax.serve import protocol
from wanstreamer_jax.serve.frame_codec import VP8Decoder, VP8Encoder, decode_jpeg, encode_jpeg


def test_media_survive_the_wire():
  samples = np.linspace(-1, 1, 480, dtype=np.float32)
  media = protocol.unpack(protocol.audio_message(samples, 1.25, unit=7).pack())
  assert (media.kind, media.unit, media.time) == (protocol.AUDIO, 7, 1.25)
  np.testing.assert_allclose(media.samples, samples, atol=1e-4)
  frame = protocol.unpack(protocol.MediaMessage(protocol.VP8, b"abc", 0.5, key_frame=True).pack())
  assert (frame.payload, frame.key_frame) == (b"abc", True)


@pytest.mark.parametrize(
  ("message", "reason"),
  [
    (b"abc", "expected a header of 16"),
    (protocol.HEADER.pack(9, 0, 0, 0, 0.0) + b"x", "of kind 9"),
    (protocol.HEADER.pack(1, 0, 0, 0, 0.0) + b"x", "an audio message of 1 bytes"),
    (protocol.HEADER.pack(1, 0, 0, 0, 0.0) + bytes(48_002), "expected 1 to 24000"),
    (protocol.HEADER.pack(2, 0, 0, 0, 0.0), "expected an encoded frame"),
    (protocol.HEADER.pack(2, 0, 0, 0, float("nan")) + b"x", "not a number"),
  ],
)
def test_broken_media_are_named(message, reason):
  with pytest.raises(DataError, match=reason):
    protocol.unpack(message)


@pytest.mark.parametrize("message", ["{", "[]", '{"a": 1}', '{"type": 3}'])
def test_broken_json_is_named(message):
  with pytest.raises(DataError, match="a text message"):
    protocol.parse(message)


def test_frames_of_any_size_and_rubbish():
  wide = np.zeros((30, 90, 3), np.uint8)
  wide[:, 30:60] = 200
  assert decode_jpeg(encode_jpeg(wide), 64, 64)[:, 4:-4].min() > 150  # the middle
  with pytest.raises(DataError, match="cannot be decoded"):
    decode_jpeg(b"not a frame", 64, 64)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 50)])
def test_vp8_frames_arrive_one_by_one(height, width):
  encode, decode = VP8Encoder(height, width, 25), VP8Decoder(height, width)
  keys = []
  for index in range(12):
    frame = np.full((height, width, 3), 20 * index, np.uint8)
    data, key = encode(frame)
    keys.append(key)
    assert np.abs(decode(data).astype(int) - frame).mean() < 12
  assert [index for index, key in enumerate(keys) if key] == [0]


def test_broken_vp8_is_named():
  with pytest.raises(DataError, match="at most 640 a side"):
    VP8Decoder(64, 64)(bytes(6) + b"\xff\x3f\xff\x3f" + bytes(90))
  decode, encode = VP8Decoder(64, 64), VP8Encoder(64, 64, 25)
  assert decode(b"\x01\x02\x03") is None  # nothing can be shown before a key frame
  assert decode(encode(np.zeros((64, 64, 3), np.uint8))[0]) is not None
  with pytest.raises(DataError, match="cannot be decoded"):
    decode(b"\x00\x02\x03")
