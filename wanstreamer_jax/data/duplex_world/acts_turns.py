"""Acts about taking turns. Counting that is interrupted, statements, stories, and what is typed from outside."""

from wanstreamer_jax.data.duplex_world.actor import Actor
from wanstreamer_jax.data.duplex_world.lexicon import ALPHABET, BACKCHANNEL, DIRECTIVES, NUMBERS, OUTSIDE, STORY_WORDS
from wanstreamer_jax.data.duplex_world.personas import HOMES, LIKES, NAMES, NEW_HOMES, NEW_LIKES, NEW_NAMES
from wanstreamer_jax.data.duplex_world.stage import Play, ScriptRequest, answer
from wanstreamer_jax.data.duplex_world.things import COLOURS
from wanstreamer_jax.data.session import USER

EARLY = 0.35  # share of the interruptions that come before the second word
LONG_PAUSE = (6, 9)  # units between the parts of a story


def counting(user: Actor) -> Play:
  """Asks for a count, and mostly interrupts it: early, or late."""
  scene = user.scene
  last = 10 if scene.small else scene.units(5, 13)
  drawn = user.draw("counting", n="")
  if "{n}" not in drawn.text:
    last = 10
  words, cut_short = " ".join(NUMBERS[1 : last + 1]), scene.chance(0.75)
  wanted = answer(words, "one" if cut_short else "one two three")
  _, end = yield from user.say(drawn.text.format(n=NUMBERS[last]), "counting")
  user.request("counting", end, wanted, phrasing=drawn.phrasing, to=last)
  early = not scene.small and scene.chance(EARLY)
  yield from hear_out(user, (1 if early else scene.units(6, 16)) if cut_short else 0, early=early)


def hear_out(user: Actor, patience: int, *, early: bool) -> Play:
  """Hears an answer to its end or says stop once the agent has sounded in `patience` units (0: never)."""
  if not patience:
    yield
    yield from user.wait_for_answer()
    return
  scene, spoken, quiet = user.scene, 0, 0
  for _ in range(40):
    speaking = bool((yield))
    spoken, quiet = spoken + speaking, 0 if speaking else quiet + 1
    if spoken >= patience or (spoken and quiet >= 4):
      break
  if spoken >= patience:
    phrase = user.phrase("stop")
    start, end = yield from user.say(phrase.text, "stop", question=False, stop=True)
    when = "early" if early else "late"
    scene.note(start, end, USER, "interrupt", when=when, phrasing=phrase.phrasing)
    yield
  yield from user.wait_for_answer()


def about_you(user: Actor) -> Play:
  """Asks for something about the agent, which is a long answer that it sometimes interrupts."""
  scene, persona = user.scene, user.scene.persona
  words = f"i am {persona.name} i live in {persona.home} and i like {persona.likes}"
  phrase = user.phrase("about_you")
  _, end = yield from user.say(phrase.text, "name")
  user.request("name", end, answer(words, persona.name), phrasing=phrase.phrasing)
  yield from hear_out(user, scene.units(4, 12) if scene.chance(0.6) else 0, early=False)


def spell(user: Actor) -> Play:
  """Asks for the letters of a word, and sometimes interrupts them."""
  scene = user.scene
  words = (*NEW_NAMES, *NEW_HOMES, *NEW_LIKES) if scene.chance(0.5) else (*NAMES, *HOMES, *LIKES, *COLOURS)
  cut_short = scene.chance(0.35)
  shortest, longest = (5, 8) if cut_short else (2, 6)
  word = scene.pick([word for word in words if shortest <= len(word) <= longest])
  phrase, letters = user.phrase("spell", word=word), " ".join(word)
  _, end = yield from user.say(phrase.text, "spell")
  user.request("spell", end, answer(letters, word[0] if cut_short else letters, ALPHABET), phrasing=phrase.phrasing)
  early = scene.chance(EARLY)
  yield from hear_out(user, (2 if early else scene.units(3, 6)) if cut_short else 0, early=early)


def statement(user: Actor) -> Play:
  """Says something that needs no answer."""
  scene = user.scene
  slots = {"likes": scene.pick((*LIKES, *NEW_LIKES)), "home": scene.pick((*HOMES, *NEW_HOMES))}
  phrase = user.phrase("statement", **slots)
  start, end = yield from user.say(phrase.text, "statement", question=False)
  scene.note(start, end, USER, "statement", phrasing=phrase.phrasing)
  yield from user.idle(6)


def story(user: Actor) -> Play:
  """Says two parts with a pause, in which the agent may say mhm; needs no answer at the end."""
  scene = user.scene
  slots = {"one": scene.pick(STORY_WORDS), "two": scene.pick(STORY_WORDS), "home": scene.pick((*HOMES, *NEW_HOMES))}
  phrase = user.phrase("story", **slots)
  first, second = (part.split() for part in phrase.text.split(",", 1))
  begin = scene.time
  line = user.body.say(first, begin)
  scene.requests.append(ScriptRequest("backchannel", (BACKCHANNEL,), "(nods)", scene.last_unit(line.end)))
  scene.note(line.end, line.end + 5 * scene.unit_seconds, USER, "backchannel_place", phrasing=phrase.phrasing)
  start = (scene.last_unit(line.end) + 1 + scene.units(*LONG_PAUSE)) * scene.unit_seconds
  line = user.body.say([word for word in second if word != ","], start)
  while scene.last_unit(line.end) >= scene.now:
    yield
  scene.note(begin, line.end, USER, "speech", act="story", text=" ".join([*first, *second]).replace(" ,", ""))
  scene.note(start, line.end, USER, "statement", phrasing=phrase.phrasing)
  yield from user.idle(6)


def outside(user: Actor) -> Play:
  """Something happens outside, which is typed: the agent says what."""
  scene = user.scene
  text = scene.pick(tuple(OUTSIDE))
  noun = OUTSIDE[text]
  user.type(text)
  user.request("event", scene.time, answer(f"oh the {noun}", noun, tuple(OUTSIDE.values())), typed=True, wordless=True)
  yield
  yield from user.wait_for_answer()


def directive(user: Actor) -> Play:
  """Somebody types what the agent is to do: it does so without a word."""
  scene = user.scene
  text = scene.pick(DIRECTIVES)
  user.type(text)
  scene.requests.append(ScriptRequest("directive", (), text, scene.now))
  scene.note(scene.time, scene.time, USER, "directive", name=text)
  yield from user.idle(10)


def noise(user: Actor) -> Play:
  """Coughs while nobody speaks, which calls for nothing."""
  yield
  user.disturb()
  yield from user.idle(user.scene.units(4, 8))
