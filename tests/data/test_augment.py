"""Augmentation: a pure function of seed, step and row, only of the user, and every effect does what it says."""

import numpy as np
import pytest

from wanstreamer_jax.config import AugmentConfig
from wanstreamer_jax.data import augment
from wanstreamer_jax.data.loudness import level
from wanstreamer_jax.data.records import audio_to_float
from wanstreamer_jax.errors import ConfigError

RATE, UNITS = 24_000, 12
EFFECTS = ("gain", "noise", "room", "codec", "loss", "light", "blur", "frame_drop")
EVERY = np.ones(UNITS, bool)


def only(*names, **changes):
  """Settings under which these effects always happen, and no other."""
  return AugmentConfig(**{name: float(name in names) for name in EFFECTS} | changes).freeze()


def sound(seed=0, amplitude=0.1):
  """A second of silence between two of a tone with a little noise: int16 [UNITS, 3840]."""
  time = np.arange(UNITS * 3840) / RATE
  wave = amplitude * np.sin(2 * np.pi * 440 * time) * ((time < 0.6) | (time > 1.2))
  return np.round(32767 * wave).astype(np.int16).reshape(UNITS, -1)


def pictures(height=24, width=36):
  """Noise, so that any blur shows; every frame differs."""
  return np.random.default_rng(0).integers(0, 256, (UNITS, 4, height, width, 3), np.uint8)


def heard(config, audio=None, step=0, valid=EVERY):
  audio = sound() if audio is None else audio
  return augment.augment_audio(audio, valid, RATE, config, augment.draws(0, step, 0))


def seen(config, video=None, step=0, valid=EVERY):
  video = pictures() if video is None else video
  return augment.augment_video(video, valid, config, augment.draws(0, step, 0))


def test_draws_are_a_function_of_seed_step_and_row():
  config, audio, video = only(*EFFECTS), sound(), pictures()
  run = lambda *place: (
    augment.augment_audio(audio, EVERY, RATE, config, augment.draws(*place)),
    augment.augment_video(video, EVERY, config, augment.draws(*place)),
  )
  first = run(0, 7, 1)
  assert all(map(np.array_equal, first, run(0, 7, 1)))
  for other in ((1, 7, 1), (0, 8, 1), (0, 7, 2)):
    assert not any(map(np.array_equal, first, run(*other)))


def test_settings_of_one_effect_do_not_change_the_draws_of_another():
  """Twice the loudness in, twice the loudness out: the gain drawn is the same with and without lost packets."""
  lossy, alone = heard(only("gain", "loss"), step=3), heard(only("gain"), step=3)
  arrived = lossy != 0
  assert 0.2 < arrived.mean() < 0.8
  assert np.array_equal(lossy[arrived], alone[arrived])


def test_nothing_happens_without_probability_or_stream():
  nothing, audio, video = only(), sound(), pictures()
  assert heard(nothing, audio) is audio
  assert seen(nothing, video) is video
  everything, absent = only(*EFFECTS), np.zeros(UNITS, bool)
  assert heard(everything, audio, valid=absent) is audio
  assert seen(everything, video, valid=absent) is video


def test_units_without_the_stream_stay_as_they_are():
  some, config = np.arange(UNITS) % 3 > 0, only(*EFFECTS)
  for before, after in ((sound(), heard(config, valid=some)), (pictures(), seen(config, valid=some))):
    assert np.array_equal(before[~some], after[~some])
    assert not np.array_equal(before[some], after[some])


def test_gain_covers_quiet_and_loud_microphones():
  audio, config = sound(), only("gain")
  first = lambda audio: level(audio_to_float(audio[0]))
  found = [first(heard(config, audio, step)) - first(audio) for step in range(200)]
  assert -24.1 < min(found) < -22
  assert 4.5 < max(found) < 6.1
  assert abs(np.mean(found) + 9) < 1.5


def test_gain_clips_like_a_microphone():
  loud = heard(only("gain", gain_db=(6.0, 6.0)), sound(amplitude=0.9))
  assert np.abs(loud).max() == 32767


@pytest.mark.parametrize("amplitude", [0.3, 0.02])
def test_noise_is_as_far_below_the_speech_as_drawn(amplitude):
  audio = sound(amplitude=amplitude)
  for step in range(6):
    noisy = heard(only("noise", noise_snr_db=(20.0, 20.0)), audio, step)
    noise = audio_to_float(noisy).reshape(-1) - audio_to_float(audio).reshape(-1)
    assert abs(level(audio_to_float(audio[0])) - 20 - level(noise)) < 1.5


