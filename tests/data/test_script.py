"""The language, the acts and the personas of duplex_world, without media: what is held out, and what must be said."""

import collections
import functools
import itertools

import numpy as np
import pytest

from wanstreamer_jax.data.duplex_world import asides, grammar, language, lexicon
from wanstreamer_jax.data.duplex_world.grammar import COMPOSED, NEW, SEEN
from wanstreamer_jax.data.duplex_world.perfect_agent import perform
from wanstreamer_jax.data.duplex_world.personas import HOMES, LIKES, NAMES, NEW_HOMES, NEW_LIKES, NEW_NAMES
from wanstreamer_jax.data.duplex_world.phones import LEXICON, PHONES
from wanstreamer_jax.data.duplex_world.world import WorldConfig, cast, make_session, transcript
from wanstreamer_jax.data.session import AGENT, USER
from wanstreamer_jax.data.tokenizer import Keyboard, TextTokenizer

FULL = WorldConfig(size="full")
NO_PHRASE = ("statement",)
QUESTIONS = set(
  "colour shape count place letter digit same which memory yes_no correction repeat spell sum next counting name home "
  "likes greet tell_name who_am_i gesture face how_are_you thanks goodbye refusal remark event".split()
)


@functools.cache
def scripts(split: str, count: int = 300, units: int = 125, size: str = "full"):
  return [transcript(seed, WorldConfig(size=size, units=units), split) for seed in range(count)]


def events(script, *kinds, actor=USER):
  return [event for event in script.events if event.actor == actor and event.kind in kinds]


def said(script) -> list[str]:
  """All that the user says, as sentences."""
  return [str(event.detail["text"]) for event in events(script, "speech")]


def test_every_act_has_at_least_thirty_forms_and_the_world_300_words():
  for act in grammar.acts():
    known = {grammar.bare(form.text) for form in grammar.forms(act, SEEN)}
    assert len(known) >= 30, act
    assert grammar.forms(act, COMPOSED), act
    assert len(grammar.forms(act, NEW)) >= 7, act
  assert len(lexicon.vocabulary()) >= 500
  assert (len(NAMES + NEW_NAMES), len(HOMES + NEW_HOMES), len(LIKES + NEW_LIKES)) >= (60, 40, 40)


@pytest.mark.parametrize("small", [False, True])
def test_a_sentence_has_one_act_and_one_phrasing(small):
  """Held-out combinations have only parts that training has; new sentences have a part that it never has."""
  owner = {}
  for act in grammar.acts(small):
    kind = act.split("_")[0] if act.startswith(("memory", "yes_no", "which")) else act
    seen, composed = grammar.forms(act, SEEN, small), grammar.forms(act, COMPOSED, small)
    parts = {part for form in seen for part in form.parts}
    assert all(set(form.parts) <= parts for form in composed)
    for phrasing in grammar.PHRASINGS:
      for form in grammar.forms(act, phrasing, small):
        text = grammar.shape_of(form.text)
        assert owner.setdefault(text, (kind, phrasing)) == (kind, phrasing), text


def test_new_words_are_in_no_sentence_of_training():
  trained = {word for act in grammar.acts() for form in grammar.forms(act, SEEN) for word in form.text.split()}
  for act in grammar.acts():
    known = [form for phrasing in (SEEN, COMPOSED) for form in grammar.forms(act, phrasing)]
    assert all(set(form.text.split()) <= trained for form in known)
  assert not trained & set("holding got could listen would try alright".split())


def test_the_held_out_fifth_is_the_same_everywhere():
  """Red when the split moves, which makes another world: raise WORLD_VERSION and retrain."""
  held = [form.text for act in ("colour", "sum") for form in grammar.forms(act, COMPOSED)]
  assert held[:4] == FIRST_HELD_OUT
  total = sum(len(grammar.forms(act, SEEN)) for act in grammar.acts())
  assert 0.15 < sum(len(grammar.forms(act, COMPOSED)) for act in grammar.acts()) / total < 0.3


FIRST_HELD_OUT = [
  "what colour , is it now",
  "what colour is this please",
  "so , which colour is it",
  "so , which colour is it please",
]


def test_training_has_nothing_of_what_is_held_out():
  forms = {phrasing: set() for phrasing in grammar.PHRASINGS}
  for act, phrasing in itertools.product(grammar.acts(), grammar.PHRASINGS):
    forms[phrasing] |= {grammar.bare(form.text) for form in grammar.forms(act, phrasing) if "{" not in form.text}
  new_words = {word for text in forms[NEW] for word in text.split()} - set(lexicon.vocabulary())
  trained = {text for script in scripts("train") for text in said(script)}
  assert not trained & (forms[COMPOSED] | forms[NEW])
  assert not new_words
  words = {word for text in trained for word in text.split()}
  assert not words & set("holding got could listen would try alright gesture mood".split())
  for script in scripts("train"):
    assert all(event.detail["phrasing"] == SEEN for event in events(script, "question"))
    assert all(event.detail["persona"] == "seen" for event in events(script, "question"))
    assert all(event.detail.get("trained", True) for event in events(script, "question"))
    persona = script.persona
    assert (persona.name in NAMES, persona.home in HOMES, persona.likes in LIKES) == (True, True, True)
    answers = [e.detail["answer"] for e in events(script, "question") if e.detail["act"] in ("name", "home", "likes")]
    assert not set(answers) & {*NEW_NAMES, *NEW_HOMES, *NEW_LIKES}


