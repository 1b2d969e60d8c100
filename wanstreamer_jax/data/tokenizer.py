"""Converts text to token ids and back with a `tokenizer.json`. The `tokenizers` library reads the file.

A small one is shipped (`tokenizer.json` beside this file, made by `data/duplex_world/build_tokenizer.py`): every word
of duplex_world is one token with its leading space, and bytes cover all other text. A language model's own file works
too; control tokens that it lacks are added behind its vocabulary, so that their ids follow from the file alone. The
model knows PAD's as `config.model.pad`. Text never turns into control tokens: `<cut>` typed by a user is five
characters (`encode_typed`), and only `encode_word` makes the control token. Directives such as `(nods)` are ordinary
text.
"""

import functools
import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import tokenizers
from etils import epath

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import DataError, one_line
from wanstreamer_jax.files import Path

PAD, CUT = "<pad>", "<cut>"
HALF = "\ufffd"  # what decoders give for bytes that are not yet a whole character
FILE = "tokenizer.json"
PROBE = "Hello, it's 7 o'clock. Größe? 你好，世界 🙂"  # text that a tokenizer must give back
# Scripts that are written without spaces between words: Thai to Myanmar, Khmer, kana, ideographs, full-width forms.
UNSPACED = ((0x0E00, 0x109F), (0x1780, 0x17FF), (0x3000, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF),
            (0x20000, 0x323AF))  # fmt: skip
SHIPPED = pathlib.Path(__file__).with_name("tokenizer.json")
OLDER = SHIPPED.with_name("tokenizer_2.json")  # the shipped one of WORLD_VERSION 2 and before


class TextTokenizer:
  """Encodes text to ids and back, losslessly for any Unicode text with the shipped file.

  `pad_id` ends a unit's text, `cut_id` follows words that an interruption silenced; `added` are the ids of those that
  the file did not have; `control_ids` are all special tokens, which no text shows; `blob` are the file's bytes.
  Raises DataError for a file that is missing or not a tokenizer.json.
  """

  def __init__(self, path: Path = "default"):
    """path: of a tokenizer.json, or of the folder that holds it; "default" is the shipped one."""
    self.path = epath.Path(SHIPPED if str(path) == "default" else path)
    try:
      self.path = self.path / FILE if self.path.is_dir() else self.path
      self.blob = self.path.read_bytes()
      self._tokenizer = tokenizers.Tokenizer.from_buffer(self.blob)
    except OSError as error:
      raise DataError(f"tokenizer {self.path}: {error.strerror}; give the path of a tokenizer.json") from error
    except Exception as error:  # the library raises bare Exception and ValueError
      raise DataError(f"tokenizer {self.path}: not a tokenizer.json ({one_line(error)})") from error
    self.sha256 = hashlib.sha256(self.blob).hexdigest()
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    size = self.vocab_size
    self.pad_id, self.cut_id = (self._control(name) for name in (PAD, CUT))
    self.added = frozenset(i for i in (self.pad_id, self.cut_id) if i >= size)
    special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
    self.control_ids = frozenset(special)
    self._tokenizer.encode_special_tokens = True  # control tokens in a text are plain text

  @property
  def vocab_size(self) -> int:
    """Ids run from 0 to vocab_size - 1, control tokens included."""
    return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

  def encode(self, text: str) -> list[int]:
    """The ids of any text, without control tokens. An empty text has none."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def encode_word(self, word: str) -> list[int]:
    """The ids of one word of a stream, as it follows other words; `<cut>` is the control token."""
    return [self.cut_id] if word == CUT else self.encode_typed(word)

  def encode_typed(self, word: str) -> list[int]:
    """The ids of one word that people wrote, as it follows other words; no word is a control token."""
    return self.encode(word if self._adds_space or is_unspaced(word) else " " + word)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids; PAD and other special tokens are left out. Raises DataError for ids out of range."""
    values = [int(i) for i in ids]
    if values and not 0 <= min(values) <= max(values) < self.vocab_size:
      raise DataError(f"token ids {min(values)}..{max(values)}: expected 0..{self.vocab_size - 1}")
    return self._tokenizer.decode([i for i in values if i not in self.control_ids], skip_special_tokens=False)

  def captions(self, ids: Sequence[int]) -> str:
    """`decode` with `<cut>` shown, for captions and logs."""
    return TextStream(self)(ids).strip()

  def name_of(self, i: int) -> str:
    """How the file writes a token: `<pad>`, or `Ġred`."""
    return self._tokenizer.id_to_token(i) or ""

  def to_json(self) -> str:
    """A tokenizer.json that has the control tokens, for other programs. Its ids are these."""
    return self._tokenizer.to_str()

  def _control(self, name: str) -> int:
    """The id of a control token: the file's special token of this name, else a new one behind the vocabulary.

    An ordinary token of the same name stands for text ("<unk>" is one of Qwen's), so that it is left alone.
    """
    known = self._tokenizer.get_added_tokens_decoder()
    found = self._tokenizer.token_to_id(name)
    while found is not None and not (found in known and known[found].special):
      name = f"<|{name}|>"
      found = self._tokenizer.token_to_id(name)
    if found is None:
      self._tokenizer.add_special_tokens([name])
      found = self._tokenizer.token_to_id(name)
    assert found is not None, name
    return found

  @functools.cached_property
  def _adds_space(self) -> bool:
    """Whether `encode` puts a space in front of a text by itself, as the shipped file does."""
    ids = self.encode("a a")
    return len(ids) == 2 and ids[0] == ids[1]


