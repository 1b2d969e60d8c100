"""What the user shows and asks about. Things, cards, two things at once, what was shown before, gestures, faces."""

from collections.abc import Generator

import numpy as np

from wanstreamer_jax.data.duplex_world.actor import Actor
from wanstreamer_jax.data.duplex_world.body import RAISE_SECONDS
from wanstreamer_jax.data.duplex_world.grammar import Phrase
from wanstreamer_jax.data.duplex_world.lexicon import DIGITS, FACES, GESTURES, LETTERS, NUMBERS, PLURALS, SIDES
from wanstreamer_jax.data.duplex_world.stage import Answer, Play, answer
from wanstreamer_jax.data.duplex_world.things import COLOURS, PLACES, SHAPES, SMALL_SHAPES, Held
from wanstreamer_jax.data.session import USER

KEEP = 0.35  # chance that what is held is asked about once more
LOWER = 0.3  # chance that it is lowered after the answer
SMALL_COLOURS = 4
SHARES_OF_COUNTS = (0.4, 0.28, 0.2, 0.12)  # of one, two, three and four things
SHORTEST_MEMORY, LONGEST_MEMORY = 1.5, 32.0  # seconds between lowering a thing and asking for it
FAR = 9.0  # seconds from which on a memory is far
MEMORY_NEEDS = 11.0  # seconds that are left of the session


def _colours(user: Actor) -> tuple[str, ...]:
  return tuple(COLOURS)[:SMALL_COLOURS] if user.scene.small else tuple(COLOURS)


def random_thing(user: Actor, most: int = 4) -> Held:
  """Up to `most` equal shapes at one place."""
  scene = user.scene
  most = min(most, 3) if scene.small else most
  shares = SHARES_OF_COUNTS[:most]
  count = 1 + int(scene.rng.choice(most, p=[share / sum(shares) for share in shares]))
  shapes = SMALL_SHAPES if scene.small else SHAPES
  return Held(scene.pick(shapes), scene.pick(_colours(user)), count, scene.pick(SIDES if scene.small else PLACES))


def shown(user: Actor, most: int = 4) -> Held:
  """The one kind of thing that is held, or a new one that is raised now."""
  held = user.held[0] if len(user.held) == 1 else None
  if held is not None and held.shape in SHAPES and held.count <= most and user.scene.chance(KEEP):
    return held
  thing = random_thing(user, most)
  user.raise_things((thing,), remark=False)
  return thing


def card(user: Actor, glyphs: tuple[str, ...]) -> Held:
  """A new card with a letter or a digit."""
  thing = Held(user.scene.pick(glyphs), user.scene.pick(_colours(user)), 1, user.scene.pick(PLACES))
  user.raise_things((thing,), remark=False)
  return thing


def two_things(user: Actor, same: tuple[str, ...] = ()) -> tuple[Held, Held]:
  """One thing at the left and one at the right that differ in colour and shape, but for what is in `same`."""
  scene = user.scene
  first = Held(scene.pick(SHAPES), scene.pick(_colours(user)), 1, "left")
  shape = first.shape if "shape" in same else scene.pick([shape for shape in SHAPES if shape != first.shape])
  colours = [colour for colour in _colours(user) if colour != first.colour]
  colour = first.colour if "colour" in same else scene.pick(colours)
  pair = (first, Held(shape, colour, 1, "right"))
  user.raise_things(pair, remark=False)
  return pair


def _perhaps_lower(user: Actor) -> None:
  if user.scene.chance(LOWER):
    user.lower()


def name_of(thing: Held) -> str:
  """star; stars."""
  return thing.shape if thing.count == 1 else PLURALS[thing.shape]


def description(thing: Held) -> str:
  """one red star; two red stars."""
  return f"{NUMBERS[thing.count]} {thing.colour} {name_of(thing)}"


def answer_seen(act: str, thing: Held) -> Answer:
  """The answer to a question about the one kind of thing that is held up."""
  if act == "colour":
    return answer(f"it is {thing.colour}", thing.colour)
  if act == "count":
    return answer(f"{NUMBERS[thing.count]} {name_of(thing)}", NUMBERS[thing.count])
  return answer(f"i see {NUMBERS[thing.count]} {name_of(thing)}", name_of(thing))


def _ask_seen(user: Actor, act: str) -> Play:
  thing = shown(user)
  things = PLURALS[thing.shape] if user.scene.chance(0.5) else "things"
  yield from user.ask(act, user.phrase(act, things=things), answer_seen(act, thing))
  _perhaps_lower(user)


def colour(user: Actor) -> Play:
  yield from _ask_seen(user, "colour")


def shape(user: Actor) -> Play:
  yield from _ask_seen(user, "shape")


def count(user: Actor) -> Play:
  yield from _ask_seen(user, "count")


