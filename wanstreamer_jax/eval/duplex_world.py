"""Turns the ground truth of duplex_world into a `Script`: what each user act calls for.

question           a question with its answer, and an opportunity for `hand_off` until the user goes on (at most 4 s)
directive          a question that is answered by a movement, such as "(looks left)"; an opportunity to `stay_silent`
pause              a pause, and an opportunity to `stay_silent` until the sentence is over
statement          an opportunity to `stay_silent` until the user goes on (at most 1.5 s)
backchannel_place  an opportunity for no more than a `backchannel` until the user goes on
interrupt          an interruption, and an opportunity to `yield`, unless the session ends before it could
cough              a noise through which the agent is to speak on, or to stay silent
                   before the first act and after a statement the user is idle
"""

from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.lexicon import answers
from wanstreamer_jax.data.duplex_world.reacting import ReactingUser
from wanstreamer_jax.data.records import text_to_units
from wanstreamer_jax.data.session import USER, Event, Session, Word
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.eval.answers import Question
from wanstreamer_jax.eval.cause import LEAST
from wanstreamer_jax.eval.scores import Conversation, Noise, Script
from wanstreamer_jax.eval.turns import SPEECH_GAP, YIELD_WITHIN, Opportunity, answer_seconds, merge

MIN_ROOM = 2.0  # seconds between a question that counts and the end of the session
AFTER_STATEMENT = 1.5  # seconds
SHOWN = ("raise", "question", "gesture", "face", "directive")  # kinds of events with which the user goes on
NOISE = "cough"  # coughs and the user's own "mhm"


def script_of(events: Sequence[Event], speech: Sequence[Word], seconds: float) -> Script:
  """The script of a session of `seconds` from its events and the words that the user voiced."""
  acts = [event for event in events if event.actor == USER]
  noises = [event for event in acts if event.kind == NOISE]
  heard = [word for word in speech if word.voiced and word.start < seconds]
  voiced = [(word.start, min(word.end, seconds)) for word in heard if not _is_part(word, noises)]
  talk = merge(np.array(voiced).reshape(-1, 2), SPEECH_GAP)
  coughs = [event.start for event in acts if event.kind == "cough"]  # a cough or an mhm takes no turn
  turns = [start for start, _ in talk if not any(abs(start - cough) < 1e-3 for cough in coughs)]
  starts = turns + [event.start for event in acts if event.kind in SHOWN]

  def goes_on(after: float) -> float:
    """The time of the user's next act after `after`."""
    return min((start for start in starts if start > after + 1e-3), default=seconds)

  asked = [event for event in acts if event.kind in ("question", "directive") and event.end <= seconds - MIN_ROOM]
  questions = tuple(question_of(event, goes_on(event.end), talk) for event in asked)
  cut_in = [event for event in acts if event.kind == "interrupt" and event.start <= seconds - YIELD_WITHIN]
  opportunities = [_hand_off(question, event) for question, event in zip(questions, asked)]
  idle = [(0.0, min(starts, default=seconds))]
  for event in acts:
    if event.kind == "statement" and event.end <= seconds - AFTER_STATEMENT:
      until = min(goes_on(event.end), event.end + AFTER_STATEMENT)
      opportunities.append(Opportunity("stay_silent", event.start, until, name="statement"))
      idle.append((until, goes_on(event.end)))
    elif event.kind == "backchannel_place" and event.end < seconds:
      opportunities.append(Opportunity("backchannel", event.start, goes_on(event.start)))
    elif event.kind == "pause" and event.end < seconds:
      sentence = next((end for start, end in talk if start >= event.end - SPEECH_GAP), event.end)
      opportunities.append(Opportunity("stay_silent", event.start, sentence, name="pause"))
    elif event in cut_in:
      opportunities.append(Opportunity("yield", event.start, event.end))
  opportunities.sort(key=lambda opportunity: opportunity.start)
  return Script(
    questions,
    tuple((event.start, event.end) for event in acts if event.kind == "pause" and event.end < seconds),
    tuple(event.start for event in cut_in),
    tuple(opportunities),
    tuple(map(tuple, talk)),
    tuple((start, end) for start, end in idle if end - start >= LEAST),
    tuple(_noise(event, acts, goes_on(event.end)) for event in noises if event.start <= seconds - YIELD_WITHIN),
  )


def question_of(event: Event, until: float, talk: np.ndarray) -> Question:
  """A question from its event. until: when the user goes on; talk: when the user speaks, [N, 2]."""
  detail = event.detail
  if event.kind == "directive":
    return Question("directive", event.end, until, tuple(str(detail["name"]).split()), directive=True)
  act, answer = str(detail["act"]), tuple(str(detail.get("answer", "")).split())
  choices = str(detail["choices"]).split() if "choices" in detail else answers(act)
  phrasing, trained = str(detail.get("phrasing", "")), detail.get("trained")
  unseen = bool(detail.get("unseen", False)) or phrasing in ("composed", "new") or trained is False
  spoken = not (detail.get("typed") or detail.get("wordless"))
  turns = [float(start) for start, end in talk if start < event.end and end >= event.end - 0.1]
  return Question(
    act, event.end, until, answer, tuple(choices), unseen,
    turn=turns[0] if turns and spoken else None,
    phrasing=phrasing if spoken else "",
    persona=str(detail.get("persona", "")),
    age=float(detail["age"]) if "age" in detail else None,
    trained=None if trained is None else bool(trained),
  )  # fmt: skip


def _hand_off(question: Question, event: Event) -> Opportunity:
  """What a question calls for: the floor, or, if it is answered by a directive, silence."""
  if question.directive:
    until = min(question.until, question.end + AFTER_STATEMENT)
    return Opportunity("stay_silent", question.end, until, name="directive")
  needed = answer_seconds(question.answer or str(event.detail.get("text", "")).split())
  return Opportunity("hand_off", question.end, question.answer_until, question.turn, needed)


def _is_part(word: Word, noises: Sequence[Event]) -> bool:
  """Whether a word, such as "mhm", is one of the noises."""
  return any(noise.start - 1e-6 <= word.start and word.end <= noise.end + 1e-6 for noise in noises)


def _noise(event: Event, acts: Sequence[Event], until: float) -> Noise:
  """A noise of the user, with the end of the answer to the question before it."""
  before = [act for act in acts if act.kind == "question" and act.end <= event.start]
  words = str(before[-1].detail.get("text", "")).split() if before else []
  asked = before[-1].end if before else 0.0
  return Noise(event.start, min(until, event.start + YIELD_WITHIN), asked, words[-1] if words else "")


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