def test_noise_is_white_or_pink():
  white, pink = (np.square(np.abs(np.fft.rfft(bank))) for bank in augment.noise_bank())
  octave = lambda power, k: power[k : 2 * k].mean()
  assert abs(octave(white, 8192) / octave(white, 1024) - 1) < 0.1
  assert abs(octave(pink, 8192) / octave(pink, 1024) - 1 / 8) < 0.02


def test_a_room_keeps_timing_and_level_and_rings_on():
  audio = sound()
  x, wet = (audio_to_float(a).reshape(-1) for a in (audio, heard(only("room", room_seconds=(0.4, 0.4)), audio)))
  assert abs(level(x) - level(wet)) < 0.1
  after = slice(round(0.62 * RATE), round(0.7 * RATE))
  assert level(x[after]) == -96
  assert level(wet[after]) > -60
  click = np.zeros(RATE, np.float32)
  click[1000] = 1.0
  assert np.argmax(np.abs(augment.add_room(click, RATE, (0.3, 0.3), np.random.default_rng(1)))) == 1000


def test_lost_packets_are_silent_pieces_of_20_ms_in_bursts():
  steady = np.full((UNITS, 3840), 1000, np.int16)
  shares = []
  for step in range(60):
    pieces = heard(only("loss", loss_share=(0.1, 0.1)), steady, step).reshape(-1, 480)
    assert set(np.unique(pieces)) <= {0, 1000}
    assert ((pieces == 0).all(1) | (pieces == 1000).all(1)).all()
    shares.append((pieces == 0).mean())
  assert 0.06 < np.mean(shares) < 0.12


def test_a_telephone_takes_its_band_and_8_bits():
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
  power = lambda x: np.square(np.abs(np.fft.rfft(x)))
  kept = [power(augment.through_codec(noise, RATE, (8000.0, 8000.0), np.random.default_rng(s))) for s in range(12)]
  share = [x[6000:7000].mean() / power(noise)[6000:7000].mean() for x in kept]  # 6 to 7 kHz
  assert {round(float(x), 1) for x in share} == {0.0, 0.9} or {round(float(x), 1) for x in share} == {0.0, 1.0}
  x = np.linspace(-1, 1, 4001).astype(np.float32)
  assert np.abs(augment.mu_law(x) - x).max() < 0.022  # half a step at full scale
  quiet = np.abs(x) < 0.02
  assert np.abs(augment.mu_law(x) - x)[quiet].max() < 0.0006
  assert len(np.unique(augment.mu_law(x))) <= 257


def test_bands_that_the_rate_lacks_are_left_alone():
  x = np.random.default_rng(0).uniform(-0.5, 0.5, 1200).astype(np.float32)
  assert np.isfinite(augment.through_codec(x, 1200, (3400.0, 8000.0), np.random.default_rng(0))).all()


def test_light_changes_all_frames_alike_and_keeps_order():
  ramp = np.broadcast_to(np.arange(0, 252, 7, dtype=np.uint8)[None, None, None, :, None], pictures().shape).copy()
  changed = seen(only("light"), ramp).astype(int)
  assert (changed == changed[0, 0]).all()
  assert (np.diff(changed, axis=3) >= 0).all()
  assert np.abs(changed - ramp).max() > 5


def test_blur_is_that_of_a_smaller_picture():
  rough = lambda video: np.abs(np.diff(video.astype(float), axis=3)).mean()
  assert rough(seen(only("blur"))) < 0.8 * rough(pictures())
  flat = np.full_like(pictures(), 77)
  assert (seen(only("blur"), flat) == 77).all()


def test_frames_that_do_not_arrive_show_the_one_before():
  video, valid, kept = pictures(), np.arange(UNITS) != 5, []
  for step in range(8):
    dropped = seen(only("frame_drop", frame_drop_share=(0.5, 0.5)), video, step, valid)
    before, after = video.reshape(-1, *video.shape[2:]), dropped.reshape(-1, *video.shape[2:])
    held = [next(at for at in range(index, -1, -1) if np.array_equal(after[index], before[at])) for index in range(48)]
    assert held[0] == 0
    assert held[20:25] == [20, 21, 22, 23, 24]  # the missing unit, and where the pictures begin again
    kept.append(np.mean(np.array(held) == np.arange(48)))
  assert 0.4 < np.mean(kept) < 0.7


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ConfigError, match=r"augment\.gain_db|gain_db is .*: expected two numbers"):
    AugmentConfig(gain_db=(6.0, -24.0)).freeze()
  with pytest.raises(ConfigError, match="two numbers"):
    AugmentConfig(noise_snr_db=(5.0,)).freeze()
  with pytest.raises(ConfigError, match="at most 1"):
    AugmentConfig(loss=1.5).freeze()
