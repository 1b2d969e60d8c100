"""Text in and out: a `tokenizer.json` read with the `tokenizers` library.

A small one is shipped (`tokenizer.json` beside this file, made by `data/tokenizer_build.py`): every word of
duplex_world is one token with its leading space, and bytes cover all other text. A language model's own file works
too; the control tokens it lacks are added behind its vocabulary. Text never turns into control tokens: `<cut>` typed
by a user is five characters, and only `encode_word` makes the control token.
"""

import functools
import hashlib
import pathlib
from collections.abc import Sequence

import tokenizers

from wanstreamer_jax.errors import DataError

PAD, CUT, UNK = "<pad>", "<cut>", "<unk>"
CONTROL = (PAD, CUT, UNK)
SHIPPED = pathlib.Path(__file__).with_name("tokenizer.json")


class TextTokenizer:
  """Encodes text to ids and back, losslessly for any Unicode text with the shipped file.

  `pad_id` ends a unit's text, `cut_id` follows words that an interruption silenced. Raises DataError for a file that
  is missing or not a tokenizer.json.
  """

  def __init__(self, path: str | pathlib.Path = "default"):
    self.path = SHIPPED if str(path) == "default" else pathlib.Path(path)
    try:
      blob = self.path.read_bytes()
      self._tokenizer = tokenizers.Tokenizer.from_buffer(blob)
    except OSError as error:
      raise DataError(f"tokenizer {self.path}: {error.strerror}; give the path of a tokenizer.json") from error
    except Exception as error:  # the library raises bare Exception and ValueError
      raise DataError(f"tokenizer {self.path}: not a tokenizer.json ({one_line(error)})") from error
    self.sha256 = hashlib.sha256(blob).hexdigest()
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    self._tokenizer.add_special_tokens([token for token in CONTROL if self._tokenizer.token_to_id(token) is None])
    self._tokenizer.encode_special_tokens = True  # control tokens in a text are plain text
    self.pad_id, self.cut_id, self.unk_id = (self._id(token) for token in CONTROL)

  @property
  def vocab_size(self) -> int:
    """Ids run from 0 to vocab_size - 1, control tokens included."""
    return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

  def encode(self, text: str) -> list[int]:
    """The ids of any text, without control tokens. An empty text has none."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def encode_word(self, word: str) -> list[int]:
    """The ids of one word of a stream, as it stands behind other words; `<cut>` is the control token."""
    if word == CUT:
      return [self.cut_id]
    return self.encode(word if self._adds_space else " " + word)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids; PAD and other control tokens are left out. Raises DataError for ids out of range."""
    values = [int(i) for i in ids]
    if values and not 0 <= min(values) <= max(values) < self.vocab_size:
      raise DataError(f"token ids {min(values)}..{max(values)}: expected 0..{self.vocab_size - 1}")
    return self._tokenizer.decode([i for i in values if i not in self._control_ids], skip_special_tokens=False)

  def captions(self, ids: Sequence[int]) -> str:
    """`decode` with `<cut>` shown, for captions and logs; joined word by word, so units can be appended."""
    pieces: list[str] = []
    run: list[int] = []
    for i in [*(int(i) for i in ids), self.cut_id]:
      if i == self.cut_id:
        pieces += [self.decode(run).strip(), CUT]
        run = []
      else:
        run.append(i)
    return " ".join(piece for piece in pieces[:-1] if piece)

  def _id(self, token: str) -> int:
    found = self._tokenizer.token_to_id(token)
    assert found is not None, token  # added above
    return found

  @functools.cached_property
  def _adds_space(self) -> bool:
    """Whether `encode` puts a space in front of a text by itself, as the shipped file does."""
    ids = self.encode("a a")
    return len(ids) == 2 and ids[0] == ids[1]

  @functools.cached_property
  def _control_ids(self) -> frozenset[int]:
    return frozenset((self.pad_id, self.cut_id, self.unk_id))


def one_line(error: BaseException, length: int = 120) -> str:
  """An exception's text on one line, shortened: other libraries' messages inside ours."""
  text = " ".join(str(error).split())
  return text if len(text) <= length else text[: length - 3] + "..."
