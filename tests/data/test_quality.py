"""The quality report: its figures on cases made by hand, and its flags."""

import numpy as np
import pytest

from tests.helpers.fake_sessions import small_config
from wanstreamer_jax.data.manifest import ManifestLine, SideLine, Stream
from wanstreamer_jax.data.quality import QualityWatch, lines, sync
from wanstreamer_jax.data.recording_media import SideUnits
from wanstreamer_jax.data.session import AGENT, USER
from wanstreamer_jax.data.transcripts import TimedWord

MEDIA = small_config().media
UNITS = 100  # 16 s
RNG = np.random.default_rng(0)
TALK = np.repeat(RNG.random(20) < 0.7, 20)  # bool [frames], in stretches of 0.8 s


def units_of(talk, delay=0, gain=0.2, noise=0):
  """A face whose mouth changes while it talks, `delay` frames before its sound."""
  sound = gain * np.repeat(np.roll(talk, delay), MEDIA.samples // MEDIA.frames) * RNG.standard_normal(UNITS * 192)
  video = np.full((UNITS * 4, 16, 16, 3), 90, np.uint8)
  video[:, 9:13, 5:11] = np.where(talk, RNG.integers(0, 200, len(talk)), 90)[:, None, None, None]
  video = video + RNG.integers(0, 1 + noise, video.shape, np.uint8) if noise else video
  parts = zip(video.reshape(UNITS, 4, 16, 16, 3), sound.astype(np.float32).reshape(UNITS, -1))
  return [SideUnits(pictures, samples, True, True) for pictures, samples in parts]


def report(user, agent, words=None):
  side = lambda words: SideLine(None, Stream("a.wav"), words, "", {})
  watch = QualityWatch(ManifestLine("x", "m:1", {USER: side(None), AGENT: side(words)}, (), "agent", None), MEDIA)
  for pair in zip(user, agent):
    watch.add(dict(zip((USER, AGENT), pair)))
  return watch.report()


def test_a_good_recording_has_no_flag():
  words = tuple(TimedWord("a", at / 25, at / 25 + 0.3) for at in np.flatnonzero(TALK)[::20])
  found = report(units_of(~TALK, noise=3), units_of(TALK, noise=3), words)
  assert found["flags"] == []
  assert found["seconds"] == UNITS * 0.16
  assert found["agent"]["loud"] == pytest.approx(TALK.mean(), abs=0.01)
  assert found["agent"]["level"] == pytest.approx(20 * np.log10(0.2), abs=0.5)
  assert found["agent"]["sync"] > 0.5
  assert found["agent"]["sync_rank"] == 1.0
  assert (found["agent"]["words_heard"], found["agent"]["unwritten"]) == (1.0, 0.0)
  assert found["mixed"] < 0.1


def test_bad_ones_are_flagged_by_what_is_bad():
  talk, other = units_of(TALK, noise=3), units_of(~TALK, noise=3)
  silence = units_of(np.zeros_like(TALK))
  elsewhere = tuple(TimedWord("a", at / 25, at / 25) for at in np.flatnonzero(~TALK)[5::10])
  shuffled = [a._replace(video=b.video) for a, b in zip(talk, units_of(RNG.permutation(TALK), noise=3))]
  assert report(silence, talk)["flags"] == ["user silent", "user frozen"]
  assert report(other, units_of(TALK, gain=3.0, noise=3))["flags"] == ["agent clipped"]
  assert report(other, talk, elsewhere)["flags"] == ["agent words elsewhere"]
  assert report(talk, [unit._replace(audio=0.5 * unit.audio) for unit in talk])["flags"] == ["one mixed track"]
  assert report([unit._replace(video=None) for unit in other], shuffled)["agent"]["sync_rank"] < 1.0
  late = report(other, units_of(TALK, delay=5, noise=3))
  assert (late["flags"], late["agent"]["late_ms"]) == (["agent sound late or early"], 200)
  dark = [unit._replace(video=unit.video // 32) for unit in talk]
  assert "agent dark" in report(other, dark)["flags"]
  printed = lines([report(silence, talk), report(other, talk)])
  assert printed[0] == "quality: 2 recordings read, 1 with something to look at"
  assert "  user silent: 1 (x)" in printed


@pytest.mark.parametrize("delay", [-5, 0, 6])
def test_late_sound_is_measured(delay):
  talk = TALK.astype(float)
  found = sync(10 * talk, np.where(np.roll(TALK, delay), -20.0, -90.0), 25)
  assert found.late == delay * 40
  assert found.correlation > 0.9
  assert found.rank == 1.0


def test_other_pictures_do_not_fit_better_than_chance():
  """Motion of one recording beside the sound of another: ranks are anything, and most are flagged."""
  ranks = []
  for _ in range(40):
    a, b = (np.repeat(RNG.random(100) < 0.5, 20) for _ in range(2))
    ranks.append(sync(10.0 * a, np.where(b, -20.0, -90.0), 25).rank)
  assert 0.3 < np.mean(ranks) < 0.7
  assert np.mean(np.array(ranks) < 0.8) > 0.6


def test_speech_that_nobody_wrote_down_is_flagged():
  """An aligner that found nothing; somebody who said nothing."""
  talk, other = units_of(TALK, noise=3), units_of(~TALK, noise=3)
  assert report(other, talk, ())["flags"] == ["agent speech without words"]
  assert report(other, units_of(TALK & False, noise=3), ())["flags"] == ["agent silent"]


def test_a_camera_that_starts_late_is_compared_with_the_sound_beside_it():
  late = [unit._replace(video_valid=index >= 30) for index, unit in enumerate(units_of(TALK, noise=3))]
  found = report(units_of(~TALK, noise=3), late)["agent"]
  assert found["sync"] > 0.5
  assert abs(found["late_ms"]) <= 40
  few = [unit._replace(video_valid=index < 2) for index, unit in enumerate(late)]
  assert "sync" not in report(late, few)["agent"]
