"""What recordings consist of: tracks, channels, crops, files with clocks of their own; and what does not exist."""

import json

import numpy as np
import pytest

from tests.helpers.fake_sessions import small_config
from tests.helpers.media_files import halves, write_audio, write_tracks, write_video
from wanstreamer_jax.data.manifest import read_manifest
from wanstreamer_jax.data.media import stored_region
from wanstreamer_jax.data.media_probe import read_header
from wanstreamer_jax.data.recording_check import check_recordings
from wanstreamer_jax.data.recording_media import RecordingMedia, open_tracks
from wanstreamer_jax.data.recordings import RecordingsSource
from wanstreamer_jax.data.session import AGENT, USER
from wanstreamer_jax.errors import DataError, MediaError

LEVELS = (0.1, 0.2, 0.3)  # of the mono track, and of both channels of the other


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """One file of both people side by side, with two sound tracks; a sound of its own; one that lasts longer."""
  path = tmp_path_factory.mktemp("media")
  constant = lambda level, seconds=1.0: np.full(round(48_000 * seconds), level)
  write_video(path / "both.mkv", [halves(32, 64)] * 25, codec="ffv1", pixel_format="bgr0")
  write_tracks(path / "sound.mka", [constant(LEVELS[0])[None], np.stack([constant(x) for x in LEVELS[1:]])])
  write_tracks(path / "long.wav", [constant(0.4, 9.0)[None]])
  write_tracks(path / "stereo.wav", [np.stack([constant(0.5), constant(-0.5)])])
  return path


def line(folder, user=None, agent=None, **keys):
  sound = {"audio": "sound.mka"}
  path = folder / "manifest.jsonl"
  path.write_text(json.dumps({"id": "x", "user": user or sound, "agent": agent or sound, **keys}))
  return read_manifest(path)[0]


def units_of(folder, user=None, agent=None, **keys):
  return list(RecordingMedia(line(folder, user, agent, **keys), folder, small_config().media))


def test_tracks_and_channels_are_chosen(folder):
  user = {"audio": "sound.mka", "audio_track": 1, "audio_channel": "right"}
  unit = units_of(folder, user, {"audio": "sound.mka", "audio_track": 1})[2]
  assert np.abs(unit[USER].audio - LEVELS[2]).max() < 0.01
  assert np.abs(unit[AGENT].audio - np.mean(LEVELS[1:])).max() < 0.01  # the mean of both channels
  assert np.abs(units_of(folder)[2][USER].audio - LEVELS[0]).max() < 0.01  # the first track


def test_two_people_in_one_picture_are_cropped_apart(folder):
  """Left half red, right half green: boxes in shares, in pixels, and by time."""
  user = {"video": "both.mkv", "audio": "sound.mka", "crop": [0, 0, 0.5, 1]}
  agent = {"video": "both.mkv", "audio": "sound.mka", "crop": [32, 0, 32, 32]}
  unit = units_of(folder, user, agent)[0]
  assert unit[USER].video.reshape(-1, 3).mean(0) == pytest.approx([255, 0, 0], abs=3)
  assert unit[AGENT].video.reshape(-1, 3).mean(0) == pytest.approx([0, 255, 0], abs=3)
  moving = {**user, "crop": [{"time": 0, "box": [0, 0, 0.5, 1]}, {"time": 0.4, "box": [0.5, 0, 0.5, 1]}]}
  red = np.concatenate([unit[USER].video for unit in units_of(folder, moving)])[..., 0].mean((1, 2))
  assert (red[:10] > 250).all()  # frames whose middle is before 0.4 s
  assert (red[10:] < 5).all()


@pytest.mark.parametrize("turns", range(4))
def test_a_box_means_the_picture_as_it_is_displayed(turns):
  stored = np.arange(20 * 30).reshape(20, 30)
  displayed = np.rot90(stored, turns)
  height, width = displayed.shape
  left, top, across, down = 3, 4, 9, 8
  expected = displayed[top : top + down, left : left + across]
  x, y, w, h = stored_region((left / width, top / height, across / width, down / height), turns, 30, 20)
  np.testing.assert_array_equal(np.rot90(stored[y : y + h, x : x + w], turns), expected)


