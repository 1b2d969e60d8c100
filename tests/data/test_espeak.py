"""espeak-ng voices: repeatable speech with true times, and worlds in which half of the users speak with them.

Tests that speak need the extra: pip install 'wanstreamer-jax[espeak]'.
"""

import functools
import importlib.util
import itertools
import json
import pathlib
import sys
import time

import numpy as np
import pytest

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world import espeak
from wanstreamer_jax.data.duplex_world.phones import PHONES, SILENCE
from wanstreamer_jax.data.duplex_world.source import DuplexSource
from wanstreamer_jax.data.duplex_world.speech import synthesise
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.duplex_world.voices import user_voice
from wanstreamer_jax.data.duplex_world.world import WorldConfig, cast, make_session, vocabulary
from wanstreamer_jax.errors import ConfigError, DataError

RATE = 24_000
STOPS = ("P", "T", "K", "B", "D", "G")
SENTENCES = (
  "what is , the colour", "i had some tea , and then an apple", "please count to ten", "papa mama tata banana",
  "tell me , where you live in the house of a dog",
)  # fmt: skip
MIXED_ENGINES = ("formant", "espeak")
needs_espeak = pytest.mark.skipif(
  importlib.util.find_spec("espeakng_loader") is None, reason="the extra espeak is not installed"
)


def voice_of(variant: str, semitones: float = 0.0) -> Voice:
  return Voice(variant, espeak.PITCHES[variant] * 2 ** (semitones / 12), engine="espeak", variant=variant)


@functools.cache
def said(text: str, variant: str = "m3", semitones: float = 0.0):
  return synthesise(text.split(), voice_of(variant, semitones), RATE)


def loudness(utterance, phone) -> float:
  return float(np.sqrt(np.mean(utterance.audio[round(phone.start * RATE) : round(phone.end * RATE)] ** 2)))


