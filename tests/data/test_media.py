"""Media files in and out: whatever people have becomes whole units, and what cannot be used is named."""

import numpy as np
import pytest

from tests.helpers.media_files import float_wav, halves, tone, turn, write_audio, write_video
from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.media import MediaReader, MediaWriter, probe
from wanstreamer_jax.errors import MediaError

MEDIA = MediaConfig()
SIDE = MEDIA.height
UNIT = MEDIA.unit_ms / 1000


def read(path) -> list:
  return list(MediaReader(path, MEDIA))


def pitch_of(sound: np.ndarray) -> float:
  spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
  return spectrum.argmax() * MEDIA.sample_rate / len(sound)


# What people have


@pytest.mark.parametrize(
  ("name", "codec", "rate", "layout"),
  [
    ("a.wav", "pcm_s16le", 8_000, "mono"),
    ("a.wav", "pcm_s24le", 96_000, "stereo"),
    ("a.flac", "flac", 44_100, "stereo"),
    ("a.mp3", "libmp3lame", 22_050, "mono"),
    ("a.ogg", "libopus", 48_000, "stereo"),
    ("a.m4a", "aac", 48_000, "5.1"),
  ],
)
def test_sound_of_any_kind_keeps_its_pitch_level_and_length(name, codec, rate, layout, tmp_path):
  path = write_audio(tmp_path / name, tone(1.0, rate), rate, codec, layout)
  units = read(path)
  assert len(units) == 7  # 6.25 units
  assert all(unit.video is None for unit in units)
  sound = np.concatenate([unit.audio for unit in units])
  assert sound.dtype == np.float32
  assert abs(pitch_of(sound[2400:21600]) - 220) < 2
  assert abs(np.sqrt(np.mean(sound[2400:21600] ** 2)) - 0.5 / np.sqrt(2)) < 0.03
  assert np.abs(sound[round(1.1 * MEDIA.sample_rate) :]).max(initial=0) < 0.02  # what fills the last unit is silence


@pytest.mark.parametrize(
  ("name", "codec", "pixel_format", "fps", "size"),
  [
    ("v.mp4", "libx264", "yuv420p", 30, (48, 64)),
    ("v.mov", "mjpeg", "yuvj420p", 10, (90, 30)),
    ("v.webm", "libvpx", "yuv420p", 24, (64, 64)),
    ("v.mkv", "libx264", "yuv444p", 60, (20, 300)),
    ("v.avi", "mpeg4", "yuv420p", 25, (480, 640)),
    ("v.mkv", "ffv1", "bgr0", 25, (1, 1)),
  ],
)
def test_pictures_of_any_kind_are_cropped_to_the_models_size(name, codec, pixel_format, fps, size, tmp_path):
  path = write_video(tmp_path / name, [halves(*size)] * fps, fps, codec, pixel_format=pixel_format)
  units = read(path)
  assert len(units) == 7
  assert all(unit.audio is None for unit in units)
  picture = units[3].video[1]
  assert picture.shape == (SIDE, SIDE, 3)
  if size[1] > 2:
    assert (picture[:, 4, 0] > 200).all()  # left is red,
    assert (picture[:, -4, 1] > 200).all()  # right is green


@pytest.mark.parametrize("quarters", range(4))
def test_a_turned_phone_video_is_upright(quarters, tmp_path):
  stored = np.rot90(halves(64, 64), quarters)  # counter-clockwise, so that turning it clockwise makes it upright
  path = turn(write_video(tmp_path / "v.mp4", [np.ascontiguousarray(stored)] * 8), quarters)
  picture = read(path)[0].video[0]
  assert (picture[:, 4, 0] > 200).all()
  assert (picture[:, -4, 1] > 200).all()


def test_each_tick_of_a_variable_frame_rate_shows_the_latest_frame(tmp_path):
  times = [0.0, 0.1, 0.13, 0.45]
  greys = [np.full((64, 64, 3), value, np.uint8) for value in (20, 90, 160, 230)]
  path = write_video(tmp_path / "v.mkv", greys, codec="ffv1", pixel_format="bgr0", times=times)
  shown = np.concatenate([unit.video for unit in read(path)])[:, 0, 0, 0]
  centres = (np.arange(len(shown)) + 0.5) / MEDIA.fps
  latest = np.searchsorted(times, centres + 1e-6, side="right") - 1
  assert np.abs(shown.astype(int) - np.array([20, 90, 160, 230])[latest]).max() <= 2


def test_sound_and_pictures_share_a_clock(tmp_path):
  path = write_video(tmp_path / "v.mp4", [halves(64, 64)] * 50, sound=tone(1.0, 48_000))
  units = read(path)
  assert len(units) == 13  # 2 s of pictures: the sound is filled up with silence
  level = [np.abs(unit.audio).max() for unit in units]
  assert min(level[:6]) > 0.4
  assert max(level[7:]) < 0.02
  assert all(unit.video is not None for unit in units)