def test_starts_replace_what_files_say(folder):
  user = {"audio": "stereo.wav", "audio_channel": 0, "audio_start": 0.32}
  units = units_of(folder, user, duration=1.3)
  heard = np.concatenate([unit[USER].audio for unit in units])
  rate = small_config().media.sample_rate
  assert np.abs(heard[: round(0.3 * rate)]).max() == 0
  assert np.abs(heard[round(0.34 * rate) : round(1.3 * rate)] - 0.5).max() < 0.01


def test_what_is_before_the_recording_is_left_out(folder):
  """A file that began 0.3 s earlier, whose sound is a ramp."""
  write_tracks(folder / "ramp.wav", [np.linspace(0, 0.96, 96_000)[None]])
  units = units_of(folder, {"audio": "ramp.wav", "audio_start": -0.3}, duration=1.0)
  heard = np.concatenate([unit[USER].audio for unit in units])
  rate = small_config().media.sample_rate
  assert np.abs(heard[50:rate] - (np.arange(50, rate) / rate + 0.3) * 0.48).max() < 0.005


def test_files_whose_stamps_begin_anywhere_begin_with_the_others(folder):
  """An MP3 starts after its encoder's delay, a transport stream at 1.4 s or so; the sound in both starts at once."""
  sound = np.full(48_000, 0.5, np.float32)
  write_audio(folder / "a.mp3", sound, 48_000, "libmp3lame")
  pictures = [np.full((32, 32, 3), 40, np.uint8)] * 13 + [np.full((32, 32, 3), 200, np.uint8)] * 12
  write_video(folder / "a.ts", pictures, times=[1.4 + index / 25 for index in range(25)])
  media = RecordingMedia(line(folder, {"audio": "a.mp3", "video": "a.ts"}), folder, small_config().media)
  units = list(media)
  assert all(media.tracks[f"user.{kind}"].file.origin > 0 for kind in ("audio", "video"))
  assert np.abs(units[0][USER].audio[24:] - 0.5).max() < 0.1  # from 20 ms on
  light = np.concatenate([unit[USER].video for unit in units]).mean((1, 2, 3))
  assert int((light > 120).argmax()) == 13
  apart = {"video": "both.mkv", "audio": "long.wav", "video_start": 100.0}
  assert RecordingMedia(line(folder, apart, duration=102), folder, small_config().media).seconds == pytest.approx(101)


def test_a_stream_that_ends_before_the_stated_duration_is_absent_from_then_on(folder):
  units = units_of(folder, {"audio": "long.wav"}, {"video": "both.mkv", "audio": "sound.mka"}, duration=2.0)
  assert len(units) == 13
  assert [unit[AGENT].audio_valid for unit in units] == [unit[AGENT].video_valid for unit in units]
  assert [unit[AGENT].audio_valid for unit in units] == [True] * 6 + [False] * 7
  assert all(unit[USER].audio_valid for unit in units)
  assert not any(unit[USER].video_valid for unit in units)
  source = RecordingsSource.open(folder / "manifest.jsonl", small_config())
  session = next(source.sessions(0))
  assert session.length == 13
  assert list(session.agent.audio_valid) == [True] * 6 + [False] * (session.units - 6)


def test_a_stream_that_begins_late_is_absent_until_then(folder):
  """A camera that starts 0.4 s after the microphone; its first picture is red, and is not held before."""
  agent = {"video": "both.mkv", "audio": "long.wav", "video_start": 0.4, "audio_start": 0.0}
  units = units_of(folder, {"audio": "long.wav"}, agent, duration=1.4)
  assert [unit[AGENT].video_valid for unit in units] == [False] * 2 + [True] * 7
  assert all(unit[AGENT].audio_valid for unit in units)
  config = small_config()
  config.data.session_units = 9
  session = next(RecordingsSource.open(folder / "manifest.jsonl", config).sessions(0))
  assert list(session.agent.video_valid) == [False] * 2 + [True] * 7


