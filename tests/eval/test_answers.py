"""Which words answer a question, and under which names it is scored."""

import pytest

from wanstreamer_jax.eval.answers import Question, answer_scores, is_right, kinds_of

COLOURS = ("red", "green", "blue")
NUMBERS = ("one", "two", "three", "four", "five", "ten")


def question(answer, choices=(), **more):
  return Question("kind", 1.0, 9.0, tuple(answer.split()), tuple(choices), **more)


@pytest.mark.parametrize(
  ("answer", "choices", "said", "written", "heard"),
  [
    ("stars", ("star", "stars", "circle"), "i see a star", True, True),  # singular for plural
    ("star", ("star", "circle"), "two red stars", True, True),
    ("star", ("star", "circle"), "a circle or a star", False, False),  # reciting
    ("five", NUMBERS, "it is 5", True, True),
    ("five", NUMBERS, "It's five.", True, True),
    ("two", NUMBERS, "to", False, True),  # only a recogniser writes that
    ("red", COLOURS, "it is read", False, True),
    ("red star", (), "a red star", True, True),
    ("red star", (), "a star that is red", False, False),
    ("tom", ("ada", "ben"), "you are tom", True, True),  # a name that no list has
    ("b", (), "it is b", True, True),
    ("b", (), "i see be", False, True),
    ("c", (), "i see c", True, True),
    ("i", (), "i see i", True, True),
    ("i", (), "i see b", False, False),
    ("c a t", (), "c a t", True, True),
    ("c a t", (), "see a tea", False, True),
    ("c a t", (), "Cat.", False, True),
    ("c a t", (), "c t a", False, False),
    ("yes", ("yes", "no"), "yes it is", True, True),
    ("yes", ("yes", "no"), "no yes", False, False),
    ("know", (), "i do not no", False, True),
    ("ten", NUMBERS, "", False, False),
    ("", (), "anything", False, False),
  ],
)
def test_right_in_writing_and_by_ear(answer, choices, said, written, heard):
  for by_ear, expected in ((False, written), (True, heard)):
    assert is_right(question(answer, choices), said.split(), by_ear) is expected


def test_names_that_a_question_is_scored_under():
  memory = Question("memory", 1.0, 9.0, ("red",), phrasing="composed", persona="new", age=12.0)
  words = [(1.2, "it"), (1.4, "is"), (1.6, "red")]
  found = answer_scores([memory, question("blue", trained=False)], words)
  assert found == {
    "answer": [1.0, 0.0], "answer/memory": [1.0], "answer/kind": [0.0], "phrasing/composed/memory": [1.0],
    "persona/new/memory": [1.0], "memory/10_to_30s": [1.0], "sum/held_out": [0.0],
  }  # fmt: skip


def test_an_answer_by_directive_is_no_spoken_word():
  left = question("(looks left)", directive=True)
  words = [(1.2, "(looks"), (1.2, "left)")]
  assert answer_scores([left], [], words)["answer"] == [1.0]
  assert answer_scores([left], words, [])["answer"] == [0.0]


def test_means_over_kinds_leave_out_what_is_no_kind():
  names = ["answer", "answer/colour", "answer/unseen", "answer/sum", "phrasing/new/sum", "memory/10_to_30s"]
  assert kinds_of(names) == {"right_answers": ["answer/colour", "answer/sum"], "phrasing/new": ["phrasing/new/sum"]}
