"""Acts about taking turns. Counting that is interrupted, statements, stories, and what is typed from outside."""

from wanstreamer_jax.data.duplex_world.actor import Actor
from wanstreamer_jax.data.duplex_world.lexicon import BACKCHANNEL, DIRECTIVES, NUMBERS, OUTSIDE, STORY_WORDS
from wanstreamer_jax.data.duplex_world.personas import HOMES, LIKES, NEW_HOMES, NEW_LIKES
from wanstreamer_jax.data.duplex_world.stage import Play, ScriptRequest, answer
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
  _, end = yield from user.say(drawn.text.format(n=NUMBERS[last]), "counting")
  words, cut_short = " ".join(NUMBERS[1 : last + 1]), scene.chance(0.6)
  wanted = answer(words, "one" if cut_short else "one two three")
  user.request("counting", end, wanted, phrasing=drawn.phrasing, to=last)
  if not cut_short:
    yield
    yield from user.wait_for_answer()
    return
  early = not scene.small and scene.chance(EARLY)
  yield from _interrupt(user, 1 if early else scene.units(6, 16), "early" if early else "late")


def _interrupt(user: Actor, patience: int, when: str) -> Play:
  """Says stop once the agent has sounded in `patience` units, unless it is silent before."""
  scene, spoken, quiet = user.scene, 0, 0
  for _ in range(40):
    speaking = bool((yield))
    spoken, quiet = spoken + speaking, 0 if speaking else quiet + 1
    if spoken >= patience or (spoken and quiet >= 4):
      break
  if spoken >= patience:
    phrase = user.phrase("stop")
    start, end = yield from user.say(phrase.text, "stop", question=False)
    scene.note(start, end, USER, "interrupt", when=when, phrasing=phrase.phrasing)
    scene.stops.append(scene.last_unit(end))
    yield
  yield from user.wait_for_answer()


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