def test_training_hears_and_speaks_the_words_of_new_personas():
  new = {*NEW_NAMES, *NEW_HOMES, *NEW_LIKES}
  pool = [*scripts("train"), *scripts("train", 200, 375)]
  heard = {word.text for script in pool for word in script.speech}
  spoken = {word.text for script in pool for word in script.agent if word.voiced}
  assert len(new - heard) <= 3
  assert len(new - spoken) <= 5


def test_held_out_sessions_draw_a_third_of_each_phrasing_and_half_of_the_personas_new():
  questions = [event.detail for script in scripts("heldout") for event in events(script, "question")]
  asked = collections.Counter(q["phrasing"] for q in questions if not q.get("wordless") and not q.get("typed"))
  assert all(0.28 < asked[phrasing] / asked.total() < 0.38 for phrasing in grammar.PHRASINGS)
  new = np.mean([script.persona.new for script in scripts("heldout")])
  assert 0.4 < new < 0.6
  by_reader = {text for act in grammar.acts() for text in map(grammar.bare, grammar.reader_phrases(act))}
  assert len({text for script in scripts("heldout") for text in said(script)} & by_reader) > 30
  sums = [q["trained"] for q in questions if q["act"] == "sum"]
  assert 0.3 < np.mean(sums) < 0.7


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_question_is_answered_by_the_perfect_agent(split):
  acts = set()
  for script in scripts(split):
    answers = events(script, "answer", actor=AGENT)
    for question in events(script, "question"):
      acts.add(question.detail["act"])
      after = [event for event in answers if event.start >= question.end - 1e-6]
      if question.end > 19.5:
        continue
      assert after, question
      assert after[0].start - question.end < 0.7
      assert after[0].detail["act"] == question.detail["act"]
      assert f" {question.detail['answer']} " in f" {after[0].detail['text']} "
      assert after[0].detail["text"] == question.detail["text"]
      choices = question.detail.get("choices")
      assert choices is None or set(str(question.detail["answer"]).split()) <= set(str(choices).split())
  assert acts == QUESTIONS


def test_the_agent_stops_for_interruptions_early_and_late_but_not_for_coughs():
  """It knows an interruption by its first 0.3 s at most, and speaks on while the user coughs or says mhm."""
  when, over, latencies = collections.Counter(), 0, []
  for script in scripts("train"):
    stopped = [event.start for event in events(script, "stopped", actor=AGENT) if event.start < 18]
    answers = [(event.start, event.end) for event in events(script, "answer", actor=AGENT)]
    stops = events(script, "interrupt")
    when.update(str(event.detail["when"]) for event in stops)
    for time in stopped:
      latencies.append(min(time - event.start for event in stops if event.start < time))
    for cough in events(script, "cough"):
      assert not any(cough.start <= time <= cough.end + 0.3 for time in stopped)
      over += any(start <= cough.start and cough.end <= end for start, end in answers)
  minutes = 300 * 20 / 60
  assert when.total() > 0.5 * minutes
  assert min(when["early"], when["late"]) >= 8
  assert over > 0.5 * minutes
  assert 0.15 < min(latencies) <= max(latencies) < 0.48


def test_memory_is_asked_10_to_30_seconds_later_in_long_sessions():
  ages = {units: [] for units in (125, 375)}
  for units, found in ages.items():
    for script in scripts("train", 300 if units == 125 else 200, units):
      for event in events(script, "question"):
        if event.detail["act"] == "memory":
          lowered = [e for e in events(script, "lower") if e.start < event.start]
          shown = [e for e in events(script, "raise") if e.start < lowered[-1].start]
          age = event.detail["age"]
          assert age == pytest.approx(event.start - lowered[-1].start, abs=0.02)
          assert age > 2
          assert not any(lowered[-1].start < e.start < event.start for e in events(script, "raise"))
          last = shown[-1].detail
          things = (last["colour"], last["shape"], lexicon.PLURALS[last["shape"]], lexicon.NUMBERS[last["count"]])
          assert event.detail["answer"] in things
          found.append(age)
  assert len(ages[125]) > 40
  assert sum(10 <= age <= 30 for age in ages[375]) > 100


def test_a_directive_is_done_without_a_word():
  done = 0
  for script in scripts("train"):
    for event in events(script, "directive"):
      if event.start > 19:
        continue
      done += 1
      assert any(word.text == event.detail["name"] and not word.voiced for word in script.agent)
      assert not any(0 <= e.start - event.start < 0.5 for e in events(script, "answer", actor=AGENT))
  assert done > 5
  for directive in lexicon.DIRECTIVES:
    perform(cast(0, FULL).agent, directive, 1.0)