def test_a_still_with_sound_is_held(tmp_path):
  path = write_video(tmp_path / "v.mp4", [halves(64, 64)], fps=1, sound=tone(2.0, 48_000))
  units = read(path)
  assert len(units) == 13
  np.testing.assert_array_equal(units[0].video[0], units[-1].video[-1])


def test_a_reader_can_be_read_twice(tmp_path):
  reader = MediaReader(write_video(tmp_path / "v.mp4", [halves(64, 64)] * 10, sound=tone(0.4, 48_000)), MEDIA)
  for first, second in zip(list(reader), list(reader), strict=True):
    np.testing.assert_array_equal(first.video, second.video)
    np.testing.assert_array_equal(first.audio, second.audio)


def test_what_is_written_is_read_again(tmp_path):
  with MediaWriter(tmp_path / "w.mp4", MEDIA) as writer:
    for k in range(5):
      samples = tone(UNIT * 5, MEDIA.sample_rate)[k * MEDIA.samples :][: MEDIA.samples]
      writer.write(np.stack([halves(SIDE, SIDE)] * MEDIA.frames), samples)
  units = read(tmp_path / "w.mp4")
  assert len(units) == 5
  assert abs(pitch_of(np.concatenate([unit.audio for unit in units])) - 220) < 2
  assert np.abs(units[2].video[0].astype(int) - halves(SIDE, SIDE)).mean() < 12


@pytest.mark.parametrize("seconds", [0.1, 0.16, 0.161, 1.6])
def test_lengths_are_whole_units(seconds, tmp_path):
  path = write_audio(tmp_path / "a.wav", tone(seconds, 24_000), 24_000)
  assert len(MediaReader(path, MEDIA)) == {0.1: 1, 0.16: 1, 0.161: 1, 1.6: 10}[seconds]


def test_a_picture_of_48_million_pixels_is_read(tmp_path):
  path = write_video(tmp_path / "v.mov", [halves(6000, 8000)], codec="mjpeg", pixel_format="yuvj420p")
  picture = read(path)[0].video[0]
  assert (picture[:, 4, 0] > 200).all()


# What cannot be used


def truncated(path):
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  return path


def missing(tmp_path):
  return tmp_path / "no.mp4"


def folder(tmp_path):
  return tmp_path


def empty(tmp_path):
  (tmp_path / "e.mp4").touch()
  return tmp_path / "e.mp4"


def words(tmp_path):
  (tmp_path / "w.mp4").write_text("not a film, only words\n" * 100)
  return tmp_path / "w.mp4"


def noise(tmp_path):
  (tmp_path / "n.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
  return tmp_path / "n.mp4"


def playlist(tmp_path):
  (tmp_path / "p.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nv.ts\n#EXT-X-ENDLIST\n")
  return tmp_path / "p.m3u8"


def half_of_an_mp4(tmp_path):
  return truncated(write_video(tmp_path / "v.mp4", [halves(64, 64)] * 50))


def half_of_a_wav(tmp_path):
  return truncated(write_audio(tmp_path / "a.wav", tone(1, 24_000), 24_000))


def half_of_a_flac(tmp_path):
  return truncated(write_audio(tmp_path / "a.flac", tone(4, 24_000), 24_000, "flac"))


def encrypted(tmp_path):
  options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "07" * 16, "encryption_kid": "09" * 16}
  return write_video(tmp_path / "v.mp4", [halves(64, 64)] * 50, codec="libx264", options=options)


def subtitles(tmp_path):
  (tmp_path / "s.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
  return tmp_path / "s.srt"


def no_sample(tmp_path):
  return float_wav(tmp_path / "a.wav", np.zeros(0))


def not_finite(tmp_path):
  samples = tone(1, 24_000)
  samples[12_000] = np.nan
  return float_wav(tmp_path / "a.wav", samples)


BAD = [
  (missing, "does not exist"),
  (folder, "is not a file"),
  (empty, "is empty"),
  (words, "not a media file"),
  (noise, "not a media file"),
  (playlist, "not a media file"),
  (half_of_an_mp4, "truncated"),
  (half_of_a_wav, "truncated"),
  (half_of_a_flac, "truncated"),
  (encrypted, "encrypted"),
  (subtitles, "neither a readable audio nor a video stream"),
  (no_sample, "0 s"),
  (not_finite, "0.500 s is not finite"),
]


@pytest.mark.parametrize(("make", "words"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_used_is_named(make, words, tmp_path):
  path = make(tmp_path)
  with pytest.raises(MediaError) as error:
    probe(path)
  assert words in str(error.value)
  assert path.name in str(error.value)
  assert "\n" not in str(error.value)
