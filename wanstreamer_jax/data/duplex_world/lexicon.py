"""The words of duplex_world besides its phrasings. Numbers, things, directives, and what an answer can be."""

from wanstreamer_jax.data.duplex_world import grammar
from wanstreamer_jax.data.duplex_world.personas import HOMES, LIKES, NAMES, NEW_HOMES, NEW_LIKES, NEW_NAMES
from wanstreamer_jax.data.duplex_world.things import COLOURS

NUMBERS = tuple(
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
  "eighteen nineteen twenty".split()
)
PLURALS = {
  "circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars", "heart": "hearts",
  "moon": "moons",
}  # fmt: skip
ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz")
LETTERS = tuple("abhklmorstxy")  # on cards: those that differ clearly to the eye and to the ear
DIGITS = tuple("0123456789")
SIDES = ("left", "right")
REPEAT_WORDS = tuple("banana apple window river music dog cat house garden table water flower moon train".split())
STORY_WORDS = tuple("dog cat horse bird train boat bus river garden house cake apple tea bread soup flower".split())
BACKCHANNEL = "mhm"
TYPED = ("name", "home", "likes")  # what the user also asks in writing
# Typed by whoever runs the call: what happens outside, and the noun that the agent then says.
OUTSIDE = {
  "(phone rings)": "phone", "(door bell)": "door", "(dog barks)": "dog", "(rain starts)": "rain",
  "(bus stops)": "bus", "(baby cries)": "baby",
}  # fmt: skip
# Typed too: what the agent is to do without a word.
DIRECTIVES = (
  "(smiles)", "(nods)", "(shakes head)", "(waves)", "(thumb up)", "(looks left)", "(looks right)", "(looks up)",
  "(looks down)", "(surprised)",
)  # fmt: skip
GESTURES = {"wave": "waving", "nod": "nodding", "shake": "shaking", "thumb_up": "thumb"}
FACES = {"smile": "smiling", "surprise": "surprised"}
ANSWER_WORDS = (
  "hello i am it is in like see saw was oh on the left right at top one not both are and yes no you your up there fine "
  "thank do know sorry can welcome goodbye nice smile so hear mhm two"
)


def answers(act: str) -> tuple[str, ...]:
  """Every word that the answer to an act of the user could be; empty for acts whose answers are no alternatives.

  The event's own `choices`, where it has them, go before these.
  """
  words: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS), "remark": tuple(COLOURS), "shape": (*PLURALS, *PLURALS.values()), "letter": ALPHABET,
    "count": NUMBERS, "digit": NUMBERS, "sum": NUMBERS, "next": NUMBERS, "counting": NUMBERS,
    "place": ("left", "right", "top"), "same": ("yes", "no"), "yes_no": ("yes", "no"),
    "name": (*NAMES, *NEW_NAMES), "home": (*HOMES, *NEW_HOMES), "likes": (*LIKES, *NEW_LIKES),
    "face": tuple(FACES.values()),
  }  # fmt: skip
  return words.get(act, ())


def sum_is_held_out(a: int, b: int) -> bool:
  """One in five of the sums is never heard in training."""
  return (3 * a + b) % 5 == 0


def vocabulary() -> list[str]:
  """Every word that either side says, types or writes, the persona fields included."""
  words: dict[str, None] = dict.fromkeys([*DIRECTIVES, *OUTSIDE, *NUMBERS, *ALPHABET, *REPEAT_WORDS, *STORY_WORDS])
  words |= dict.fromkeys((*NAMES, *NEW_NAMES, *HOMES, *NEW_HOMES, *LIKES, *NEW_LIKES, BACKCHANNEL))
  words |= dict.fromkeys(
    (*OUTSIDE.values(), *GESTURES.values(), *FACES.values(), *COLOURS, *PLURALS, *PLURALS.values())
  )
  words |= dict.fromkeys([*ANSWER_WORDS.split(), *grammar.words(), "name", "home", "likes", "before", "things"])
  words |= dict.fromkeys(("colour", "shape", "thing", *SIDES))
  return list(words)
