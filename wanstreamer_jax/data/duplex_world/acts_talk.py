"""What the user asks and tells without showing anything. About the agent and itself, words, numbers, small talk."""

from wanstreamer_jax.data.duplex_world.actor import Actor
from wanstreamer_jax.data.duplex_world.lexicon import NUMBERS, PLURALS, REPEAT_WORDS, TYPED, sum_is_held_out
from wanstreamer_jax.data.duplex_world.personas import (
  HOMES,
  LIKES,
  NAMES,
  NEW_HOMES,
  NEW_LIKES,
  NEW_NAMES,
  Persona,
)
from wanstreamer_jax.data.duplex_world.stage import Answer, Play, answer
from wanstreamer_jax.data.duplex_world.things import COLOURS

EVERY = {"name": (*NAMES, *NEW_NAMES), "home": (*HOMES, *NEW_HOMES), "likes": (*LIKES, *NEW_LIKES)}
NEW_SHARE = 0.6  # of words to repeat or spell that no training agent has as its own


def answer_persona(act: str, persona: Persona) -> Answer:
  """The answer to a question about the agent's name, home or likes."""
  own = getattr(persona, act)
  return answer({"name": f"i am {own}", "home": f"in {own}", "likes": f"i like {own}"}[act], own)


def _ask_persona(user: Actor, act: str) -> Play:
  yield from user.ask(act, user.phrase(act), answer_persona(act, user.scene.persona))


def name(user: Actor) -> Play:
  yield from _ask_persona(user, "name")


def home(user: Actor) -> Play:
  yield from _ask_persona(user, "home")


def likes(user: Actor) -> Play:
  yield from _ask_persona(user, "likes")


def type_question(user: Actor) -> Play:
  """Types a question about the agent."""
  scene, act = user.scene, user.scene.pick(TYPED)
  user.type(act)
  user.request(act, scene.time, answer_persona(act, scene.persona), typed=True)
  yield
  yield from user.wait_for_answer()


def yes_no_persona(user: Actor) -> Play:
  """Are you ada? Do you live in rome? Do you like tea?"""
  scene, act = user.scene, user.scene.pick(("name", "home", "likes"))
  own, yes = getattr(scene.persona, act), user.scene.chance(0.5)
  word = own if yes else scene.pick([word for word in EVERY[act] if word != own])
  said = "yes" if yes else "no"
  words = {"name": f"{said} i am {own}", "home": f"{said} in {own}", "likes": f"{said} i like {own}"}[act]
  yield from user.ask("yes_no", user.phrase(f"yes_no_{act}", word=word), answer(words, said))


def greet(user: Actor) -> Play:
  words = f"hello i am {user.scene.persona.name}"
  yield from user.ask("greet", user.phrase("greet"), answer(words, "hello", directive="(smiles)"))


def tell_name(user: Actor) -> Play:
  """Tells its name, and asks for it later."""
  scene = user.scene
  phrase = user.phrase("tell_name", name=user.name)
  yield from user.ask("tell_name", phrase, answer(f"hello {user.name}", user.name))
  if user.told is None:
    longest = min(45.0, 0.7 * scene.left - 2.0)
    if longest > 2.0:
      user.plan(float(scene.rng.uniform(1.0, longest)), who_am_i, blind=False)
  user.told = scene.time


def who_am_i(user: Actor) -> Play:
  """Asks for its own name; if it has not told it, the agent does not know."""
  if user.told is None:
    yield from user.ask("who_am_i", user.phrase("who_am_i"), answer("i do not know", "know"))
    return
  wanted, age = answer(f"you are {user.name}", user.name), round(user.scene.time - user.told, 2)
  yield from user.ask("who_am_i", user.phrase("who_am_i"), wanted, age=age)


def repeat(user: Actor) -> Play:
  """Asks for one word, or for two."""
  word = _word(user)
  if not user.scene.small and user.scene.chance(0.35):
    word = f"{user.scene.pick((*COLOURS, *NUMBERS[2:]))} {word}"
  yield from user.ask("repeat", user.phrase("repeat", word=word), answer(word, word))


def _word(user: Actor) -> str:
  """Something to say: half of the time a name, a home or likes, among them those that no training agent has."""
  scene = user.scene
  if scene.small:
    return scene.pick(REPEAT_WORDS[:8])
  if scene.chance(NEW_SHARE):
    return scene.pick((*NEW_NAMES, *NEW_HOMES, *NEW_LIKES))
  if scene.chance(0.5):
    return scene.pick((*NAMES, *HOMES, *LIKES))
  return scene.pick((*REPEAT_WORDS, *PLURALS, *PLURALS.values(), *COLOURS))


def add(user: Actor) -> Play:
  """A sum; of held-out sessions half are sums that training never has."""
  scene, highest = user.scene, 5 if user.scene.small else 9
  kept = scene.held_out and scene.chance(0.5)
  while True:
    a, b = (int(x) for x in scene.rng.integers(1, highest + 1, 2))
    if sum_is_held_out(a, b) == kept:
      break
  total = NUMBERS[a + b]
  phrase = user.phrase("sum", a=NUMBERS[a], b=NUMBERS[b])
  yield from user.ask("sum", phrase, answer(f"it is {total}", total), trained=not kept)


def neighbour(user: Actor) -> Play:
  """What comes after seven? Or before it?"""
  number = int(user.scene.rng.integers(1, 20))
  act, step = ("after", 1) if user.scene.chance(0.6) else ("before", -1)
  phrase = user.phrase(act, n=NUMBERS[number], a=NUMBERS[number])
  wanted = NUMBERS[number + step]
  yield from user.ask("next", phrase, answer(f"it is {wanted}", wanted))


def how_are_you(user: Actor) -> Play:
  yield from user.ask("how_are_you", user.phrase("how_are_you"), answer("i am fine", "fine"))


def thanks(user: Actor) -> Play:
  yield from user.ask("thanks", user.phrase("thanks"), answer("you are welcome", "welcome"))


def goodbye(user: Actor) -> Play:
  yield from user.ask("goodbye", user.phrase("goodbye"), answer("goodbye", "goodbye"))


def refusal(user: Actor) -> Play:
  """Asks for what the agent cannot do."""
  yield from user.ask("refusal", user.phrase("refusal"), answer("sorry i can not", "sorry"))