def is_unspaced(word: str) -> bool:
  """Whether a word belongs to a script that has no spaces between words, such as Chinese."""
  return any(first <= ord(word[0]) <= last for first, last in UNSPACED) if word else False


@functools.cache
def older_sha256() -> str:
  """SHA-256 of `OLDER`, with which weights were made whose config names the default and no SHA-256."""
  return hashlib.sha256(OLDER.read_bytes()).hexdigest()


def tokenizer_of(config: Config) -> TextTokenizer:
  """The tokenizer of `config.data`, checked against the model of the same config.

  Raises DataError, in one line with what to do: a file that is missing, that is not the one the weights or the config
  were made with (`data.tokenizer_sha256`), with more tokens than the model embeds, with PAD at another id than the
  model's (`model.pad`), or that loses text.
  """
  tokenizer, data, model = TextTokenizer(config.data.tokenizer), config.data, config.model
  if data.tokenizer == "default" and data.tokenizer_sha256 == older_sha256():
    tokenizer = TextTokenizer(OLDER)
  if data.tokenizer_sha256 not in ("", tokenizer.sha256):
    raise DataError(
      f"tokenizer {tokenizer.path} has SHA-256 {tokenizer.sha256[:12]}..., but this model was made with "
      f"{data.tokenizer_sha256[:12]}...: put that file back, or set data.tokenizer to it"
    )
  advice = "use the tokenizer that the model was trained with, or for a new model set"
  if tokenizer.vocab_size > model.token_ids:
    field = "tokens" if model.tokens else "vocab"
    raise DataError(
      f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} tokens, but model.{field} is {model.token_ids}: {advice} "
      f"model.{field}={tokenizer.vocab_size}, or more"
    )
  if tokenizer.pad_id != model.pad:
    raise DataError(
      f"tokenizer {tokenizer.path} pads with id {tokenizer.pad_id}, but model.pad is {model.pad}: {advice} "
      f"model.pad={tokenizer.pad_id}"
    )
  back = tokenizer.decode(tokenizer.encode(PROBE))
  if back != PROBE:
    raise DataError(
      f"tokenizer {tokenizer.path} loses text: {PROBE!r} comes back as {back!r}; give one with a token for every byte"
    )
  return tokenizer


class TextStream:
  """Decodes ids piece by piece: the results of all calls, joined, are the text of all ids.

  A new word begins with a space, so that a word split between calls is whole when joined. An incomplete character is
  held back until its other bytes come. PAD gives nothing, `<cut>` is shown.
  """

  def __init__(self, tokenizer: TextTokenizer):
    self.tokenizer = tokenizer
    self._open: list[int] = []  # ids of the last characters, which the next ids continue, and of an incomplete one
    self._shown = ""  # the part of their text that was returned already

  @property
  def open(self) -> tuple[list[int], str]:
    """The whole state; setting it to an earlier value goes back to it."""
    return self._open, self._shown

  @open.setter
  def open(self, value: tuple[list[int], str]) -> None:
    self._open, self._shown = value

  def __call__(self, ids: Sequence[int] | np.ndarray) -> str:
    return "".join(self._push(int(i)) for i in ids)

  def _push(self, i: int) -> str:
    tokenizer = self.tokenizer
    if i == tokenizer.pad_id:
      return ""
    if i == tokenizer.cut_id:
      self._open, self._shown = [], ""
      return " " + CUT
    text = tokenizer.decode([*self._open, i])
    if text.endswith(HALF):
      self._open.append(i)
      return ""
    new = text[len(self._shown) :] if self._shown else " " + text.lstrip()
    alone = tokenizer.decode([i])  # nothing for a space, which some decoders strip from a text's begin
    self._open, self._shown = ([i], alone) if alone and HALF not in alone else ([*self._open, i], text)
    return new


TYPED = re.compile(r"\([^()\s]+(?: [^()\s]+)*\)(?=\s|$)|\S+")  # a directive such as "(looks left)", or a word
MAX_TYPED = 2000  # ids that may wait for slots


class Keyboard:
  """Puts typed texts into the slots of units; ids that do not fit wait for the next unit."""

  def __init__(self, tokenizer: TextTokenizer, slots: int):
    self.tokenizer, self.slots = tokenizer, slots
    self.waiting: list[int] = []  # ids; words typed while MAX_TYPED ids wait are lost

  def __call__(self, typed: Sequence[str]) -> np.ndarray:
    """Takes what was typed during a unit and returns its slots: int32 [slots], PAD-filled."""
    for text in typed:
      for word in TYPED.findall(text):
        if len(self.waiting) < MAX_TYPED:
          self.waiting += self.tokenizer.encode_typed(word)
    now, self.waiting = self.waiting[: self.slots], self.waiting[self.slots :]
    return np.array(now + [self.tokenizer.pad_id] * (self.slots - len(now)), np.int32)


def is_one_line(text: str) -> bool:
  """Whether a text has no line breaks and no control characters; joined emoji and scripts of any kind are welcome."""
  return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)
