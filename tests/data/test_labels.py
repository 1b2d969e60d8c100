"""What records know of the user: labels of a session made by hand, of the world, of recordings and of older records."""

import dataclasses

import numpy as np
import pytest

from tests.helpers.fake_sessions import FakeSource, fake_session, small_config
from wanstreamer_jax.config import Config
from wanstreamer_jax.data import labels
from wanstreamer_jax.data.duplex_world import lexicon, things
from wanstreamer_jax.data.loader import Loader
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.session import USER, Event, Word
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.errors import ConfigError, DataError

UNIT = 0.16
TOKENIZER = tokenizer_of(Config())


def session(*events: Event, units: int = 10, complete: bool = True, **user):
  made = fake_session(0, small_config(), units)
  return dataclasses.replace(made, events=events, events_complete=complete, user=dataclasses.replace(made.user, **user))


def event(kind: str, start: float, end: float | None = None, **detail) -> Event:
  """Times in units."""
  return Event(start * UNIT, (start if end is None else end) * UNIT, USER, kind, detail)


def named(found: np.ndarray, kind: str) -> list[str]:
  """The labels of a kind as names, "?" where unknown."""
  number = labels.NAMES.index(kind)
  classes = labels.KINDS[number].classes
  return ["?" if value < 0 else classes[value] for value in found[:, number]]


def test_what_is_held_is_known_while_it_is_still():
  thing = {"shape": "star", "colour": "red", "count": 2, "place": "up"}
  events = (event("raise", 2.0, 4.5, **thing), event("lower", 7.2, 8.2))
  found = labels.session_labels(session(*events), TOKENIZER, UNIT)
  assert named(found, "shape") == ["nothing"] * 2 + ["?"] * 3 + ["star"] * 2 + ["?"] * 2 + ["nothing"]
  assert named(found, "count")[5] == "2"
  assert named(found, "place")[5] == "up"
  assert named(found, "shape2") == ["nothing"] * 2 + ["?"] * 3 + ["nothing"] * 2 + ["?"] * 2 + ["nothing"]


def test_of_two_things_the_left_one_is_the_first():
  things = {"shape": "b", "colour": "red", "count": 1, "place": "right"}
  others = {"shape2": "7", "colour2": "blue", "count2": 1, "place2": "left"}
  found = labels.session_labels(session(event("raise", 0.0, 1.0, **things, **others)), TOKENIZER, UNIT)
  assert [named(found, kind)[2] for kind in ("shape", "colour", "place")] == ["7", "blue", "left"]
  assert [named(found, kind)[2] for kind in ("shape2", "colour2", "place2")] == ["b", "red", "right"]


def test_what_a_raise_does_not_say_is_unknown():
  found = labels.session_labels(session(event("raise", 0.0, 1.0, shape="cube", colour="red")), TOKENIZER, UNIT)
  assert [named(found, kind)[3] for kind in ("shape", "colour", "count", "place")] == ["?", "red", "?", "?"]


def test_an_act_stands_in_the_unit_in_which_it_is_complete():
  events = (
    event("question", 2.4, act="sum"), event("question", 5.0, act="name", typed=True), event("cough", 6.0, 7.0),
    event("statement", 7.0, 8.0), event("question", 8.0, act="colour"), event("interrupt", 8.2, 9.5),
  )  # fmt: skip
  found = labels.session_labels(session(*events), TOKENIZER, UNIT)
  assert named(found, "act") == ["none", "none", "sum", "none", "none", "name", "cough", "colour", "none", "stop"]


def test_a_gesture_fills_at_least_half_of_a_unit():
  events = (event("gesture", 1.4, 3.3, name="wave"), event("face", 5.0, 6.0, name="smile"))
  found = labels.session_labels(session(*events), TOKENIZER, UNIT)
  assert named(found, "gesture") == ["none", "wave", "wave", "?", "none", "smile", "none", "none", "none", "none"]


def test_a_word_stands_in_the_unit_in_which_it_ends():
  words = (Word("red", 0, 0.2 * UNIT, 1.5 * UNIT), Word("star", 0, 1.5 * UNIT, 3.0 * UNIT))
  found = labels.session_labels(session(speech=words, units=4), TOKENIZER, UNIT)[:, labels.NAMES.index("word")]
  assert found.tolist() == [
    TOKENIZER.pad_id,
    *TOKENIZER.encode_word("red"),
    *TOKENIZER.encode_word("star"),
    TOKENIZER.pad_id,
  ]


