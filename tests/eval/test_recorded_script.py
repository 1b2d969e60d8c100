"""What a recording says about its user's acts: exact values on small cases made by hand."""

import numpy as np
import pytest

from wanstreamer_jax.eval.recorded_script import backchannel_scores, script_of, speech_of
from wanstreamer_jax.eval.scores import turn_scores
from wanstreamer_jax.eval.turns import Talk

SECONDS = 20.0
RATE = 1000


def truth(user=(), agent=()):
  """The JSON of a session, with words as (start, end)."""
  words = lambda spans: [{"text": "a", "written": s, "start": s, "end": e, "voiced": True} for s, e in spans]
  return {"user": {"speech": words(user)}, "agent": {"speech": words(agent)}}


def script(user, agent, words=()):
  return script_of(
    truth(agent=words), np.array(user, float).reshape(-1, 2), np.array(agent, float).reshape(-1, 2), SECONDS
  )


def kinds(found):
  return [(o.kind, o.start, o.end) for o in found.opportunities]


def test_a_pause_that_the_agent_took_is_a_turn_to_answer():
  found = script([(1, 3), (8, 9)], [(3.4, 6)])
  assert kinds(found) == [("hand_off", 3, 7)]
  assert [(q.end, q.until, q.answer) for q in found.questions] == [(3, 8, ())]


def test_a_pause_that_the_agent_left_is_the_users():
  found = script([(1, 3), (3.4, 5), (6, 9)], [(9.3, 12)])
  assert found.pauses == ((5, 6),)  # 0.4 s is no pause
  assert kinds(found) == [("stay_silent", 5, 6), ("hand_off", 9, 13)]


def test_an_answer_that_comes_late_or_near_the_end_does_not_count():
  assert kinds(script([(1, 3)], [(8, 10)])) == []
  assert kinds(script([(1, 18.5)], [(18.7, 20)])) == []


def test_short_speech_of_few_words_is_a_backchannel():
  found = script([(1, 4)], [(2, 2.5)])
  assert kinds(found) == [("backchannel", 2, 4)]
  assert found.questions == ()
  talk = script([(1, 4)], [(2, 2.9)], words=[(2, 2.2), (2.2, 2.4), (2.4, 2.6), (2.6, 2.8)])
  assert kinds(talk) == []  # four words are a turn, if a short one


def test_an_agent_that_stops_for_the_user_was_interrupted():
  found = script([(5, 7)], [(2, 5.8)])
  assert found.interruptions == (5,)
  assert kinds(found) == [("yield", 5, 6.5)]
  assert script([(5, 5.5)], [(2, 5.8)]).interruptions == ()  # too short a remark to give way to
  assert script([(5, 7)], [(2, 9)]).interruptions == ()  # the agent went on


def test_the_recorded_agent_does_what_it_called_for():
  agent = np.array([(3.4, 6.0), (9.4, 12.6)])
  found = script([(1, 3), (7, 8), (8.8, 9.1), (12, 14)], agent)
  assert [o.kind for o in found.opportunities] == ["hand_off", "stay_silent", "hand_off", "yield"]
  scores = turn_scores(found, Talk(agent, [3.4, 9.4]), [], SECONDS)
  assert set(scores["turn_taking"]) == {1.0}
  assert scores["response_latency"] == pytest.approx([0.4, 0.3])
  assert scores["stop_latency"] == pytest.approx([0.6])
  silent = turn_scores(found, Talk(np.zeros((0, 2))), [], SECONDS)
  assert silent["turn_taking"] == [0.0, 1.0, 0.0]  # nothing to yield


def test_speech_comes_from_words_or_else_from_sound():
  tone = np.zeros(5 * RATE, np.float32)
  tone[RATE : 2 * RATE] = 0.3 * np.sin(np.arange(RATE))
  assert speech_of(truth(), "user", tone, RATE) == pytest.approx(np.array([[1.0, 2.0]]))
  spoken = truth(user=[(3, 3.3), (3.5, 4), (4.5, 9)])
  assert speech_of(spoken, "user", tone, RATE) == pytest.approx(np.array([[3, 4], [4.5, 5]]))


def test_backchannels_and_overlap_are_per_minute():
  found = script([(1, 4), (4.5, 6)], [])
  speech = np.array([(2.0, 2.5), (8.0, 8.5), (5.5, 9.0)])
  scores = backchannel_scores(found, speech[[0, 1]], [2.0], SECONDS)
  assert scores == {"backchannels_per_minute": [3.0], "overlap_per_minute": [1.5]}
  assert backchannel_scores(found, speech[[2]], [], SECONDS)["overlap_per_minute"] == [1.5]
