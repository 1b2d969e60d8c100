"""Speech without cause, on timelines made by hand, and the script of made-up events with the fields of issue 13."""

import numpy as np
import pytest

from wanstreamer_jax.data.session import USER, Event, Word
from wanstreamer_jax.eval.answers import Question
from wanstreamer_jax.eval.cause import called, cause_scores
from wanstreamer_jax.eval.duplex_world import script_of
from wanstreamer_jax.eval.scores import turn_scores
from wanstreamer_jax.eval.turns import Opportunity, Talk

SECONDS = 30.0
ASKED = Question("colour", 5.0, 12.0, ("red",), turn=3.0)


def scores(*speech, idle=((0.0, 3.0),)):
  silent = Opportunity("stay_silent", 20.0, 22.0, name="pause")
  return cause_scores([ASKED], [silent], [], idle, Talk(np.array(speech, float).reshape(-1, 2)), SECONDS)


def test_an_answer_has_a_cause():
  found = scores((5.4, 6.4))
  assert found["without_cause"] == [0.0] * 4  # the pause, before the first act, the turn, and after the answer
  assert found["silence_idle"] == [1.0, 1.0]
  assert found["uncalled_per_minute"] == [0.0]


def test_every_silence_that_is_broken_counts():
  found = scores((1.0, 1.5), (3.5, 4.0), (5.4, 6.4), (8.0, 8.5), (21.0, 21.5))
  assert found["without_cause"] == [1.0] * 4
  assert found["without_cause/listening"] == [1.0]
  assert found["uncalled_per_minute"] == [pytest.approx(60 * 4 / 28)]


def test_without_an_answer_the_user_is_idle_only_after_four_seconds():
  assert scores((9.0, 9.1))["silence_idle"] == [1.0, 1.0]
  assert scores((10.0, 11.0))["silence_idle"] == [1.0, 0.0]


def test_an_answer_may_go_on_but_a_second_one_is_uncalled():
  pieces = np.array([[5.4, 6.0], [6.8, 7.5], [8.8, 9.0], [15.0, 16.0], [18.0, 19.0]])
  assert called(pieces, [ASKED], [14.5]) == [True, True, False, True, False]


def event(start, end, kind, **detail):
  return Event(start, end, USER, kind, detail)


def words(*spans):
  return [Word("a", start, start, end) for start, end in spans]


COUNTING = event(3.0, 3.0, "question", act="counting", answer="one", text="one two three")


def test_a_question_carries_what_is_known_of_it():
  asked = event(3.0, 3.0, "question", act="memory", answer="star", text="it is a star", phrasing="composed",
                persona="new", age=12.5, trained=False, choices="star heart")  # fmt: skip
  found = script_of([asked], words((1.0, 2.0), (2.1, 3.0)), SECONDS).questions[0]
  assert found == Question("memory", 3.0, SECONDS, ("star",), ("star", "heart"), True, 1.0, "composed", "new", 12.5,
                           False)  # fmt: skip
  plain = script_of([event(3.0, 3.0, "question", act="colour", answer="red")], (), SECONDS).questions[0]
  typed = event(3.0, 3.0, "question", act="name", answer="ada", phrasing="seen", typed=True)
  assert script_of([typed], words((1.0, 3.0)), SECONDS).questions[0].turn is None
  assert (plain.turn, plain.phrasing, plain.age, plain.trained, plain.unseen) == (None, "", None, None, False)


def test_a_cough_in_words_is_no_turn():
  """The user's own "mhm" does not end the time for an answer."""
  mhm = event(4.0, 4.3, "cough", sound="mhm")
  script = script_of([COUNTING, mhm], words((1.0, 3.0), (4.0, 4.3)), SECONDS)
  assert script.speech == ((1.0, 3.0),)
  assert script.questions[0].until == SECONDS


def test_a_directive_calls_for_silence():
  found = script_of([event(3.0, 3.0, "directive", name="(looks left)")], (), SECONDS)
  assert [(o.kind, o.name, o.start, o.end) for o in found.opportunities] == [("stay_silent", "directive", 3.0, 4.5)]
  assert found.questions[0].directive


@pytest.mark.parametrize(
  ("speech", "written", "false_stop", "kinds"),
  [
    ([(3.4, 9.0)], ["one"], [0.0], ["hand_off", "continue"]),  # speaks on
    ([(3.4, 5.3)], ["one"], [1.0], ["hand_off", "continue"]),  # stops for a cough
    ([(3.4, 5.5)], ["one", "two", "three"], [0.0], ["hand_off", "continue"]),  # has finished
    ([(3.4, 5.2)], ["one", "two", "three"], [], ["hand_off"]),  # was about to finish anyway
    ([(3.4, 5.3)], ["one", "two", "three", "<cut>"], [1.0], ["hand_off", "continue"]),  # wrote it, and stopped
    ([(3.4, 4.5)], ["one"], [], ["hand_off", "stay_silent"]),  # was silent, and is to stay so
  ],
)
def test_a_cough_is_no_interruption(speech, written, false_stop, kinds):
  script = script_of([COUNTING, event(5.0, 5.3, "cough")], words((1.0, 3.0)), SECONDS)
  timed = [(3.4 + 0.3 * i, word) for i, word in enumerate(written) if word != "<cut>"]
  cuts = [5.1] * ("<cut>" in written)
  found = turn_scores(script, Talk(np.array(speech), [3.4], cuts=cuts), timed, SECONDS)
  assert found["false_stop"] == false_stop
  assert sorted(name.removeprefix("turn_taking/") for name in found if "turn_taking/" in name) == sorted(kinds)
  assert set(found["turn_taking/hand_off"]) == {1.0}