def place(user: Actor) -> Play:
  thing = shown(user, most=1)
  where = {"left": "on the left", "right": "on the right", "up": "at the top"}[thing.place]
  phrase = user.phrase("place", thing=thing.shape)
  yield from user.ask("place", phrase, answer(where, where.split()[-1]))
  _perhaps_lower(user)


def letter(user: Actor) -> Play:
  thing = card(user, LETTERS)
  yield from user.ask("letter", user.phrase("letter"), answer(f"it is {thing.shape}", thing.shape, LETTERS))
  _perhaps_lower(user)


def digit(user: Actor) -> Play:
  thing = card(user, DIGITS)
  number = NUMBERS[int(thing.shape)]
  yield from user.ask("digit", user.phrase("digit"), answer(f"it is {number}", number))
  _perhaps_lower(user)


def same(user: Actor) -> Play:
  """Two things: of one colour, of one shape? A reader may ask whether they are the same at all."""
  scene, attribute = user.scene, user.scene.pick(("colour", "shape"))
  drawn = user.draw("same", attribute=attribute)
  equal, whole = scene.chance(0.5), "{attribute}" not in drawn.text
  other = "shape" if attribute == "colour" else "colour"
  alike = [attribute] if equal else []
  if equal if whole else scene.chance(0.3):
    alike.append(other)
  first, second = two_things(user, tuple(alike))
  if attribute == "colour":
    words = f"yes both are {first.colour}" if equal else f"no {first.colour} and {second.colour}"
  else:
    words = f"yes both are {PLURALS[first.shape]}" if equal else f"no {first.shape} and {second.shape}"
  phrase = Phrase(drawn.text.format(attribute=attribute), drawn.phrasing)
  yield from user.ask("same", phrase, answer(words, words.split()[0]))
  _perhaps_lower(user)


def answer_one(asked: str, thing: Held) -> Answer:
  """The answer to a question about one of two things: its place, its colour or its shape."""
  if asked == "place":
    return answer(f"the {thing.place} one", thing.place, SIDES)
  if asked == "colour":
    return answer(f"it is {thing.colour}", thing.colour, tuple(COLOURS))
  return answer(f"the {thing.shape}", thing.shape, SHAPES)


def _ask_which(user: Actor) -> Generator[None, bool, tuple[str, str, Held]]:
  """Asks about one of two things. Returns what was asked, by what it was named, and the other thing."""
  scene, pair = user.scene, two_things(user)
  asked = scene.pick(("place", "colour", "shape"))
  key = {"place": "colour", "colour": "place", "shape": scene.pick(("colour", "place"))}[asked]
  index = scene.units(0, 2)
  word = getattr(pair[index], key)
  slots = {"key": word} | ({"colour": word} if key == "colour" else {})
  act = {"place": "which", "colour": "which_colour", "shape": "which_shape"}[asked]
  yield from user.ask("which", user.phrase(act, **slots), answer_one(asked, pair[index]))
  return asked, key, pair[1 - index]


def which(user: Actor) -> Play:
  yield from _ask_which(user)
  _perhaps_lower(user)


def correction(user: Actor) -> Play:
  """Asks about one of two things and then corrects itself: "no, the red one"."""
  asked, key, other = yield from _ask_which(user)
  yield from user.idle(user.scene.units(1, 4))
  word = getattr(other, key)
  slots = {"key": word} | ({"colour": word} if key == "colour" else {})
  yield from user.ask("correction", user.phrase("correction", **slots), answer_one(asked, other))
  _perhaps_lower(user)


def yes_no(user: Actor) -> Play:
  """Is it red? Are there two?"""
  scene, thing = user.scene, shown(user)
  yes = scene.chance(0.5)
  if scene.chance(0.6):
    word = thing.colour if yes else scene.pick([colour for colour in _colours(user) if colour != thing.colour])
    words = f"{'yes' if yes else 'no'} it is {thing.colour}"
    phrase = user.phrase("yes_no_colour", word=word, colour=word)
  else:
    others = [number for number in range(1, 5) if number != thing.count]
    number = thing.count if yes else int(scene.rng.choice(others))
    words = f"{'yes' if yes else 'no'} {NUMBERS[thing.count]} {name_of(thing)}"
    phrase = user.phrase("yes_no_count", word=NUMBERS[number])
  yield from user.ask("yes_no", phrase, answer(words, words.split()[0]))
  _perhaps_lower(user)


