"""Judges answers to questions: which words are right, in writing and by ear."""

import dataclasses
import re
import string
from collections.abc import Iterable, Sequence

ANSWER_TIME = 4.0  # seconds after a question within which an answer counts, unless the user goes on before
GRACE = 0.5  # seconds before the end of a question from which an answer counts
BY_ALL, BY_KIND = "right_answers", "answer/"
UNSEEN = "answer/unseen"  # no kind, although it begins like one
AGES = ((0, 10, "under_10s"), (10, 30, "10_to_30s"), (30, 60, "30_to_60s"), (60, 1e9, "over_60s"))  # of memories
NUMBER_WORDS = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
  "eighteen nineteen twenty"
).split()
DIGITS = {str(number): word for number, word in enumerate(NUMBER_WORDS)}
HOMOPHONES = {
  "read": "red", "blew": "blue", "won": "one", "to": "two", "too": "two", "for": "four", "fore": "four", "ate": "eight",
  "know": "no", "write": "right",
}  # fmt: skip
LETTERS_BY_EAR = {
  "a": "ay eh", "b": "be bee", "c": "see sea", "d": "dee", "e": "ee", "f": "ef eff", "g": "gee", "h": "aitch age",
  "i": "eye", "j": "jay", "k": "kay", "l": "el ell", "m": "em", "n": "en", "o": "oh owe", "p": "pea pee",
  "q": "cue queue", "r": "are", "s": "es ess", "t": "tea tee", "u": "you", "v": "vee", "x": "ex", "y": "why",
  "z": "zed zee",
}  # fmt: skip
LETTER_OF = {sound: letter for letter, sounds in LETTERS_BY_EAR.items() for sound in sounds.split()}
CARRIERS = ("i see", "it is", "it's", "this is", "that is", "that's", "the letter", "a letter", "letter")  # before one


@dataclasses.dataclass(frozen=True)
class Question:
  """An act of the user that asks for an answer: its kind, its end, and the words that a right answer contains.

  choices: all words that an answer of this kind could be. Then the first of them that is said counts, so that reciting
  them all does not count as knowing. unseen: whether training never has this phrasing or sum. turn: when the user began
  to speak, None if nothing was said. phrasing: "seen", "composed" (a held-out combination of known words) or "new";
  persona: "seen" or "new"; both empty where nobody wrote it down. age: seconds since what is asked was shown or told.
  trained: whether training has this sum. directive: the answer is an act in parentheses and not a word.
  """

  kind: str
  end: float
  until: float  # when the user (or the session) goes on
  answer: tuple[str, ...] = ()
  choices: tuple[str, ...] = ()
  unseen: bool = False
  turn: float | None = None
  phrasing: str = ""
  persona: str = ""
  age: float | None = None
  trained: bool | None = None
  directive: bool = False

  @property
  def answer_until(self) -> float:
    """Until when an answer counts."""
    return min(self.until, self.end + ANSWER_TIME)


def plain(words: Iterable[str]) -> list[str]:
  """Words in lower case without punctuation."""
  found = (re.sub(r"[^\w']", "", word.lower()) for word in words)
  return [word for word in found if word]


def canonical(words: Iterable[str]) -> list[str]:
  """Plain words with digits in words and plurals like singulars: "2 stars" becomes "two star"."""
  return [_singular(DIGITS.get(word, word)) for word in plain(words)]


def _singular(word: str) -> str:
  return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "'s")) else word


def is_right(question: Question, words: Sequence[str], by_ear: bool = False) -> bool:
  """Whether voiced words answer a question: the first words that could be an answer must be the right one. Without
  `choices`, the answer must occur in order and without gaps. Singular and plural, digits and number words are the same.

  by_ear: the words are those of a recogniser, so that words and names of letters that sound alike are the same too.
  """
  wanted = canonical(question.answer)
  if not wanted:
    return False
  if all(len(word) == 1 and word in string.ascii_lowercase for word in wanted):
    return _letters_right(wanted, plain(words), by_ear)
  said = canonical(words)
  if _matches(wanted, said, question.choices):
    return True
  alike = [[HOMOPHONES.get(word, word) for word in words] for words in (wanted, said)]
  return by_ear and _matches(alike[0], alike[1], question.choices)


def _matches(wanted: list[str], said: list[str], choices: Sequence[str]) -> bool:
  if choices:
    known = {*canonical(choices), *wanted}
    said = [word for word in said if word in known][: len(wanted)]
  return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


def _letters_right(wanted: list[str], said: list[str], by_ear: bool) -> bool:
  """Whether the first letters are the wanted ones. Phrases like "i see" do not count as letters; by ear "see a tea" and
  "cat" both spell c, a, t."""
  text = " ".join(said)
  for carrier in CARRIERS:
    text = re.sub(rf"^{carrier}\b", "", text).strip()
  words = text.split()
  if by_ear:
    words = [LETTER_OF.get(word, word) for word in words]
  letters = [word for word in words if len(word) == 1 and word in string.ascii_lowercase]
  joined = by_ear and len(wanted) > 1 and "".join(wanted) in words
  return letters[: len(wanted)] == wanted or joined


def labels(question: Question) -> list[str]:
  """The names under which a question is scored, `answer` for all of them among these. Names that end in the kind are
  later joined as means over kinds (`intervals.py`)."""
  names = ["answer", f"{BY_KIND}{question.kind}"]
  if question.unseen:
    names.append(UNSEEN)
  if question.phrasing:
    names.append(f"phrasing/{question.phrasing}/{question.kind}")
  if question.persona:
    names.append(f"persona/{question.persona}/{question.kind}")
  if question.age is not None and question.kind == "memory":
    names += [f"memory/{name}" for low, high, name in AGES if low <= question.age < high]
  if question.trained is not None:
    names.append("sum/trained" if question.trained else "sum/held_out")
  return names


def answer_scores(
  questions: Sequence[Question],
  words: Sequence[tuple[float, str]],
  directives: Sequence[tuple[float, str]] = (),
  by_ear: bool = False,
) -> dict[str, list[float]]:
  """Share of questions whose answer is in the agent's words between the question's end (0.5 s grace) and the user's
  next turn, at most 4 s after the answer may begin: under each name of `labels`.

  words: voiced words with their times; directives: the words in parentheses.
  """
  out: dict[str, list[float]] = {"answer": []}
  for question in questions:
    if not question.answer:
      continue
    source = directives if question.directive else words
    said = [word for time, word in source if question.end - GRACE <= time < question.answer_until]
    right = float(is_right(question, said, by_ear))
    for name in labels(question):
      out.setdefault(name, []).append(right)
  return out


def kinds_of(names: Iterable[str]) -> dict[str, list[str]]:
  """{name of a mean over kinds: the names that it joins}, each of which counts the same."""
  groups: dict[str, list[str]] = {}
  for name in names:
    if name.startswith(BY_KIND) and name != UNSEEN:
      groups.setdefault(BY_ALL, []).append(name)
    elif name.startswith(("phrasing/", "persona/")) and name.count("/") == 2:
      groups.setdefault(name.rpartition("/")[0], []).append(name)
  return groups