BAD = {
  "track": ({"audio": "sound.mka", "audio_track": 2}, {}, "has 2 audio tracks, counted from 0: .* no audio_track 2"),
  "channel": ({"audio": "long.wav", "audio_channel": "right"}, {}, "user.audio_channel 1: .*long.wav has 1 channels"),
  "crop": (
    {"video": "both.mkv", "audio": "sound.mka", "crop": [40, 0, 32, 32]}, {},
    r"user.crop \[40, 0, 32, 32\] at 0 s lies outside the picture of 64 x 32",
  ),
  "later crop": (
    {"video": "both.mkv", "crop": [{"time": 0, "box": [0, 0, 1, 1]}, {"time": 9, "box": [0.5, 0, 1, 1]}],
     "audio": "sound.mka"}, {}, r"user.crop \[0.5, 0, 1, 1\] at 9 s lies outside",
  ),
  "lengths": (
    {"audio": "long.wav"}, {}, r'agent.audio \(sound.mka\) ends at 1.00 s, user.audio .long.wav. at 9.00 s: .*"dur'
  ),
  "duration": ({}, {"duration": 30}, r"duration 30 s: the last stream, .*, ends at 1.00 s"),
  "no video": ({"video": "sound.mka"}, {}, "user.video: .*sound.mka has no video"),
  "late words": (
    {"audio": "sound.mka", "words": [{"text": "a", "start": 0, "end": 1}, {"text": "b", "start": 70, "end": 71}]}, {},
    "user.words: 1 of 2 start after the recording's end at 1.00 s, the first, 'b', at 70.00 s; give times in seconds",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_line_early_and_late(folder, name):
  user, keys, message = BAD[name]
  bad = line(folder, user or None, **keys)
  with pytest.raises((DataError, MediaError), match=message) as caught:
    RecordingMedia(bad, folder, small_config().media)
  assert "\n" not in str(caught.value)
  outlook = check_recordings(RecordingsSource.open(folder / "manifest.jsonl", small_config()))
  assert [reason for _, reason in outlook.problems] == [str(caught.value)]


def test_headers_and_whole_files_agree(folder):
  both = {"video": "both.mkv", "audio": "sound.mka"}
  for reader in (read_header, None):
    recording = line(folder, both, both)
    tracks = (
      open_tracks(recording, folder, reader)
      if reader
      else RecordingMedia(recording, folder, small_config().media).tracks
    )
    found = {name: (track.origin, round(track.end, 1)) for name, track in tracks.items()}
    assert found == {f"{side}.{kind}": (0.0, 1.0) for side in (USER, AGENT) for kind in ("video", "audio")}


def test_a_path_may_name_its_tracks_and_channels(folder):
  """Its channels are agent left and user right unless a side says otherwise."""
  path = folder / "manifest.jsonl"
  unit = lambda line: next(iter(RecordingMedia(line, folder, small_config().media)))
  heard = lambda unit: [round(float(unit[side].audio[50:].mean()), 1) for side in (USER, AGENT)]
  path.write_text(json.dumps({"path": "stereo.wav"}))
  assert heard(unit(read_manifest(path)[0])) == [-0.5, 0.5]
  tracks = {"user": {"audio_track": 1}, "agent": {"audio_track": 0, "audio_channel": 0}}
  path.write_text(json.dumps({"path": "sound.mka", **tracks}))
  assert heard(unit(read_manifest(path)[0])) == [LEVELS[2], LEVELS[0]]


def test_crops_that_are_longer_than_recordings_are_said(folder):
  config = small_config(units=14)
  config.data.session_units, config.data.min_session_units = 14, 5
  line(folder)
  outlook = check_recordings(RecordingsSource.open(folder / "manifest.jsonl", config))
  assert outlook.empty == 0.5  # seven units of fourteen
  assert "50 % of a training step would lie past the end of sessions: lower data.units" in outlook.lines()