def memory(user: Actor) -> Play:
  """Asks about a thing, lowers it, does acts that show nothing, and later asks what it was."""
  scene = user.scene
  if scene.left < MEMORY_NEEDS or any(later.blind for later in user.later):
    yield from (shape, count, letter, digit, same)[scene.units(0, 5)](user)
    return
  user.lower()
  yield from _ask_seen(user, scene.pick(("colour", "shape", "count")))
  if user.held:
    yield from user.idle(scene.units(1, 4))
    user.lower()
  longest = max(SHORTEST_MEMORY + 0.5, min(LONGEST_MEMORY, scene.left - 6.0))
  delay = float(np.exp(scene.rng.uniform(np.log(SHORTEST_MEMORY), np.log(longest))))
  if longest > FAR + 4.0 and scene.chance(0.6):
    delay = float(scene.rng.uniform(FAR, min(28.0, longest)))
  user.plan(delay, ask_memory, blind=True)


def ask_memory(user: Actor) -> Play:
  if user.before is None:
    return
  thing, lowered = user.before
  asked = user.scene.pick(("colour", "shape", "count"))
  phrase = user.phrase(f"memory_{asked}")
  if asked == "colour":
    wanted = answer(f"it was {thing.colour}", thing.colour, tuple(COLOURS))
  elif asked == "count":
    wanted = answer(f"{NUMBERS[thing.count]} {name_of(thing)}", NUMBERS[thing.count], NUMBERS)
  else:
    wanted = answer(f"i saw {NUMBERS[thing.count]} {name_of(thing)}", name_of(thing), (*PLURALS, *PLURALS.values()))
  _, end = yield from user.say(phrase.text, "memory")
  user.request("memory", end, wanted, phrasing=phrase.phrasing, age=round(end - lowered, 2), asked=asked)
  yield
  yield from user.wait_for_answer()


def remark(user: Actor) -> Play:
  """Shows something without a word, on which the agent is to remark."""
  thing = random_thing(user)
  user.raise_things((thing,), remark=True)
  _wordless(user, "remark", RAISE_SECONDS, answer(f"oh {description(thing)}", thing.colour, directive="(smiles)"))
  yield from user.idle(4)
  yield from user.wait_for_answer()


def _wordless(user: Actor, act: str, delay: float, wanted: Answer) -> None:
  """Asks for a reaction to what is seen alone, which is clear after `delay` seconds."""
  unit = user.scene.last_unit(user.scene.time + delay) + 1
  user.request(act, (unit + 1) * user.scene.unit_seconds, wanted, wordless=True)


def _move(user: Actor, name: str) -> None:
  """Makes a gesture for about 3 s from now on."""
  body, scene = user.body, user.scene
  start = scene.time
  if name == "wave":
    body.wave(start, 3.0)
  elif name == "thumb_up":
    body.thumb_up(start, 3.0)
  else:
    again = {"nod": (0.0, 1.0, 2.0), "shake": (0.0, 1.4)}[name]
    for later in again:
      (body.nod if name == "nod" else body.shake)(start + later)
  scene.note(start, start + 3.0, USER, "gesture", name=name)


def gesture(user: Actor) -> Play:
  """Waves, nods, shakes its head or shows a thumb; mostly asks what it is doing, else the agent reacts by itself."""
  scene = user.scene
  if user.held:
    user.lower()
    yield from user.idle(3)
  name = scene.pick(tuple(GESTURES))
  _move(user, name)
  if name in ("wave", "thumb_up") and scene.chance(0.35):
    reaction = {"wave": answer("hello there", "hello"), "thumb_up": answer("thank you", "thank")}[name]
    _wordless(user, "gesture", 0.8, reaction)
    yield from user.idle(5)
    yield from user.wait_for_answer()
    return
  words = {"wave": "you are waving", "nod": "you are nodding", "shake": "you are shaking your head"}
  wanted = answer(words.get(name, "your thumb is up"), GESTURES[name], tuple(GESTURES.values()))
  unfit = {"hand"} if name in ("nod", "shake") else {"head"}
  phrase = user.phrase("gesture")
  while unfit & set(phrase.text.split()):  # a reader asks about one of them
    phrase = user.phrase("gesture")
  yield from user.idle(scene.units(0, 4))
  yield from user.ask("gesture", phrase, wanted)


def face(user: Actor) -> Play:
  """Smiles or looks surprised; asks how it looks, or waits for a remark on its smile."""
  scene, body = user.scene, user.body
  name, start = scene.pick(tuple(FACES)), scene.time
  (body.smile if name == "smile" else body.surprise)(start, start + 4.5)
  scene.note(start, start + 4.5, USER, "face", name=name)
  if name == "smile" and scene.chance(0.35):
    _wordless(user, "face", 0.5, answer("nice smile", "smile", ("smile",)))
    yield from user.idle(4)
    yield from user.wait_for_answer()
    return
  yield from user.idle(scene.units(1, 4))
  yield from user.ask("face", user.phrase("face"), answer(f"you are {FACES[name]}", FACES[name]))
