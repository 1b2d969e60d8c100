"""Words that mean nothing, in what the users of training say.

So it has phrasings without number. An agent that hears only the grammar's sentences learns them whole. Where words
around the ones that count are strange, it has to listen to these. No sentence of evaluation is among the results: each
has a word that sounds like none of the world.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from wanstreamer_jax.data.duplex_world import grammar, lexicon
from wanstreamer_jax.data.duplex_world.phones import pronounce

LITERAL = ("repeat", "spell", "tell_name", "statement", "story", "stop")  # acts in which every word counts
GENERIC = 10  # a word in the sentences of so many acts tells nothing of the act
# Words of no phrase, no answer and no persona.
OTHER_WORDS = tuple(
  "will year than because set small end port land large big men change animal point build self earth father stand "
  "own page country school grow study learn plant cover food state keep thought tree cross farm hard might story "
  "far draw run press life few north children begin example paper group always those mark often mile feet science "
  "idea fish mountain base cut main plain girl usual young ready above ever list though body family direct pose "
  "leave measure product class wind question complete ship area rock order fire south problem pass since king space "
  "heard better true during step west ground interest reach fast verb sing travel simple vowel toward war lay "
  "against pattern slow center person money serve appear road map rule govern pull notice voice".split()
)
# Syllables of words that nobody has heard.
HEADS = ("", *"b d f g h j k l m n p r s t v w z bl br ch cl dr fl gr pl pr sh sk sl sn st str th tr".split())
VOWELS = tuple("a e i o u ee ai oo ou ow ar or er igh oi".split())
TAILS = ("", "", "", *"b d g k l m n p s t x nd nt st ng sh lf rk mp".split())


@dataclasses.dataclass(frozen=True)
class Asides:
  """Which of a user's sentences are loosened: a share of those in which not every word counts."""

  share: float
  rng: np.random.Generator

  def of(self, act: str, text: str) -> str:
    """A phrase of the grammar for this act, as it is or loosened."""
    if act in LITERAL or self.rng.random() >= self.share:
      return text
    return loosened(self.rng, text)


def loosened(rng: np.random.Generator, text: str) -> str:
  """A phrase of the grammar, its slots still open, with one or two changes that leave its meaning: words that mean
  nothing before it, behind it or inside it (not behind a slot, which might be a number), or instead of a word of most
  acts."""
  words = text.split()
  for _ in range(1 + int(rng.random() < 0.3)):
    extra = [_nothing(rng) for _ in range(int(rng.integers(1, 4)))]
    inside = [place for place in range(1, len(words) + 1) if words[place - 1][0] != "{"]
    common = [place for place, word in enumerate(words) if word in _generic() and (not place or place in inside)]
    changes = ["before"] + ["behind"] * (len(words) in inside) + ["inside"] * bool(inside) + ["instead"] * bool(common)
    change = _one(rng, changes)
    if change == "before":
      words = [*extra, *words]
    elif change == "behind":
      words = [*words, *extra]
    elif change == "inside":
      words.insert(_one(rng, inside), extra[0])
    else:
      words[_one(rng, common)] = extra[0]
  return " ".join(words)


def _one(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
  return choices[int(rng.integers(len(choices)))]


@functools.cache
def _generic() -> frozenset[str]:
  """Words in the cores of so many acts that none of them tells which act it is."""
  cores = {
    act: {word for form in grammar.forms(act, grammar.SEEN) for word in form.core.split()} for act in grammar.acts()
  }
  count = collections.Counter(word for words in cores.values() for word in words)
  return frozenset(word for word in count if count[word] >= GENERIC and word[0] not in ",{")


def sound(word: str) -> tuple[str, ...]:
  """How a word is spoken, without stress."""
  return tuple(phone.rstrip("1") for phone in pronounce(word))


@functools.cache
def _meaningful() -> frozenset[tuple[str, ...]]:
  """How all words of the world sound, those held out included."""
  return frozenset(sound(word) for word in lexicon.vocabulary() if word[0] != "(")


def _nothing(rng: np.random.Generator) -> str:
  """A word that means nothing in the world, and sounds like none that does: a common one, or a made-up syllable."""
  while True:
    made_up = rng.random() < 0.4
    word = _one(rng, HEADS) + _one(rng, VOWELS) + _one(rng, TAILS) if made_up else _one(rng, OTHER_WORDS)
    if sound(word) not in _meaningful():
      return word
