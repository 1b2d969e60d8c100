"""Composes the user's sentences from `phrases.py` and keeps some of them for evaluation.

A form is an opener, a core and an ending. Of the combinations with an opener or an ending about a fifth is held out
("composed"), chosen by a hash so that every machine holds out the same; every part stays in some combination of
training. Forms with a part that training never has, and sentences by a reader who had not seen the grammar, are "new".
"""

import collections
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator

import numpy as np

from wanstreamer_jax.data.duplex_world.phrases import (
  ENDINGS,
  NEW_ENDINGS,
  NEW_OPENERS,
  OPENERS,
  PARTS,
  SMALL_ACTS,
  SMALL_CORES,
  SMALL_ENDINGS,
  SMALL_OPENERS,
)
from wanstreamer_jax.data.duplex_world.reader_phrasings import READER_PHRASINGS

SEEN, COMPOSED, NEW = "seen", "composed", "new"
PHRASINGS = (SEEN, COMPOSED, NEW)
MOODS = ("ask", "tell", "do", "say")
PLAIN_OPENER, PLAIN_ENDING = 0.4, 0.7  # probabilities, where there is a choice
# The reader wrote one list for acts that have several kinds of sentences here; it fits these.
READERS = {"memory_shape": "memory", "yes_no_colour": "yes_no", "after": "next"}
SLOT = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Form:
  """One way to say an act. A core may have slots and a "," for a pause."""

  mood: str
  opener: str
  core: str
  ending: str

  @property
  def text(self) -> str:
    """The phrase with its slots; a pause may follow the opener of a question without a pause of its own."""
    pause = "," if self.opener and self.mood != "say" and "," not in self.core else ""
    return " ".join(part for part in (self.opener, pause, self.core, self.ending) if part)

  @property
  def parts(self) -> tuple[tuple[str, str], ...]:
    return ("opener", self.opener), ("core", self.core), ("ending", self.ending)


@dataclasses.dataclass(frozen=True)
class Phrase:
  """A sentence to say: its text, with "," where it may pause, and what training knows of it (`PHRASINGS`)."""

  text: str
  phrasing: str


def acts(small: bool = False) -> tuple[str, ...]:
  """The names of all kinds of sentences."""
  return SMALL_ACTS if small else tuple(PARTS)


def bare(text: str) -> str:
  """A phrase as it is heard: without the commas."""
  return " ".join(text.replace(",", " ").split())


def shape_of(text: str) -> str:
  """A phrase as it is heard, whatever the names of its slots."""
  return SLOT.sub("{}", bare(text))


@functools.cache
def forms(act: str, phrasing: str, small: bool = False) -> tuple[Form, ...]:
  """All forms of an act of one of `PHRASINGS`, without the reader's."""
  return _new_forms(act) if phrasing == NEW else _split(act, small)[phrasing]


@functools.cache
def reader_phrases(act: str) -> tuple[str, ...]:
  """The reader's sentences for an act that no form of the grammar gives; empty where there are none."""
  known = {shape_of(form.text) for phrasing in (SEEN, COMPOSED) for form in forms(act, phrasing)}
  texts = [text.replace(",", " , ") for text in READER_PHRASINGS.get(READERS.get(act, act), ())]
  return tuple(" ".join(text.split()) for text in texts if shape_of(text) not in known)


@functools.cache
def _by_hash(act: str, small: bool) -> tuple[Form, ...]:
  """The combinations of known parts in the order of their hashes, which is the same everywhere."""
  return tuple(sorted(_combinations(act, small), key=lambda form: _digest(act, form)))


def _digest(act: str, form: Form) -> bytes:
  return hashlib.blake2s(f"{act}:{form.mood}:{bare(form.text)}".encode()).digest()


def _choices(act: str, mood: str, small: bool) -> tuple[list[str], list[str], list[str]]:
  """Openers, cores and endings of an act's mood."""
  own = PARTS[act]
  openers = own.get("openers", OPENERS[mood]).split("|")
  cores, endings = own[mood].split("|"), own.get("endings", ENDINGS[mood]).split("|")
  if small:
    return openers[:SMALL_OPENERS], cores[:SMALL_CORES], endings[:SMALL_ENDINGS]
  return openers, cores, endings


def _combinations(act: str, small: bool) -> Iterator[Form]:
  """All forms of known parts; of two that sound alike the first."""
  heard: set[str] = set()
  for mood in MOODS:
    if mood in PARTS[act]:
      openers, cores, endings = _choices(act, mood, small)
      for opener in openers:
        for core in cores:
          for ending in endings:
            form = Form(mood, opener, core, ending)
            if _fits(opener, core, ending) and bare(form.text) not in heard:
              heard.add(bare(form.text))
              yield form