def pitch(utterance) -> float:
  """Median over vowels of the first high peak of the autocorrelation, in Hz."""
  found = []
  for phone in utterance.phones:
    middle = round((phone.start + phone.end) / 2 * RATE)
    if not PHONES[phone.name].vowel or phone.end - phone.start < 0.06 or middle < 600:
      continue
    window = np.hanning(1200)
    pieces = np.stack([utterance.audio[middle - 600 : middle + 600] * window, window])
    lags = np.divide(*np.fft.irfft(np.abs(np.fft.rfft(pieces, 4096)) ** 2)[:, RATE // 400 : RATE // 60])
    peaks = (lags[1:-1] > lags[:-2]) & (lags[1:-1] >= lags[2:]) & (lags[1:-1] > 0.85 * lags[1:-1].max())
    found.append(RATE / (RATE // 400 + 1 + int(np.argmax(peaks))))
  return float(np.median(found))


@needs_espeak
@pytest.mark.parametrize("variant", ["m3", "Andy", "paul", "f2", "Alicia", "f4", "m6"])
@pytest.mark.parametrize("semitones", [-2.0, 2.0])
def test_a_voice_has_the_pitch_that_it_states(variant, semitones):
  utterance = said("my mother gave me an apple and a banana near the river", variant, semitones)
  assert abs(np.log2(pitch(utterance) / voice_of(variant, semitones).pitch)) < 1.5 / 12


@needs_espeak
@pytest.mark.parametrize("variant", ["m3", "f2"])
def test_phones_cover_the_sound_and_vowels_are_louder_than_stops(variant):
  vowels, stops, pauses = [], [], []
  for text in SENTENCES:
    utterance = said(text, variant)
    phones = utterance.phones
    assert phones[0].start == 0
    assert all(a.end == b.start and a.start < a.end for a, b in itertools.pairwise(phones))
    assert abs(phones[-1].end - len(utterance.audio) / RATE) < 1 / 1000
    for phone in phones:
      kind = vowels if PHONES[phone.name].vowel else stops if phone.name in STOPS else pauses
      if (kind is not pauses or phone.name == SILENCE) and phone.end - phone.start > 0.02:
        kind.append(loudness(utterance, phone))
  assert min(len(vowels), len(stops), len(pauses)) >= 3
  assert np.median(vowels) > 3.5 * np.median(stops)
  assert max(pauses) < 0.05 * np.median(vowels)


@needs_espeak
def test_phones_are_those_of_the_words():
  names = [phone.name for phone in said("papa mama tata banana").phones if phone.name != SILENCE]
  assert names[:4] == ["P", "AA", "P", "AX"]
  assert names.count("M") == 2
  assert names[-6:-4] == ["B", "AX"]
  assert "HH" in [phone.name for phone in said("mhm").phones]  # hummed, not spelled


@pytest.mark.parametrize(
  ("mnemonic", "phones"),
  [("'aI", ("AY",)), (",A@", ("AA", "R")), ("_:", (SILENCE,)), ("", (SILENCE,)), ("l/2", ("L",)), ("Q9", ("AX",))],
)
def test_mnemonics_are_translated_unknown_ones_to_what_is_near(mnemonic, phones):
  assert espeak.translated(mnemonic) == phones


def test_every_translation_is_a_phone_with_a_mouth():
  assert {phone for phones in espeak.MNEMONICS.values() for phone in phones} <= set(PHONES)


@needs_espeak
def test_words_have_times_in_order_and_pauses_are_between_them():
  for text in SENTENCES:
    utterance = said(text)
    words = utterance.words
    assert [word.text for word in words] == [word for word in text.split() if word != ","]
    assert all(word.start < word.end for word in words)
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(words))
  second = said("what is , the colour").words[1:3]
  assert second[1].start - second[0].end > 0.1
  apple = said("i had some tea , and then an apple").words[-1]
  own = [p.name for p in said("i had some tea , and then an apple").phones if apple.start <= p.start < apple.end]
  assert own == ["AE", "P", "AX", "L"]


@needs_espeak
def test_every_word_of_the_world_can_be_said():
  words = [word for word in vocabulary() if not word.startswith("(")]
  for first in range(0, len(words), 30):
    some = words[first : first + 30]
    timed = synthesise(some, voice_of("m3"), RATE).words
    assert [word.text for word in timed] == some
    assert all(0.02 < word.end - word.start < 1.2 for word in timed)


@needs_espeak
def test_speech_is_a_pure_function_of_its_arguments_at_any_time_and_in_any_order():
  texts = [text.split() for text in SENTENCES[:3]]
  first = [synthesise(words, voice_of("f2"), RATE, seed=5) for words in texts]
  time.sleep(1.1)  # the library would seed its noise from the seconds of the clock
  again = [synthesise(words, voice_of("f2"), RATE, seed=5) for words in reversed(texts)][::-1]
  for a, b in zip(first, again):
    assert np.array_equal(a.audio, b.audio)
    assert (a.phones, a.words) == (b.phones, b.words)
  assert not np.array_equal(first[0].audio, synthesise(texts[0], voice_of("f2"), RATE, seed=6).audio)


@needs_espeak
@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
def test_the_sample_rate_does_not_move_times(rate):
  utterance = synthesise(["papa", "mama"], voice_of("m3"), rate)
  assert utterance.audio.dtype == np.float32
  assert abs(len(utterance.audio) / rate - len(said("papa mama").audio) / RATE) < 1e-3
  assert utterance.phones == said("papa mama").phones


@needs_espeak
def test_questions_rise_and_pace_is_tempo():
  words, voice = ["is", "it", "red"], voice_of("m3")
  statement, question = (synthesise(words, voice, RATE, question=q) for q in (False, True))
  assert not np.array_equal(statement.audio, question.audio)
  assert len(synthesise(words, voice, RATE, pace=1.5).audio) < 0.8 * len(statement.audio)


@needs_espeak
def test_a_data_folder_with_a_long_name_works(tmp_path, monkeypatch):
  library, data = espeak.require()
  folder = tmp_path / ("long" * 50)
  folder.mkdir()
  (folder / "espeak-ng-data").symlink_to(data)
  monkeypatch.setattr(espeak, "require", lambda: (library, str(folder / "espeak-ng-data")))
  assert np.array_equal(synthesise(["papa", "mama"], voice_of("m3"), RATE).audio, said("papa mama").audio)


@needs_espeak
def test_what_cannot_be_spoken_is_refused():
  with pytest.raises(DataError, match="cannot pronounce '42'"):
    synthesise(["42"], voice_of("m3"), RATE)
  with pytest.raises(DataError, match="variant is 'robosoft': expected one of m1"):
    synthesise(["hello"], Voice("x", engine="espeak", variant="robosoft"), RATE)


@needs_espeak
def test_what_the_library_refuses_is_an_error_with_its_reason(monkeypatch):
  monkeypatch.setattr(espeak, "require", lambda: (espeak.__file__, "nowhere"))
  with pytest.raises(DataError, match=r"espeak-ng cannot speak 'hello\.' as en-us\+m3: OSError"):
    synthesise(["hello"], voice_of("m3"), RATE)


@needs_espeak
def test_every_variant_exists():
  files = {path.name for path in (pathlib.Path(espeak.require()[1]) / "voices" / "!v").iterdir()}
  assert set(espeak.PITCHES) <= files


def test_training_and_held_out_variants_are_disjoint():
  trained, kept = ({name for group in groups for name in group} for groups in (espeak.TRAINING, espeak.HELD_OUT))
  assert not trained & kept
  drawn = {held_out: set() for held_out in (False, True)}
  rng = np.random.default_rng(0)
  for held_out in itertools.islice(itertools.cycle([False, True]), 800):
    drawn[held_out] |= {user_voice(rng, held_out, MIXED_ENGINES).variant} - {""}
  assert drawn == {False: trained, True: kept}


def test_half_of_the_users_are_espeak_voices_and_half_of_these_are_women():
  rng = np.random.default_rng(1)
  voices = [user_voice(rng, False, MIXED_ENGINES) for _ in range(600)]
  variants = [voice.variant for voice in voices if voice.engine == "espeak"]
  assert 0.44 < len(variants) / 600 < 0.56
  assert 0.4 < sum(name in espeak.TRAINING[1] for name in variants) / len(variants) < 0.6


def without_library(monkeypatch):
  monkeypatch.setitem(sys.modules, "espeakng_loader", None)


def test_a_missing_library_is_told_before_anything_is_rendered(monkeypatch):
  without_library(monkeypatch)
  config = Config()
  DuplexSource.of(config, "train", 0, 1)  # formant voices need nothing
  config.data.voices = "mixed"
  with pytest.raises(ConfigError, match=r"pip install 'wanstreamer-jax\[espeak\]'"):
    DuplexSource.of(config.freeze(), "train", 0, 1)
  with pytest.raises(ConfigError, match="or set data.voices to 'formant'"):
    WorldConfig(voices="mixed")
  with pytest.raises(ConfigError, match="not installed"):
    synthesise(["hello"], voice_of("m3"), RATE)


def test_other_voices_are_refused_with_both_names():
  config = Config()
  for voices in ("festival", "formant,formant", "formant,mixed", ""):
    config.data.voices = voices
    with pytest.raises(ConfigError, match=rf"data\.voices is '{voices}': expected engines once each, with commas, of"):
      config.freeze()
    with pytest.raises(ConfigError, match=f"voices is '{voices}': expected engines once each, with commas, of"):
      WorldConfig(voices=voices)


@needs_espeak
def test_a_manifest_says_which_voices_and_which_library():
  config = Config()
  formant = DuplexSource.of(config, "train", 0, 1).describe()
  config.data.voices = "mixed"
  mixed = json.loads(json.dumps(DuplexSource.of(config, "train", 0, 1).describe()))
  assert (formant["world"]["voices"], mixed["world"]["voices"]) == ("formant", "mixed")
  assert mixed["espeak"] == espeak.version()
  assert "espeak" not in formant


MIXED = {"units": 60, "height": 8, "width": 8, "voices": "mixed"}


def espeak_seed(split: str) -> int:
  return next(s for s in range(40) if cast(s, WorldConfig(**MIXED), split).user.voice.engine == "espeak")


@needs_espeak
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_mixed_session_renders_repeats_and_the_user_mouth_moves_with_the_voice(split):
  seed, world = espeak_seed(split), WorldConfig(**MIXED)
  session, again = (make_session(seed, world, split) for _ in range(2))
  assert np.array_equal(session.user.audio, again.user.audio)
  assert np.array_equal(session.user.video, again.user.video)
  assert session.events == again.events
  loud = np.sqrt(np.mean(session.user.audio.reshape(240, 960) ** 2, axis=1))
  mouth, speaking = session.user.tracks["mouth"], session.user.tracks["speaking"] > 0
  assert speaking.sum() > 10
  assert np.corrcoef(loud, mouth)[0, 1] > 0.6
  assert loud[speaking].mean() > 4 * loud[~speaking].mean()
  assert cast(seed, world, split).agent.voice.engine == "formant"


@needs_espeak
def test_only_the_voice_of_the_user_is_another_in_a_mixed_world():
  seed = espeak_seed("train")
  mixed, formant = (cast(seed, WorldConfig(**(MIXED | {"voices": voices}))) for voices in ("mixed", "formant"))
  assert mixed.user.voice != formant.user.voice
  assert mixed.user.appearance == formant.user.appearance
  assert (mixed.agent.voice, mixed.echo_gain, mixed.noise) == (formant.agent.voice, formant.echo_gain, formant.noise)
