"""Made-up sounds: pure functions of their seed, of the right length and level, and whole as records."""

import wave

import numpy as np
import pytest

from tests.helpers.fake_sessions import small_config
from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.records import audio_to_float
from wanstreamer_jax.data.sounds import KINDS, SoundSource, Speech, in_room, sound
from wanstreamer_jax.errors import DataError

MEDIA = MediaConfig(sample_rate=16_000)


def write_wav(path, samples, rate=8000):
  path.parent.mkdir(parents=True, exist_ok=True)
  with wave.open(str(path), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    file.writeframes((32767 * samples).astype("<i2").tobytes())


@pytest.fixture
def speech(tmp_path):
  """Two voices: a low and a high tone."""
  time = np.arange(4000) / 8000
  for name, pitch in (("low", 200), ("high", 1500)):
    write_wav(tmp_path / "speech" / name / "1.wav", 0.5 * np.sin(2 * np.pi * pitch * time))
  return Speech(str(tmp_path / "speech"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_follows_from_its_seed(kind):
  first, again, other = (sound(kind, 12_345, seed, MEDIA, Speech()) for seed in (5, 5, 6))
  np.testing.assert_array_equal(first, again)
  assert first.dtype == np.float32
  assert first.shape == (12_345,)
  assert not np.array_equal(first, other)
  assert np.abs(first).max() <= 0.98
  assert 0.001 < np.sqrt(np.mean(first**2)) < 0.2


def test_speech_comes_from_the_folder(speech):
  heard = []
  for seed in range(6):
    spectrum = np.abs(np.fft.rfft(sound("voice", 32_000, seed, MEDIA, speech)))
    heard.append(round(float(np.argmax(spectrum)) / 2, -1))
  assert set(heard) == {200, 1500}
  assert speech.describe()["files"] == 2


def test_a_room_goes_on_after_the_sound_has_ended():
  click = np.zeros(8000)
  click[1000] = 1
  wet = in_room(click, 16_000, np.random.default_rng(0))
  assert np.abs(wet[:1000]).max() < 0.1 < np.abs(wet[1000])
  assert np.abs(wet[1050:3000]).max() > 3 * np.abs(wet[:900]).max()


def test_records_have_sound_on_both_sides_and_no_pictures(tmp_path):
  config = small_config()
  config.data.session_units, config.media.sample_rate = 4, 4800
  make(config, SoundSource.of(config, 0, 8), tmp_path / "out", progress=False)
  folder = RecordFolder(tmp_path / "out")
  assert (folder.sessions, folder.units) == (8, 4)
  assert folder.manifest["source"]["speech"] == "formant"
  for session in range(8):
    units = folder.read_units(session)
    for side in ("user", "agent"):
      assert units[f"{side}_audio_valid"].all()
      assert not units[f"{side}_video_valid"].any()
      assert np.abs(audio_to_float(units[f"{side}_audio"])).max() > 0.01


def test_a_folder_without_speech_is_refused(tmp_path):
  with pytest.raises(DataError, match="holds no sound files"):
    SoundSource.of(small_config(), 0, 1, str(tmp_path))
