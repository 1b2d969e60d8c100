"""Words that mean nothing in what training's users say, so that it has phrasings without number.

An agent that hears only the grammar's sentences learns them whole. Where words around the ones that count are strange,
it has to listen to these. No sentence of evaluation is among the results: each has a word that the world does not know.
"""

import collections
import functools

import numpy as np

from wanstreamer_jax.data.duplex_world import grammar, lexicon

LITERAL = ("repeat", "spell", "tell_name", "statement", "story", "stop")  # acts in which every word counts
GENERIC = 10  # acts
# Words of no phrase, no answer and no persona.
OTHER_WORDS = tuple(
  "his her will their him year than only back use our even because each set air small end port land large big such "
  "why men change animal point world build self earth father stand own page country school grow study learn plant "
  "cover food state keep eye thought tree cross farm hard might story far sea draw run press night real life few "
  "north children begin example ease paper group always those mark often mile feet science idea fish mountain once "
  "base cut sure wood main plain girl usual young ready above ever list though body family direct pose leave "
  "measure product short class wind question complete ship area half rock order fire south problem piece knew pass "
  "since whole king space heard best hour better true during hundred step west ground interest reach fast verb sing "
  "travel less simple vowel toward war lay against pattern slow center person money serve appear road map rule "
  "govern pull notice voice".split()
)
# Syllables of words that nobody has heard.
HEADS = ("", *"b d f g h j k l m n p r s t v w z bl br ch cl dr fl gr pl pr sh sk sl sn st str th tr".split())
VOWELS = tuple("a e i o u ee ai oo ou ow ar or er igh oi".split())
TAILS = ("", "", "", *"b d g k l m n p s t x nd nt st ng sh lf rk mp".split())


def loosened(rng: np.random.Generator, text: str) -> str:
  """A phrase of the grammar, its slots still open, with one or two changes that leave its meaning: words that mean
  nothing before it, behind it or inside it, or instead of a word of most acts."""
  words = text.split()
  for _ in range(1 + int(rng.random() < 0.3)):
    extra = [_nothing(rng) for _ in range(int(rng.integers(1, 4)))]
    common = [place for place, word in enumerate(words) if word in _generic()]
    kind = int(rng.integers(4 if common else 3))
    if kind == 0:
      words = [*extra, *words]
    elif kind == 1:
      words = [*words, *extra]
    elif kind == 2:
      words.insert(int(rng.integers(1, len(words) + 1)), extra[0])
    else:
      words[common[int(rng.integers(len(common)))]] = extra[0]
  return " ".join(words)


@functools.cache
def _generic() -> frozenset[str]:
  """Words in the cores of so many acts that none of them tells which act it is."""
  count = collections.Counter(
    word
    for act in grammar.acts()
    for word in {word for form in grammar.forms(act, grammar.SEEN) for word in form.core.split()}
  )
  return frozenset(word for word in count if count[word] >= GENERIC and word[0] not in ",{")


@functools.cache
def _meaningful() -> frozenset[str]:
  return frozenset(lexicon.vocabulary())


def _nothing(rng: np.random.Generator) -> str:
  """A word that means nothing in the world: a common one, or a syllable that nobody has heard."""
  one = lambda choices: choices[int(rng.integers(len(choices)))]
  while True:
    word = one(OTHER_WORDS) if rng.random() < 0.6 else one(HEADS) + one(VOWELS) + one(TAILS)
    if word not in _meaningful():
      return word