def test_a_transcript_is_the_session_without_its_media():
  for size, split in (("full", "heldout"), ("small", "train")):
    world = WorldConfig(height=8, width=8, units=80, size=size)
    session, script = make_session(5, world, split), transcript(5, world, split)
    assert script.events == session.events
    assert script.agent == session.agent.words
    assert script.speech == session.user.speech
    assert script.typed == session.user.words


def test_a_longer_session_of_the_same_plan_begins_alike():
  """Unit by unit equals whole: the user knows nothing of later units."""
  script = transcript(3, FULL)
  again = transcript(3, FULL)
  assert script == again


def test_small_keeps_to_few_acts_and_two_personas():
  acts = {str(e.detail["act"]) for script in scripts("train", 100, size="small") for e in events(script, "question")}
  assert acts == {"colour", "shape", "count", "name", "home", "likes", "sum", "repeat", "greet", "remark", "counting"}
  assert {script.persona.name for script in scripts("train", 100, size="small")} == {"ada", "ben"}
  kinds = {event.kind for script in scripts("train", 100, size="small") for event in script.events}
  assert "cough" not in kinds


def test_every_word_is_pronounced_and_one_token():
  tokenizer = TextTokenizer()
  for word in lexicon.vocabulary():
    assert len(tokenizer.encode_word(word)) == 1, word
    assert word[0] == "(" or word in LEXICON, word
  assert all(phone.rstrip("1") in PHONES for phones in LEXICON.values() for phone in phones)
  said_words = {word.text for split in ("train", "heldout") for script in scripts(split) for word in script.speech}
  assert said_words <= set(lexicon.vocabulary())
  typed = Keyboard(tokenizer, 4)(["(phone rings) look (looks left)"])
  assert [tokenizer.decode([i]) for i in typed[:3]] == ["(phone rings)", "look", "(looks left)"]


def test_acts_are_shared_out_so_that_hard_ones_come_often():
  counted = language.shares(100, FULL)
  assert 12.5 < counted.questions < 20
  assert sum(counted.acts.values()) == pytest.approx(1)
  assert all(counted.acts[act] > 0.03 for act in ("shape", "count", "letter", "digit", "memory", "sum"))


def test_words_that_mean_nothing_leave_the_sentence_and_its_slots():
  """Every loosened sentence has a word that sounds like none of the world, so that none is one that is held out."""
  known, rng = {asides.sound(word) for word in lexicon.vocabulary() if word[0] != "("}, np.random.default_rng(0)
  for act in grammar.acts():
    for form in grammar.forms(act, SEEN)[:20]:
      words = asides.loosened(rng, form.text).split()
      added = collections.Counter(words) - collections.Counter(form.text.split())
      assert added
      assert not known & set(map(asides.sound, added)), (form, added)
      lost = collections.Counter(form.text.split()) - collections.Counter(words)
      assert lost.total() <= 2
      assert not any(grammar.SLOT.search(word) for word in lost)
      assert not any(before[0] == "{" and after in added for before, after in itertools.pairwise(words))


def test_most_common_words_of_asides_sound_like_none_of_the_world():
  """The others are never drawn."""
  known = {asides.sound(word) for word in lexicon.vocabulary() if word[0] != "("}
  assert sum(asides.sound(word) not in known for word in asides.OTHER_WORDS) > 0.9 * len(asides.OTHER_WORDS)


def test_only_the_users_of_training_say_them_and_not_where_every_word_counts():
  world = set(lexicon.vocabulary()) | {","}

  def odd(split: str, share: float) -> tuple[set[str], set[str]]:
    """Acts with a sentence that has such a word, and acts with one that has none."""
    full = WorldConfig(size="full", units=250, asides=share)
    spoken = [event for seed in range(60) for event in events(transcript(seed, full, split), "speech")]
    strange = [bool(set(str(event.detail["text"]).split()) - world) for event in spoken]
    return tuple(
      {str(event.detail["act"]) for event, is_odd in zip(spoken, strange) if is_odd == of} for of in (True, False)
    )

  assert not odd("heldout", 1.0)[0]
  assert not odd("train", 0.0)[0]
  loosened, plain = odd("train", 1.0)
  assert not loosened & set(asides.LITERAL)
  assert len(loosened) > 20
  assert plain <= {*asides.LITERAL, *NO_PHRASE}, plain


def test_training_asks_oftener_what_joins_two_things_and_evaluation_as_often():
  joined = {"same", "which", "correction", "yes_no", "repeat", "sum", "spell"}

  def share(split: str, emphasis: float) -> float:
    full = WorldConfig(size="full", units=250, emphasis=emphasis)
    asked = [event.detail["act"] for seed in range(40) for event in events(transcript(seed, full, split), "question")]
    return sum(act in joined for act in asked) / len(asked)

  def coughs(split: str, emphasis: float) -> int:
    full = WorldConfig(size="full", units=250, emphasis=emphasis)
    return sum(len(events(transcript(seed, full, split), "cough")) for seed in range(40))

  assert share("train", 3.0) > 1.5 * share("train", 1.0)
  assert coughs("train", 3.0) > 1.5 * coughs("train", 1.0)
  assert share("heldout", 3.0) == share("heldout", 1.0)
  assert coughs("heldout", 3.0) == coughs("heldout", 1.0)