def _fits(opener: str, core: str, ending: str) -> bool:
  """Whether a sentence does not say "please", "now" or another word of its opener or ending twice."""
  words, last = opener.split(), ending.split()
  around = core.split()
  return not (set(last) & {*words, *around}) and (not words or words[-1] != around[0])


@functools.cache
def _split(act: str, small: bool) -> dict[str, tuple[Form, ...]]:
  """The combinations of training and those held out."""
  every = _by_hash(act, small)
  left = collections.Counter(part for form in every for part in form.parts)
  held: set[Form] = set()
  for form in every:
    varied = [part for part in form.parts if part[1]]
    if len(held) >= max(1, len(every) // 5):
      break
    if len(varied) > 1 and all(left[part] > 1 for part in varied):
      held.add(form)
      left.subtract(form.parts)
  in_order = tuple(_combinations(act, small))
  return {SEEN: tuple(f for f in in_order if f not in held), COMPOSED: tuple(f for f in in_order if f in held)}


@functools.cache
def _new_forms(act: str) -> tuple[Form, ...]:
  """Forms with one part that training never has."""
  own, out = PARTS[act], []
  for text in own["new"].split("|"):
    mood, core = text.split(":")
    opener = "tell me" if mood == "tell" else own.get("openers", OPENERS[mood]).split("|")[0]
    out.append(Form(mood, opener, core, ""))
  for mood in MOODS:
    if mood not in own:
      continue
    openers, cores, _ = _choices(act, mood, False)
    new_openers = own.get("new openers", NEW_OPENERS[mood]).split("|")
    out += [Form(mood, opener, core, "") for opener in new_openers for core in cores[:3]]
    new_endings = own.get("new endings", NEW_ENDINGS[mood])
    out += [Form(mood, openers[0], core, ending) for ending in new_endings.split("|") if ending for core in cores[:3]]
  return tuple(out)


def draw(rng: np.random.Generator, act: str, phrasing: str, slots: tuple[str, ...] = (), small: bool = False) -> Phrase:
  """A phrase of an act, with its slots, all of which are among `slots`, still open.

  Where the act has no combination to hold out, "composed" gives a "seen" phrase, and says so.
  """
  if phrasing == NEW:
    by_reader = [text for text in reader_phrases(act) if set(SLOT.findall(text)) <= set(slots)]
    if by_reader and rng.random() < 0.5:
      return Phrase(by_reader[int(rng.integers(len(by_reader)))], NEW)
    return Phrase(_one(rng, forms(act, NEW, small)).text, NEW)
  if phrasing == COMPOSED and forms(act, COMPOSED, small):
    return Phrase(_one(rng, forms(act, COMPOSED, small)).text, COMPOSED)
  return Phrase(_seen(rng, act, small).text, SEEN)


def _one(rng: np.random.Generator, choices: tuple[Form, ...]) -> Form:
  return choices[int(rng.integers(len(choices)))]


def _seen(rng: np.random.Generator, act: str, small: bool) -> Form:
  """A form of training; simple openers and endings come more often."""
  allowed = _seen_set(act, small)
  moods = [mood for mood in MOODS if mood in PARTS[act]]
  weights = np.array([len(_choices(act, mood, small)[1]) for mood in moods], float)
  for _ in range(100):
    mood = moods[int(rng.choice(len(moods), p=weights / weights.sum()))]
    openers, cores, endings = _choices(act, mood, small)
    opener = openers[0] if rng.random() < PLAIN_OPENER else openers[int(rng.integers(len(openers)))]
    ending = endings[0] if rng.random() < PLAIN_ENDING else endings[int(rng.integers(len(endings)))]
    form = Form(mood, opener, cores[int(rng.integers(len(cores)))], ending)
    if form in allowed:
      return form
  return _one(rng, forms(act, SEEN, small))


@functools.cache
def _seen_set(act: str, small: bool) -> frozenset[Form]:
  return frozenset(forms(act, SEEN, small))


def words() -> list[str]:
  """Every word of every form and of the reader, without slots."""
  found: dict[str, None] = {}
  for act in PARTS:
    texts = [form.text for phrasing in PHRASINGS for form in forms(act, phrasing)]
    for text in (*texts, *reader_phrases(act)):
      found |= dict.fromkeys(word for word in text.split() if word[0] not in ",{")
  return list(found)
