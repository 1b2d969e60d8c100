"""Media files of every kind for the tests, written with PyAV."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RED, GREEN = np.array([255, 0, 0], np.uint8), np.array([0, 255, 0], np.uint8)


def tone(seconds: float, rate: int, pitch: float = 220.0) -> np.ndarray:
  """A sine, float32 [samples] of amplitude 0.5."""
  return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def halves(height: int, width: int) -> np.ndarray:
  """A picture whose left half is red and whose right half is green: uint8 [height, width, 3]."""
  picture = np.tile(RED, (height, width, 1))
  picture[:, width // 2 :] = GREEN
  return picture


def write_audio(path: Path, samples: np.ndarray, rate: int, codec: str = "pcm_s16le", layout: str = "mono") -> Path:
  """Samples [samples], the same in every channel, in the container that the suffix names."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate, layout=layout)
    add_audio(container, stream, samples, rate, layout)
  return path


def write_video(
  path: Path,
  pictures: list[np.ndarray],
  fps: int = 25,
  codec: str = "mpeg4",
  sound: np.ndarray | None = None,
  times: list[float] | None = None,
  pixel_format: str = "yuv420p",
  options: dict[str, str] | None = None,
) -> Path:
  """Pictures uint8 [height, width, 3] at `fps`, or at `times` in seconds; `sound` is mono at 48 kHz."""
  with av.open(str(path), "w", options=options or {}) as container:
    stream = container.add_stream(codec, rate=fps)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = pixel_format
    stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
    audio = None if sound is None else container.add_stream("aac", rate=48_000, layout="mono")
    for index, picture in enumerate(pictures):
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      frame.time_base = stream.codec_context.time_base
      frame.pts = round(times[index] * 1000) if times else index
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    if audio is not None:
      add_audio(container, audio, sound, 48_000, "mono")
  return path


def add_audio(container, stream, samples: np.ndarray, rate: int, layout: str) -> None:
  channels = len(av.AudioLayout(layout).channels)
  planes = np.tile(samples, (channels, 1))
  for begin in range(0, len(samples), 1024):
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes[:, begin : begin + 1024]), "fltp", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
    container.mux(stream.encode(frame))
  container.mux(stream.encode(None))


def float_wav(path: Path, samples: np.ndarray, rate: int = 24_000) -> Path:
  """A mono WAV of 32-bit floats, NaN included."""
  data = np.asarray(samples, "<f4").tobytes()
  form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
  body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
  path.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)
  return path


def turn(path: Path, quarter_turns: int) -> Path:
  """Marks the video track of an mp4 as turned clockwise, as phones do (the matrix of its `tkhd` box)."""
  cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns % 4]
  one = 1 << 16
  matrix = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
  data = bytearray(path.read_bytes())
  begin = data.index(b"tkhd") + 4 + 40
  data[begin : begin + 36] = matrix
  path.write_bytes(data)
  return path


def write_tracks(path: Path, tracks: list[np.ndarray], rate: int = 48_000, codec: str = "pcm_s16le") -> Path:
  """Sound tracks side by side, each float [channels, samples], in the container that the suffix names."""
  with av.open(str(path), "w") as container:
    layouts = [{1: "mono", 2: "stereo"}[len(track)] for track in tracks]
    streams = [container.add_stream(codec, rate=rate, layout=layout) for layout in layouts]
    for stream, track, layout in zip(streams, tracks, layouts):
      samples = (np.asarray(track).T.reshape(1, -1) * 32767).astype(np.int16)
      frame = av.AudioFrame.from_ndarray(samples, "s16", layout)
      frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
      container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
  return path
