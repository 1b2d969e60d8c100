"""The language of duplex_world: phrasings, personas and objects. Some of them are kept for evaluation.

`small` is a world that a model of a million parameters learns on a CPU; `full` adds colours and personas. A "," in a
phrasing is a place for a pause.
"""

import dataclasses

import numpy as np

from wanstreamer_jax.data.duplex_world import espeak
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


def user_voice(rng: np.random.Generator, held_out: bool) -> Voice:
  """A voice from the training range of pitches, or from the band inside it that training never hears."""
  low, high, gap = 95.0, 240.0, (138.0, 152.0)
  pitch = rng.uniform(*gap) if held_out else rng.uniform(low, high - (gap[1] - gap[0]))
  if not held_out and pitch >= gap[0]:
    pitch += gap[1] - gap[0]
  size = 1.0 + 0.18 * (pitch - low) / (high - low) + rng.uniform(-0.04, 0.04)
  return Voice(
    f"user{pitch:.1f}", pitch=pitch, size=size, rate=rng.uniform(0.92, 1.1), breath=rng.uniform(0.03, 0.1),
    tilt=rng.uniform(0.35, 0.65),
  )  # fmt: skip


def mixed_voice(formant: Voice, rng: np.random.Generator, held_out: bool) -> Voice:
  """`formant` itself or, with equal chance, an espeak-ng voice within 2 semitones of a variant's own pitch."""
  if rng.random() < 0.5:
    return formant
  variants = (espeak.HELD_OUT if held_out else espeak.TRAINING)[int(rng.integers(2))]
  variant = list(variants)[int(rng.integers(len(variants)))]
  pitch = variants[variant] * 2 ** (rng.uniform(-2, 2) / 12)
  return Voice(
    f"{variant}{pitch:.1f}", pitch=pitch, rate=rng.uniform(0.92, 1.1), liveliness=rng.uniform(0.7, 1.3),
    engine="espeak", variant=variant,
  )  # fmt: skip


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
