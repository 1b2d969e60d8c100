"""What arrives, cut into units: the jitter buffer, pictures, and the echo in the microphone."""

import numpy as np
import pytest

from tests.helpers.live import MEDIA, RATE
from wanstreamer_jax.serve.echo import EchoMeter
from wanstreamer_jax.serve.inbox import ABSENT_UNITS, MAX_UNITS, Inbox


def parts(samples: np.ndarray, begin: float = 0.0):
  for first in range(0, len(samples), 480):
    yield samples[first : first + 480], begin + first / RATE


def test_sound_comes_out_as_it_came_in():
  inbox, samples = Inbox(MEDIA), np.random.default_rng(0).uniform(-1, 1, 3 * MEDIA.samples).astype(np.float32)
  heard = []
  for unit in range(3):
    for part, begin_of_part in parts(samples[unit * MEDIA.samples : (unit + 1) * MEDIA.samples], 5 + unit * 0.16):
      inbox.audio(part, begin_of_part)
    user, typed, end = inbox.take()
    heard.append(user.audio)
    assert end == pytest.approx(5.16 + unit * 0.16)
    assert (user.video, typed) == (None, [])
  np.testing.assert_array_equal(np.concatenate(heard), samples)
  assert (inbox.missing, inbox.dropped) == (0, 0)


def test_late_sound_is_silence_and_a_microphone_that_stops_is_absent():
  inbox = Inbox(MEDIA)
  assert inbox.take()[0].audio is None
  inbox.audio(np.ones(1000, np.float32), 0.0)
  first = inbox.take()[0].audio
  assert first[:1000].all()
  assert not first[1000:].any()
  assert inbox.missing == MEDIA.samples - 1000
  after = [inbox.take()[0].audio for _ in range(ABSENT_UNITS + 1)]
  assert after[0] is not None
  assert after[-1] is None


def test_sound_that_piles_up_is_dropped_from_its_old_end():
  inbox = Inbox(MEDIA)
  samples = np.arange(3 * MEDIA.samples, dtype=np.float32)
  inbox.audio(samples, 10.0)
  user, _, end = inbox.take()
  assert inbox.waiting <= 0.081
  assert inbox.dropped > MEDIA.samples
  assert end == pytest.approx(10.0 + (user.audio[-1] + 1) / RATE)


def test_what_the_host_has_to_catch_up_with_is_not_dropped():
  """One unit took 400 ms: sound of two and a half units waits, and two are taken one after the other."""
  inbox, samples = Inbox(MEDIA), np.arange(int(0.4 * RATE), dtype=np.float32)
  for part, begin in parts(samples):
    inbox.audio(part, begin)
  heard = [inbox.take(behind)[0].audio for behind in (1, 0)]
  np.testing.assert_array_equal(np.concatenate(heard), samples[: 2 * MEDIA.samples])
  assert (inbox.missing, inbox.dropped) == (0, 0)
  inbox.audio(samples, 0.4)  # the same for a host that has nothing to catch up with
  inbox.take(0)
  assert inbox.dropped > MEDIA.samples


def test_sound_that_nobody_takes_does_not_pile_up():
  inbox = Inbox(MEDIA)
  for second in range(600):
    inbox.audio(np.full(RATE, second, np.float32), float(second))
  assert inbox.waiting <= MAX_UNITS * MEDIA.samples / RATE
  assert inbox.dropped == 600 * RATE - MAX_UNITS * MEDIA.samples
  user, _, end = inbox.take(MAX_UNITS - 1)
  assert set(user.audio) == {598.0}  # the oldest that is left
  assert end == pytest.approx(600 - (MAX_UNITS - 1) * MEDIA.samples / RATE)


def test_sound_that_waits_for_nothing_is_dropped_after_a_while():
  inbox, unit = Inbox(MEDIA), np.zeros(MEDIA.samples, np.float32)
  inbox.audio(np.zeros(int(0.06 * RATE), np.float32), 0.0)  # 60 ms that lie behind every unit
  for index in range(20):
    inbox.audio(unit, 0.06 + index * 0.16)
    _, _, end = inbox.take()
    waits = 0.06 if index < 15 else 0.02
    assert inbox.waiting == pytest.approx(waits)
    assert end == pytest.approx(0.06 + (index + 1) * 0.16 - waits)
  assert (inbox.missing, inbox.dropped) == (0, int(0.04 * RATE))


def test_a_clock_that_jumps_is_believed():
  inbox, part = Inbox(MEDIA), np.zeros(480, np.float32)
  for index in range(12):
    inbox.audio(part, 5.0 + 0.02 * index + (3.0 if index >= 9 else 0.0))
    if index >= 8:
      inbox.frame(np.full((64, 64, 3), index, np.uint8), 5.0 + 0.02 * index + (3.0 if index >= 9 else 0.0))
  user, _, end = inbox.take()
  assert end == pytest.approx(8.0 + 0.02 * 8)
  assert user.video is not None


def test_pictures_follow_the_sound_they_were_taken_with():
  inbox = Inbox(MEDIA)
  for index in range(8):  # 40 ms apart from 10.0 on
    inbox.frame(np.full((64, 64, 3), index, np.uint8), 10.0 + 0.04 * index)
  taken = []
  for begin in (10.0, 10.16):
    for part, begin_of_part in parts(np.zeros(MEDIA.samples, np.float32), begin):
      inbox.audio(part, begin_of_part)
    taken.append(inbox.take()[0].video[:, 0, 0, 0])
  first, second = taken
  assert first.tolist() == [1, 2, 3, 4]  # the newest by the end of each frame
  assert second.tolist()[:2] == [5, 6]


def test_pictures_without_sound_and_a_camera_that_stops():
  inbox = Inbox(MEDIA)
  for index in range(6):
    inbox.frame(np.full((64, 64, 3), index, np.uint8), 0.04 * index)
  assert inbox.take()[0].video[:, 0, 0, 0].tolist() == [2, 3, 4, 5]
  assert inbox.take()[0].video[:, 0, 0, 0].tolist() == [5, 5, 5, 5]
  for _ in range(ABSENT_UNITS):
    last = inbox.take()[0]
  assert last.video is None


# The echo


def speech_like(seconds, seed):
  """Noise whose loudness comes and goes, as a voice's does."""
  random = np.random.default_rng(seed)
  steps = int(seconds * 10)
  return (random.standard_normal(steps * RATE // 10) * np.repeat(random.random(steps) > 0.4, RATE // 10)).astype(
    np.float32
  )


@pytest.mark.parametrize(
  ("gain", "voice", "expected"), [(0.1, 0.0, -20), (0.5, 0.1, -6), (0.0, 0.2, None), (0.02, 0.5, None)]
)
def test_how_much_of_the_agent_comes_back(gain, voice, expected):
  agent, user = 0.3 * speech_like(8, 0), voice * speech_like(8, 1)
  echo = np.concatenate([np.zeros(int(0.31 * RATE), np.float32), agent])[: len(agent)]
  meter, found = EchoMeter(MEDIA), []
  for first in range(0, len(agent) - MEDIA.samples, MEDIA.samples):
    unit = slice(first, first + MEDIA.samples)
    found.append(meter(agent[unit], user[unit] + gain * echo[unit]))
  levels = [level for level in found if level is not None]
  assert bool(levels) == (expected is not None)
  assert all(level == pytest.approx(expected, abs=1.5) for level in levels)


def test_no_microphone_no_echo():
  meter = EchoMeter(MEDIA)
  assert {meter(speech_like(0.2, k)[: MEDIA.samples], None) for k in range(60)} == {None}
