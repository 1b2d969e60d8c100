"""Metrics against hand-made signals whose right answer is known."""

import numpy as np
import pytest

from wanstreamer_jax.data.loudness import SILENCE, levels
from wanstreamer_jax.eval import metrics, turns
from wanstreamer_jax.eval.turns import Opportunity

RATE, FPS = 24_000, 25


def tone(seconds: float, amplitude: float = 0.5, hertz: float = 220.0) -> np.ndarray:
  return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def speech_at(*spans: tuple[float, float], seconds: float = 10.0) -> np.ndarray:
  audio = np.zeros(round(seconds * RATE), np.float32)
  for start, end in spans:
    audio[round(start * RATE) : round(end * RATE)] = tone(end - start)
  return audio


def video(seed: int, frames: int = 10) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (frames, 24, 32, 3), np.uint8)


# Pictures


def test_psnr_of_known_error():
  flat = np.full((3, 16, 16, 3), 100, np.uint8)
  assert metrics.psnr(flat, flat + 10) == pytest.approx(20 * np.log10(255 / 10))
  assert metrics.psnr(flat, flat) == metrics.PSNR_CAP


def test_psnr_averages_over_frames_not_errors():
  flat = np.full((2, 16, 16, 3), 100, np.uint8)
  changed = flat.copy()
  changed[0] += 10
  changed[1] += 1
  assert metrics.psnr(flat, changed) == pytest.approx((20 * np.log10(25.5) + 20 * np.log10(255)) / 2)


def test_ssim_of_flat_frames_is_the_luminance_term():
  a, b = np.full((1, 16, 16, 3), 100, np.uint8), np.full((1, 16, 16, 3), 150, np.uint8)
  c1 = 2.55**2
  assert metrics.ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_ssim_orders_distortions():
  clean = np.tile(np.linspace(0, 255, 32).astype(np.uint8)[None, None, :, None], (2, 24, 1, 3))
  noise = np.random.default_rng(0).normal(0, 1, clean.shape)
  scores = [metrics.ssim(clean, np.clip(clean + sigma * noise, 0, 255).astype(np.uint8)) for sigma in (0, 5, 40)]
  assert scores[0] == pytest.approx(1.0)
  assert 1 > scores[1] > scores[2] > 0


# Sound


def test_si_sdr_ignores_scale_and_measures_noise():
  s = tone(1.0)
  orthogonal = tone(1.0, hertz=440.0)
  assert metrics.si_sdr(s, 0.1 * s) > 100
  assert metrics.si_sdr(s, s + 0.1 * orthogonal) == pytest.approx(20.0, abs=0.05)
  assert np.isnan(metrics.si_sdr(np.zeros(RATE), s))


def test_mel_and_spectral_distances_measure_gain_in_db():
  noise = np.random.default_rng(0).normal(0, 0.1, RATE)
  gain = 10 ** (6 / 20)
  assert metrics.log_mel_distance(noise, noise) == 0
  assert metrics.log_mel_distance(noise, gain * noise) == pytest.approx(6.0, abs=1e-3)
  assert metrics.log_spectral_distance(noise, gain * noise) == pytest.approx(6.0, abs=1e-2)


def test_power_of_a_full_scale_sine_is_one_in_its_bin():
  frames = metrics.power_frames(np.sin(2 * np.pi * 40 * np.arange(RATE) / 1024))
  assert frames[:, 40] == pytest.approx(1.0)


def test_mel_frechet_is_zero_for_itself_and_grows_with_the_mean():
  rng = np.random.default_rng(0)
  mel = rng.normal(-40, 5, (200, 80))
  assert metrics.mel_frechet(mel, mel) == pytest.approx(0, abs=1e-6)
  assert metrics.mel_frechet(mel, mel + 20) == pytest.approx(80.0, rel=1e-6)
  assert np.isnan(metrics.mel_frechet(mel, mel[:1]))


def test_loudness_envelope_of_a_square_wave():
  audio = np.concatenate([np.full(960, 0.1), np.zeros(960)])
  assert levels(audio, 2) == pytest.approx([-20.0, SILENCE])


# Sync


ALWAYS = np.ones(200, bool)


def syllables(frames: int = 200) -> np.ndarray:
  rng = np.random.default_rng(3)
  return np.convolve(rng.random(frames + 4), np.ones(5) / 5, "valid")


@pytest.mark.parametrize("frames", [-3, 0, 4])
def test_lip_sync_finds_the_lag(frames):
  opening = syllables()
  loudness = -40 + 30 * opening
  mouth = np.roll(opening, frames)
  lag, score = metrics.lip_sync(mouth, loudness, FPS, ALWAYS)
  assert lag == frames * 1000 / FPS
  assert (score > 0.999) == (frames == 0)


