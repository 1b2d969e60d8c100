"""The language of duplex_world: phrasings, personas and objects. Some of them are kept for evaluation.

`small` is a world that a model of a million parameters learns on a CPU; `full` adds colours and personas. A "," in a
phrasing is a place for a pause.
"""

import dataclasses

from wanstreamer_jax.data.duplex_world.things import COLOURS, SMALL_SHAPES
from wanstreamer_jax.data.duplex_world.voice import Voice

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars"}
DIRECTIVES = ("(nods)", "(smiles)", "(looks)")

# act -> (phrasings for training, phrasings for evaluation only)
PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  "greet": (("hello", "hi"), ("hello hello",)),
  "colour": (("what colour , is it", "tell me , the colour"), ("what is , the colour",)),
  "shape": (("what shape , is it", "tell me , the shape"), ("what is , the shape",)),
  "count": (("how many , are there", "how many , do you see"), ("tell me , how many",)),
  "name": (("what is , your name",), ("tell me , your name",)),
  "home": (("where , do you live",), ("tell me , where you live",)),
  "likes": (("what , do you like",), ("tell me , what you like",)),
  "sum": (("what is , {a} plus {b}",), ("tell me , {a} plus {b}",)),
  "repeat": (("say , {word}", "please say , {word}"), ("now say , {word}",)),
  "counting": (("please , count", "count to ten"), ("now , count to ten",)),
  "statement": (("nice day today", "i like music", "this is fun"), ("i like this day",)),
  "story": (("i saw a dog , and then a cat", "i had some tea , and then an apple"), ("i saw a cat , and then a dog",)),
}
STOPS = ("stop", "stop please")
REPEAT_WORDS = ("banana", "apple", "window", "river", "music", "dog", "cat", "house")
BACKCHANNEL = "mhm"
TYPED = {"name": "name", "home": "home", "likes": "likes"}


@dataclasses.dataclass(frozen=True)
class Persona:
  """Who the agent is: world fields, a voice, and the seed of its look."""

  name: str
  home: str
  likes: str
  voice: Voice
  look_seed: int


PERSONAS = (
  Persona("ada", "paris", "tea", Voice("ada", pitch=205.0, size=1.16, rate=1.0), 111),
  Persona("ben", "london", "music", Voice("ben", pitch=112.0, size=1.0, rate=1.0, tilt=0.45), 104),
  Persona("cleo", "rome", "cats", Voice("cleo", pitch=178.0, size=1.12, rate=1.0, breath=0.09), 101),
  Persona("dan", "oslo", "chess", Voice("dan", pitch=98.0, size=0.96, rate=0.95), 113),
  Persona("eve", "cairo", "rivers", Voice("eve", pitch=230.0, size=1.2, rate=1.05), 117),
  Persona("finn", "dublin", "stars", Voice("finn", pitch=125.0, size=1.03, rate=1.0), 121),
)
SMALL_PERSONAS = 2


def answers(act: str) -> tuple[str, ...]:
  """Every word that the answer to an act of the user could be; empty for acts whose answers are no alternatives."""
  if act in ("name", "home", "likes"):
    return tuple(getattr(persona, act) for persona in PERSONAS)
  words = {
    "colour": COLOURS, "remark": COLOURS, "shape": (*SMALL_SHAPES, *PLURALS.values()), "repeat": REPEAT_WORDS,
    "count": NUMBERS, "sum": NUMBERS, "counting": NUMBERS,
  }  # fmt: skip
  return tuple(words.get(act, ()))  # type: ignore[arg-type]


def sum_is_held_out(a: int, b: int) -> bool:
  """One in five of the sums is never heard in training."""
  return (3 * a + b) % 5 == 0


def vocabulary() -> list[str]:
  """Every word that either side says, types or writes, the persona fields included."""
  words: dict[str, None] = dict.fromkeys([*DIRECTIVES, *NUMBERS, BACKCHANNEL, *REPEAT_WORDS])
  for train, held_out in PHRASES.values():
    for phrase in (*train, *held_out):
      words |= dict.fromkeys(w for w in phrase.split() if w[0] not in ",{")
  words |= dict.fromkeys(" ".join((*STOPS, *TYPED.values())).split())
  for persona in PERSONAS:
    words |= dict.fromkeys((persona.name, persona.home, persona.likes))
  words |= dict.fromkeys("hello i am in it is a see oh name home likes red green blue yellow white black".split())
  words |= dict.fromkeys((*PLURALS, *PLURALS.values()))
  return list(words)
