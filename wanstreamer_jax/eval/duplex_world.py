"""Turns the ground truth of duplex_world into a `Script`: what each user act calls for.

question           a question with its answer, and an opportunity for `hand_off` until the user goes on (at most 4 s)
pause              a pause, and an opportunity to `stay_silent` until the sentence is over
statement          an opportunity to `stay_silent` until the user goes on (at most 1.5 s)
backchannel_place  an opportunity for no more than a `backchannel` until the user goes on
interrupt          an interruption, and an opportunity to `yield`, unless the session ends before it could
"""

from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.lexicon import answers
from wanstreamer_jax.data.duplex_world.reacting import ReactingUser
from wanstreamer_jax.data.records import text_to_units
from wanstreamer_jax.data.session import USER, Event, Session, Word
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.eval.scores import ANSWER_TIME, Conversation, Question, Script
from wanstreamer_jax.eval.turns import SPEECH_GAP, YIELD_WITHIN, Opportunity, merge

MIN_ROOM = 2.0  # seconds between a question that counts and the end of the session
AFTER_STATEMENT = 1.5  # seconds


def script_of(events: Sequence[Event], speech: Sequence[Word], seconds: float) -> Script:
  """The script of a session of `seconds` from its events and the words that the user voiced."""
  acts = [event for event in events if event.actor == USER]
  voiced = [(word.start, min(word.end, seconds)) for word in speech if word.voiced and word.start < seconds]
  talk = merge(np.array(voiced).reshape(-1, 2), SPEECH_GAP)
  coughs = [event.start for event in acts if event.kind == "cough"]  # a cough or an mhm takes no turn
  turns = [start for start, _ in talk if not any(abs(start - cough) < 1e-3 for cough in coughs)]
  starts = turns + [event.start for event in acts if event.kind in ("raise", "question")]

  def goes_on(after: float) -> float:
    """The time of the user's next act after `after`."""
    return min((start for start in starts if start > after + 1e-3), default=seconds)

  questions, opportunities = [], []
  pauses = tuple((event.start, event.end) for event in acts if event.kind == "pause" and event.end < seconds)
  cut_in = [event for event in acts if event.kind == "interrupt" and event.start <= seconds - YIELD_WITHIN]
  interruptions = tuple(event.start for event in cut_in)
  for event in acts:
    if event.kind == "question" and event.end <= seconds - MIN_ROOM:
      act, detail = str(event.detail["act"]), event.detail
      unseen = detail.get("phrasing", "seen") != "seen" or not detail.get("trained", True)
      choices = tuple(str(detail["choices"]).split()) if "choices" in detail else answers(act)
      question = Question(act, event.end, goes_on(event.end), _answer(event), choices, unseen)
      questions.append(question)
      opportunities.append(Opportunity("hand_off", question.end, min(question.until, question.end + ANSWER_TIME)))
    elif event.kind == "statement" and event.end <= seconds - AFTER_STATEMENT:
      until = min(goes_on(event.end), event.end + AFTER_STATEMENT)
      opportunities.append(Opportunity("stay_silent", event.start, until))
    elif event.kind == "backchannel_place" and event.end < seconds:
      opportunities.append(Opportunity("backchannel", event.start, goes_on(event.start)))
    elif event.kind == "pause" and event.end < seconds:
      sentence = next((end for start, end in talk if start >= event.end - SPEECH_GAP), event.end)
      opportunities.append(Opportunity("stay_silent", event.start, sentence))
    elif event in cut_in:
      opportunities.append(Opportunity("yield", event.start, event.end))
  return Script(tuple(questions), pauses, interruptions, tuple(opportunities), tuple(map(tuple, talk)))


def _answer(event: Event) -> tuple[str, ...]:
  return tuple(str(event.detail.get("answer", "")).split())


def scripted_conversation(session: Session, config: Config, tokenizer: TextTokenizer) -> Conversation:
  """A session of duplex_world as a conversation with its scripted agent, to score the ground truth."""
  seconds = config.media.unit_ms / 1000
  text, _ = text_to_units(session.agent.words, session.units, config.layout.text_slots, tokenizer, seconds)
  user, agent = session.user, session.agent
  assert user.audio is not None
  assert user.video is not None
  assert agent.audio is not None
  assert agent.video is not None
  script = script_of(session.events, user.speech, session.units * seconds)
  return Conversation(
    session.seed, script, user.audio, user.video, agent.audio, agent.video, text, session.world.portrait
  )


class SimulatedUser(ReactingUser):
  """Implements `closed_loop.User`."""

  def script(self, units: int) -> Script:
    """What called for a reaction in `units` units."""
    return script_of(self.cast.scene.events, self.cast.user.speech(), units * self.config.unit_ms / 1000)