def test_lip_sync_of_a_still_mouth_is_undefined():
  assert all(np.isnan(metrics.lip_sync(np.ones(100), np.linspace(-40, 0, 100), FPS, ALWAYS[:100])))


def test_lip_sync_of_an_inverted_mouth_is_negative():
  opening = syllables()
  assert metrics.lip_sync(-opening, -40 + 30 * opening, FPS, ALWAYS)[1] < -0.999


def test_lip_sync_is_not_that_a_mouth_rests_in_silence():
  speaking = np.arange(200) >= 150
  loudness = np.where(speaking, -40 + 30 * syllables(), -96)
  anyhow = np.where(speaking, syllables()[::-1], 0)
  assert metrics.lip_sync(anyhow, loudness, FPS, ALWAYS)[1] > 0.6
  assert abs(metrics.lip_sync(anyhow, loudness, FPS, speaking)[1]) < 0.4
  assert all(np.isnan(metrics.lip_sync(anyhow, loudness, FPS, ~ALWAYS)))


def test_av_align_of_simultaneous_and_of_unrelated_events():
  frames, events = 100, [10, 30, 55, 80]
  audio, shown = np.full(frames * 960, 1e-3), np.zeros((frames, 8, 8, 3), np.uint8)
  for event in events:
    audio[event * 960 : (event + 2) * 960] = 0.5
    shown[event] = 200
  assert metrics.av_align(audio, shown) == pytest.approx(1.0)
  assert metrics.av_align(audio, np.roll(shown, 10, axis=0)) == 0.0
  assert np.isnan(metrics.av_align(np.zeros(frames * 960), np.zeros_like(shown)))


# Identity


def test_identity_drift_sees_a_change_of_face_at_its_time():
  portrait, stranger = video(1, 1)[0], np.full((24, 32, 3), 30, np.uint8)
  film = np.concatenate([np.repeat(portrait[None], 2 * FPS, 0), np.repeat(stranger[None], 2 * FPS, 0)])
  drift = metrics.identity_drift(portrait, film, FPS, (0.0, 3.0, 9.0))
  for values in drift.values():
    assert values[0] == 0
    assert values[1] > 0.2
    assert np.isnan(values[2])


def test_histogram_ignores_place_and_thumbnail_does_not():
  half = np.zeros((24, 32, 3), np.uint8)
  half[:, :16] = 255
  assert metrics.histogram_distance(half, half[:, ::-1]) == 0
  assert metrics.face_distance(half, half[:, ::-1]) == pytest.approx(1.0)


# Turn-taking


def test_speech_intervals_joins_short_gaps_and_drops_clicks():
  audio = speech_at((1.0, 2.0), (2.2, 3.0), (5.0, 5.04), (7.0, 8.0))
  assert turns.speech_intervals(audio, RATE) == pytest.approx(np.array([[1.0, 3.0], [7.0, 8.0]]))
  assert turns.speech_intervals(np.zeros(RATE), RATE).shape == (0, 2)


@pytest.mark.parametrize(
  ("spans", "words", "expected"),
  [
    ([], [2.1], 0),  # written but not voiced
    ([(2.0, 2.8)], [2.0, 2.4], 0),  # a backchannel
    ([(2.0, 2.8)], [2.0, 2.1, 2.2, 2.3], 1),  # short but wordy
    ([(2.0, 3.5)], [2.0], 1),  # few words but long
    ([(0.0, 0.9), (9.0, 9.5)], [], 0),  # outside
  ],
)
def test_take_over(spans, words, expected):
  assert turns.take_over(np.array(spans).reshape(-1, 2), words, 1.0, 5.0) == expected