def test_of_a_recording_only_the_words_are_known():
  """And of those only where there is a transcript, and nothing past its end."""
  known = np.array([True, True, False, False])
  made = session(event("raise", 0.0, 1.0, shape="star"), units=4, complete=False, text_valid=known)
  found = labels.session_labels(dataclasses.replace(made, length=3), TOKENIZER, UNIT)
  word = labels.NAMES.index("word")
  assert np.all(np.delete(found, word, axis=1) == labels.UNKNOWN)
  assert found[:, word].tolist() == [TOKENIZER.pad_id, TOKENIZER.pad_id, labels.UNKNOWN, labels.UNKNOWN]


def test_the_classes_have_what_the_world_shows():
  assert set(things.SHAPES) < set(labels.SHAPES)
  assert set(things.COLOURS) <= set(labels.COLOURS)
  assert things.PLACES == labels.PLACES
  assert {*lexicon.GESTURES, *lexicon.FACES} == set(labels.GESTURES)


def test_heads_of_another_size_are_refused():
  labels.check_sizes(Config())
  config = Config()
  config.readouts.acts += 1
  with pytest.raises(ConfigError, match="set readouts.acts to"):
    labels.check_sizes(config)


def made_folder(tmp_path):
  config = small_config()
  make(config, FakeSource(config, 3), tmp_path / "media", progress=False)
  return config, RecordFolder(tmp_path / "media")


def test_records_keep_labels_and_count_them(tmp_path):
  config, folder = made_folder(tmp_path)
  assert folder.manifest["labels"] == labels.for_manifest()
  stored = folder.read_units(1)
  made = labels.session_labels(fake_session(1, config, 8), TOKENIZER, UNIT)
  np.testing.assert_array_equal(stored[labels.FIELD], made)
  counts = labels.class_counts([folder.manifest, folder.manifest], TOKENIZER.vocab_size)
  assert counts["shape"].sum() == 0
  assert counts["word"][TOKENIZER.pad_id] == counts["word"].sum() == 2 * 3 * 8
  tokens = labels.token_counts([folder.manifest], TOKENIZER.vocab_size)
  assert tokens[TOKENIZER.encode_word("red")[0]] == 3
  assert tokens.sum() == folder.manifest["stats"]["text"]["agent"]["tokens"]


def test_kinds_and_classes_are_read_by_name(tmp_path):
  _, folder = made_folder(tmp_path)
  units, stated = folder.read_units(0).copy(), labels.for_manifest() | {"shape": ["nothing", "star", "circle"]}
  units[labels.FIELD], last = labels.UNKNOWN, len(labels.KINDS) - 1 - labels.NAMES.index("shape")
  units[labels.FIELD][:4, last] = [0, 1, 2, -1]
  found = labels.stored_labels(units, {"labels": {name: stated[name] for name in reversed(stated)}})
  assert named(found, "shape") == ["nothing", "star", "circle", *"?????"]
  assert set(named(found, "colour")) == {"?"}
  with pytest.raises(DataError, match="class 'cube' of 'shape'"):
    labels.stored_labels(units, {"labels": stated | {"shape": ["nothing", "cube"]}})


def test_older_records_know_nothing(tmp_path):
  config, folder = made_folder(tmp_path)
  units = folder.read_units(0)
  older = units[[name for name in units.dtype.names if name != labels.FIELD]]
  assert np.all(labels.stored_labels(older, {}) == labels.UNKNOWN)
  batch = Loader(folder.path, config, fields=["user_text", labels.FIELD]).batch_at(0)
  assert batch[labels.FIELD].shape == (config.data.batch, config.data.units, len(labels.KINDS))


def test_a_word_of_several_tokens_is_unknown():
  """Its first token may be another word, as "s" is of "south"."""
  said = tuple(Word(text, i * UNIT, i * UNIT, (i + 1) * UNIT) for i, text in enumerate(("red", "south", "star")))
  heard = labels.session_labels(session(speech=said), TOKENIZER, UNIT)[:, labels.NAMES.index("word")]
  assert len(TOKENIZER.encode_typed("south")) > 1
  red, star = (TOKENIZER.encode_typed(text)[0] for text in ("red", "star"))
  assert heard.tolist() == [red, labels.UNKNOWN, star, *7 * [TOKENIZER.pad_id]]
