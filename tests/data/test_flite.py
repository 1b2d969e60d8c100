"""flite voices: repeatable speech with the program's times, in many sizes. Skipped where flite is not installed."""

import shutil

import numpy as np
import pytest

from wanstreamer_jax.data.duplex_world import flite
from wanstreamer_jax.data.duplex_world.flite_library import Library
from wanstreamer_jax.data.duplex_world.phones import PHONES, SILENCE
from wanstreamer_jax.data.duplex_world.speech import synthesise
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.duplex_world.voices import agent_voice, engines_of, user_voice, versions
from wanstreamer_jax.data.duplex_world.world import WorldConfig, cast
from wanstreamer_jax.errors import ConfigError, DataError

RATE = 24_000
WORDS = ["hello", ",", "i'm", "ada", "mhm", "i", "see", "two", "green", "stars", "and", "it", "is", "a"]
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="the program flite is not installed")


def voice_of(speaker: str = "slt", **changes) -> Voice:
  fields = {"pitch": flite.SPEAKERS[speaker][0], "engine": "flite", "variant": speaker}
  return Voice(speaker, **(fields | changes))


def pitch_of(audio: np.ndarray) -> float:
  """The median over loud windows of the highest peak of the autocorrelation."""
  found = []
  for start in range(0, len(audio) - 2048, 512):
    window = audio[start : start + 2048] * np.hanning(2048)
    power = np.fft.irfft(np.abs(np.fft.rfft(window, 8192)) ** 2)
    lag = 60 + int(np.argmax(power[60:369]))
    if np.sqrt(np.mean(window**2)) > 0.03 and power[lag] > 0.5 * power[0]:
      found.append(RATE / lag)
  return float(np.median(found))


def centroid(audio: np.ndarray) -> float:
  power = np.abs(np.fft.rfft(audio)) ** 2
  return float((power * np.fft.rfftfreq(len(audio), 1 / RATE)).sum() / power.sum())


@needs_flite
@pytest.mark.parametrize("speaker", flite.SPEAKERS)
def test_speech_repeats_with_words_in_order_and_phones_without_gaps(speaker):
  one = synthesise(WORDS, voice_of(speaker), RATE, seed=3)
  flite._ask.cache_clear()
  other = synthesise(WORDS, voice_of(speaker), RATE, seed=3)
  assert np.array_equal(one.audio, other.audio)
  assert (one.phones, one.words) == (other.phones, other.words)
  assert [word.text for word in one.words] == [word for word in WORDS if word != ","]
  assert all(a.end <= b.start + 1e-9 and a.start < a.end for a, b in zip(one.words, one.words[1:]))
  assert {phone.name for phone in one.phones} <= set(PHONES)
  assert [phone.start for phone in one.phones] == [0.0, *(phone.end for phone in one.phones[:-1])]
  assert one.phones[-1].end == pytest.approx(len(one.audio) / RATE, abs=1e-3)
  assert not np.array_equal(one.audio, synthesise(WORDS, voice_of(speaker), RATE, seed=4).audio)


@needs_flite
def test_sound_is_where_phones_are():
  speech = synthesise(WORDS, voice_of(), RATE)
  loudness = {
    phone: np.sqrt(np.mean(speech.audio[round(phone.start * RATE) : round(phone.end * RATE)] ** 2))
    for phone in speech.phones
  }
  silent = [value for phone, value in loudness.items() if phone.name == SILENCE]
  vowels = [value for phone, value in loudness.items() if PHONES[phone.name].vowel]
  assert np.median(vowels) > 2.5 * max(silent)
  hello = speech.words[0]
  assert {p.name for p in speech.phones if hello.start <= p.start < hello.end} == {"HH", "AX", "L", "OW"}


@needs_flite
def test_pitch_tempo_and_size_are_as_asked():
  plain = synthesise(WORDS, voice_of(), RATE)
  higher = synthesise(WORDS, voice_of(pitch=1.3 * flite.SPEAKERS["slt"][0]), RATE)
  larger = synthesise(WORDS, voice_of(size=0.85), RATE)
  assert pitch_of(higher.audio) / pitch_of(plain.audio) == pytest.approx(1.3, rel=0.06)
  assert pitch_of(larger.audio) / pitch_of(plain.audio) == pytest.approx(1, rel=0.06)
  assert len(larger.audio) / len(plain.audio) == pytest.approx(1, rel=0.06)
  assert len(synthesise(WORDS, voice_of(rate=1.25), RATE).audio) / len(plain.audio) == pytest.approx(0.8, rel=0.06)
  assert centroid(larger.audio) < 0.93 * centroid(plain.audio)


@needs_flite
def test_training_never_has_the_users_that_are_kept():
  rng = np.random.default_rng(0)
  trained, kept = ([user_voice(rng, held_out, ("flite",)) for _ in range(200)] for held_out in (False, True))
  semitones = lambda voice: 12 * np.log2(voice.pitch / flite.SPEAKERS[voice.variant][0])
  assert {voice.variant for voice in trained} == {"slt", "rms", "kal16"}
  assert not any(2.0 < semitones(voice) < 3.5 for voice in trained)
  assert all(voice.variant == "awb" or 2.0 <= semitones(voice) <= 3.5 for voice in kept)
  assert {voice.variant for voice in kept} == {"slt", "rms", "kal16", "awb"}
  engines = {agent_voice(rng, False, ("formant", "flite")).engine for _ in range(40)}
  assert engines == {"formant", "flite"}
  assert versions(engines_of("formant,flite"))["flite"]


@needs_flite
def test_what_cannot_be_spoken_is_refused():
  with pytest.raises(DataError, match="flite voice is 'bob': expected one of slt"):
    synthesise(["hello"], Voice("x", engine="flite", variant="bob"), RATE)
  with pytest.raises(DataError, match="cannot pronounce '7'"):
    synthesise(["7"], voice_of(), RATE)


def test_a_missing_program_is_told_with_the_command_that_installs_it(monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda name: None)
  with pytest.raises(ConfigError, match=r"not installed: apt-get install flite .*or set data.voices to 'formant'"):
    WorldConfig(voices="formant,flite")


@needs_flite
def test_agents_may_speak_by_another_engine_than_users():
  world = WorldConfig(size="full", units=30, voices="formant", agent_voices="flite")
  players = cast(3, world)
  assert (players.user.voice.engine, players.agent.voice.engine) == ("formant", "flite")


@needs_flite
def test_the_library_speaks_as_the_program_and_where_it_cannot_the_program_speaks(monkeypatch, tmp_path):
  try:
    library = Library(None, tuple(flite.SPEAKERS))
  except OSError:
    pytest.skip("flite has no shared libraries here")
  assert flite._library() is not None
  settings = (120.0, 11.5, 0.97)
  for speaker in flite.SPEAKERS:
    for text in ("hello", "what do you see, please", "hello"):
      assert flite._same(library.speak(text, speaker, settings), flite._by_process(text, speaker, settings))
  assert not flite._same(library.speak("hello", "slt", settings), flite._by_process("hello", "rms", settings))
  one = flite.speak(WORDS, voice_of(), RATE, 3, 1.0)
  monkeypatch.setattr(flite, "_library", lambda: None)
  flite._ask.cache_clear()
  assert np.array_equal(one[0], flite.speak(WORDS, voice_of(), RATE, 3, 1.0)[0])
  with pytest.raises(OSError, match="libasound"):
    Library(tmp_path, ("slt",))
