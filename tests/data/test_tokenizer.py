"""Tokenizer: every text comes back, known words are one token, control tokens never come from text."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.build_tokenizer import build_tokenizer
from wanstreamer_jax.data.duplex_world.world import vocabulary
from wanstreamer_jax.data.tokenizer import CUT, HALF, PAD, Keyboard, TextStream, TextTokenizer
from wanstreamer_jax.errors import DataError

TEXTS = (
  "", " ", "red", " red", "  it is  red\n\tso ", "(nods) it is red?", "name: Ada. likes: tea.", "don't  can’t",
  "日本語 العربية עברית ไทย 한국어", "e\u0301 vs \u00e9", "🙂👩‍👩‍👧", "\x00\x07\u2028\ufeff", "<cut> <pad> <unk>",
  "(unclosed ()) ((x))", "1234567890 3.14",
)  # fmt: skip


@pytest.fixture(scope="module")
def shipped():
  return TextTokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(shipped, text):
  ids = shipped.encode(text)
  assert shipped.decode(ids) == text
  assert not shipped.control_ids & set(ids)


def test_random_unicode_comes_back(shipped):
  rng = np.random.default_rng(0)
  for length in range(1, 60):
    points = rng.choice(np.r_[32:0x3000, 0x4E00:0x9FFF, 0x1F300:0x1F6FF], length)
    text = "".join(map(chr, points))
    assert shipped.decode(shipped.encode(text)) == text


def test_shipped_file_fits_the_default_model(shipped):
  assert shipped.vocab_size <= Config().model.vocab
  assert (shipped.pad_id, shipped.cut_id, len(shipped.control_ids)) == (0, 1, 3)


def test_every_word_of_the_world_is_one_token_of_the_shipped_file(shipped):
  """Red after a change of the world's words: run `python -m wanstreamer_jax.data.tokenizer_build`."""
  several = [word for word in vocabulary() if len(shipped.encode_word(word)) != 1]
  assert several == []


def test_vocabulary_words_are_one_token_wherever_they_stand(tmp_path):
  words = ["red", "don't", "twenty-one", "(nods)", "(shakes head)", "seven", "?", "7"]
  build_tokenizer(words, 512).save(str(tmp_path / "t.json"))
  tokenizer = TextTokenizer(tmp_path / "t.json")
  ids = [tokenizer.encode(word) for word in words]
  assert all(len(i) == 1 for i in ids)
  spoken = " ".join(words[:6])
  assert tokenizer.encode(spoken) == [i[0] for i in ids[:6]]
  assert tokenizer.encode("so " + spoken)[-6:] == [i[0] for i in ids[:6]]
  assert tokenizer.vocab_size <= 512


def test_cut_is_a_control_token_only_as_a_word(shipped):
  assert shipped.encode_word(CUT) == [shipped.cut_id]
  assert shipped.cut_id not in shipped.encode(CUT)
  assert shipped.cut_id not in Keyboard(shipped, 9)([CUT])  # typed by a user
  ids = [*shipped.encode_word("red"), shipped.cut_id, *shipped.encode_word("blue"), shipped.pad_id]
  assert shipped.decode(ids) == "red blue"
  assert shipped.captions(ids) == "red <cut> blue"
  assert shipped.captions([shipped.pad_id]) == ""


def test_a_stream_of_ids_is_whole_words_when_joined(shipped):
  text = "red naïve 日本語 (nods) <cut> blue 👋🏽 done."
  ids = [i for word in text.split() for i in shipped.encode_word(word)]
  for size in (1, 2, 3, len(ids)):
    stream = TextStream(shipped)
    pieces = [stream(ids[begin : begin + size]) for begin in range(0, len(ids), size)]
    assert "".join(pieces) == " " + text
    assert HALF not in "".join(pieces)
  stream = TextStream(shipped)
  assert [stream(shipped.encode_word("red")), stream([shipped.pad_id] * 2), stream([])] == [" red", "", ""]


def test_typed_text_waits_for_slots(shipped):
  keyboard = Keyboard(shipped, 2)
  one = {word: shipped.encode_word(word)[0] for word in ("red", "blue", "green")}
  pad = shipped.pad_id
  assert keyboard(["red blue", "green"]).tolist() == [one["red"], one["blue"]]
  assert keyboard([]).tolist() == [one["green"], pad]
  assert keyboard([]).tolist() == [pad, pad]


def test_build_is_deterministic_and_refuses_what_cannot_be():
  words = ["red", "green", "(nods)"]
  assert build_tokenizer(words, 400).to_str() == build_tokenizer(words, 400).to_str()
  with pytest.raises(DataError, match="cannot be one token"):
    build_tokenizer(["two words"], 400)
  with pytest.raises(DataError, match="needs 262 tokens, but the tokenizer has 260"):
    build_tokenizer(words, 260)


def test_foreign_tokenizer_gets_control_tokens_behind_its_vocabulary(tmp_path):
  vocab = {"a": 0, "Ġa": 1, "b": 2, "Ġb": 3, "Ġ": 4}
  foreign = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "a"), ("Ġ", "b")]))
  foreign.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  foreign.save(str(tmp_path / "f.json"))
  tokenizer = TextTokenizer(tmp_path / "f.json")
  assert (tokenizer.pad_id, tokenizer.cut_id, tokenizer.added, tokenizer.vocab_size) == (5, 6, {5, 6}, 7)
  assert tokenizer.encode("a b") == [0, 3]
  assert tokenizer.encode_word("a") == [1]  # as it stands behind other words


@pytest.mark.parametrize(
  ("content", "message"), [(None, "No such file"), ("{", "not a tokenizer.json"), ("{}", "not a")]
)
def test_bad_files_are_one_line(tmp_path, content, message):
  path = tmp_path / "tokenizer.json"
  if content is not None:
    path.write_text(content)
  with pytest.raises(DataError, match=message) as caught:
    TextTokenizer(path)
  assert "\n" not in str(caught.value)


def test_ids_out_of_range_are_refused(shipped):
  with pytest.raises(DataError, match="expected 0"):
    shipped.decode([shipped.vocab_size])
  assert PAD not in shipped.decode([shipped.pad_id])