@pytest.mark.parametrize(
  ("kind", "spans", "right"),
  [
    ("hand_off", [(2.5, 4.0)], 1),
    ("hand_off", [], 0),
    ("hand_off", [(0.0, 9.0)], 0),  # never stops talking
    ("hand_off", [(3.6, 5.0)], 0),  # begins after more than 1.5 s
    ("hand_off", [(1.6, 4.0)], 1),  # 0.4 s early
    ("hand_off", [(1.3, 4.0)], 0),  # 0.7 s early: into the user's turn
    ("hand_off", [(0.6, 0.9), (2.5, 4.0)], 0),  # said something in the user's turn
    ("hand_off", [(2.3, 2.7)], 1),  # as long as a short answer
    ("hand_off", [(2.3, 2.5)], 0),  # a word of 0.2 s
    ("hand_off", [(2.3, 2.5), (4.7, 4.9)], 0),  # and another: together they span more than a second
    ("stay_silent", [], 1),
    ("stay_silent", [(2.5, 4.0)], 0),
    ("stay_silent", [(2.5, 3.0)], 0),  # one short word
    ("stay_silent", [(1.0, 3.0)], 1),  # began before
    ("yield", [(0.0, 2.5)], 1),  # stops half a second into the interruption
    ("yield", [(0.0, 6.0)], 0),
    ("yield", [(0.0, 2.1), (2.5, 6.0)], 0),  # takes a breath and goes on
    ("yield", [(0.0, 1.8), (2.2, 6.0)], 0),  # and is interrupted while it does
    ("yield", [], None),  # nothing to yield
    ("continue", [(0.0, 6.0)], 1),
    ("continue", [(0.0, 2.5)], 0),
    ("backchannel", [(2.5, 3.0)], 1),
    ("backchannel", [(2.5, 4.5)], 0),
  ],
)
def test_turn_taking(kind, spans, right):
  end = 2.5 if kind == "yield" else 5.0
  talk = turns.Talk(np.array(spans).reshape(-1, 2), [2.6])
  hits = turns.turn_taking([Opportunity(kind, 2.0, end, turn=0.5, seconds=0.3)], talk)
  assert hits == ({"all": []} if right is None else {"all": [right], kind: [right]})


def test_four_short_words_are_at_length_but_need_a_sound():
  opportunity, words = Opportunity("hand_off", 2.0, 5.0), [2.0, 2.1, 2.2, 2.3]
  for seconds, right in ((0.6, True), (0.2, False)):
    assert turns.hand_off(opportunity, turns.Talk(np.array([[2.3, 2.3 + seconds]]), words)) is right
  assert not turns.hand_off(opportunity, turns.Talk(np.array([[2.3, 2.9]]), words[:3]))


def test_a_backchannel_does_not_break_the_silence():
  opportunity, speech = Opportunity("stay_silent", 2.0, 5.0), np.array([[2.5, 3.0]])
  assert turns.turn_taking([opportunity], turns.Talk(speech, [], [2.3]))["all"] == [1]
  assert turns.turn_taking([opportunity], turns.Talk(speech, [2.5], [2.3]))["all"] == [0]
  assert turns.turn_taking([opportunity], turns.Talk(speech, [], []))["all"] == [0]  # a sound without a word
  assert turns.turn_taking([opportunity], turns.Talk(speech * [[1, 1.2]], [], [2.3]))["all"] == [0]  # too long for one


@pytest.mark.parametrize(
  ("answer", "seconds"), [(("red",), 0.25), (("banana",), 0.36), (("red",) * 9, 1.0), ((), 0.25)]
)
def test_an_answer_takes_as_long_as_its_letters(answer, seconds):
  assert turns.answer_seconds(answer) == pytest.approx(seconds)


def test_latencies():
  speech = np.array([[1.0, 3.0], [6.0, 8.0]])
  assert turns.response_latency(5.2, 9.0, speech) == pytest.approx(0.8)
  assert turns.response_latency(6.5, 9.0, speech) == 0.0  # began half a second early
  assert turns.response_latency(3.5, 5.0, speech) is None
  assert turns.stop_latency(2.5, speech) == pytest.approx(0.5)
  assert turns.stop_latency(4.0, speech) is None


def test_a_backchannel_is_no_answer():
  noise, long = np.array([[5.5, 5.9]]), np.array([[5.5, 6.9]])
  assert turns.response_latency(5.2, 9.0, noise) == pytest.approx(0.3)
  assert turns.answer_latency(5.2, 9.0, noise, []) is None
  assert turns.answer_latency(5.2, 9.0, noise, [2.0]) is None  # written long before
  assert turns.answer_latency(5.2, 9.0, noise, [5.4]) == pytest.approx(0.3)
  assert turns.answer_latency(5.2, 9.0, long, []) == pytest.approx(0.3)


def test_false_take_overs_and_overlap():
  speech = np.array([[1.0, 3.0], [6.0, 8.0]])
  assert turns.false_take_overs(np.array([[0.5, 1.5], [3.0, 3.5], [0.0, 1.05]]), speech) == [1, 0, 0]
  assert turns.overlap(speech, np.array([[2.0, 7.0]])) == pytest.approx(2.0)
  assert turns.talk_share(speech, 10.0) == pytest.approx(0.4)
