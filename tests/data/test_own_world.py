"""The portrait and the voice sample that a recording gives by itself, and that they can be turned off."""

import json

import numpy as np
import pytest

from tests.helpers.fake_sessions import small_config
from tests.helpers.media_files import tone, write_tracks, write_video
from wanstreamer_jax.data.own_world import pick_portrait, pick_voice
from wanstreamer_jax.data.recordings import RecordingsSource
from wanstreamer_jax.data.transcripts import TimedWord

MEDIA = small_config().media
FRAMES, SAMPLES = 40, 40 * 48  # 1.6 s


def scene():
  """Frames that are numbered by a pixel: dark until 5, then a checkerboard that moves but in 20 to 30."""
  board = np.indices((16, 16)).sum(0) % 2 * 120 + 40
  video = np.repeat(board[None, ..., None], FRAMES, axis=0).repeat(3, axis=3).astype(np.uint8)
  for index in range(FRAMES):
    video[index] = np.roll(video[index], 0 if 20 <= index < 30 else index % 7, axis=1)
    video[index, 0, 0] = index
  video[:5] = 0
  return video


def test_the_portrait_is_still_and_silent():
  video = scene()
  assert 20 <= pick_portrait(video, None, None, MEDIA)[0, 0, 0] < 30
  speech = np.zeros(SAMPLES, np.float32)
  speech[: 24 * 48] = 0.3  # the agent speaks up to frame 24: its mouth is open until then, and a little after
  assert 28 < pick_portrait(video, speech, None, MEDIA)[0, 0, 0] < 40
  words = (TimedWord("a", 0.0, 1.0),)  # up to frame 25
  assert 28 < pick_portrait(video, None, words, MEDIA)[0, 0, 0] < 40


def test_without_silence_it_is_the_first_good_frame():
  assert pick_portrait(scene(), np.full(SAMPLES, 0.3, np.float32), None, MEDIA)[0, 0, 0] == 5
  assert pick_portrait(np.zeros((FRAMES, 16, 16, 3), np.uint8), None, None, MEDIA) is None


def test_a_picture_of_few_frames_can_be_a_portrait():
  """A camera that ended soon after the session began."""
  speech = np.full(4 * 48, 0.3, np.float32)
  assert pick_portrait(scene()[20:24], None, None, MEDIA)[0, 0, 0] in range(20, 24)
  assert pick_portrait(scene()[20:24], speech, None, MEDIA)[0, 0, 0] == 20


def test_the_voice_is_the_loudest_clean_stretch():
  levels = [0.0, 0.1, 0.1, 0.5, 0.5, 0.2, 0.2, 1.0, 1.0, 0.0]
  agent = [np.full(192, level, np.float32) for level in levels]
  user = [np.full(192, 0.2 * (index in (3, 4)), np.float32) for index in range(len(levels))]  # both speak
  assert (pick_voice(agent, user, 2, MEDIA) == 0.2).all()  # 1.0 is clipped, 0.5 is not the agent alone
  assert (pick_voice(agent, [], 2, MEDIA) == 0.5).all()  # no sound of the user
  assert pick_voice(agent, user, 9, MEDIA) is None
  assert pick_voice([agent[0]] * 4, [], 2, MEDIA) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("own")
  write_video(path / "agent.mkv", list(scene()), codec="ffv1", pixel_format="bgr0")
  sound = np.concatenate([np.zeros(48_000), tone(0.6, 48_000)])
  write_tracks(path / "agent.wav", [sound[None]])
  write_tracks(path / "user.wav", [0 * sound[None]])
  return path


def world_of(folder, config, agent=None, **world):
  agent = {"video": "agent.mkv", "audio": "agent.wav", **(agent or {})}
  line = {"id": "x", "user": {"audio": "user.wav"}, "agent": agent, "world": world}
  (folder / "m.jsonl").write_text(json.dumps(line))
  return [session.world for session in RecordingsSource.open(folder / "m.jsonl", config).sessions(0)]


def test_a_recording_gives_portrait_and_voice_unless_they_are_given_or_turned_off(folder):
  config = small_config()
  config.layout.voice_units, config.data.session_units, config.data.min_session_units = 2, 6, 4
  first, second = world_of(folder, config)
  assert 5 <= first.portrait[0, 0, 0] < 24
  assert second.portrait is first.portrait  # one face for the whole recording
  assert len(first.voice) == 2 * MEDIA.samples
  assert np.abs(first.voice).max() > 0.4
  assert world_of(folder, config, portrait=None, voice=None)[0].portrait is None
  config.data.own_portrait = config.data.own_voice = False
  off = world_of(folder, config)[0]
  assert off.portrait is None
  assert off.voice is None


def test_a_camera_that_starts_late_gives_a_frame_that_is_silent_there(folder):
  """The sound is silent from 0 to 1 s, and the pictures begin at 0.5 s: frames 0 to 12 of them are silent."""
  config = small_config()
  config.data.session_units = 10
  (world,) = world_of(folder, config, {"video_start": 0.5, "audio_start": 0.0})
  assert 5 <= world.portrait[0, 0, 0] < 12
