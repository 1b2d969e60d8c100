"""Who the agent is. Names, homes and likes are drawn from lists, with a voice and a look.

Training agents draw from the lists named without `NEW`; a held-out persona has a name, a home and likes of the `NEW`
lists. Training users say those too (as their own names, in repeat and spell), so that they are heard and spoken in
training, but never as the agent's own.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.duplex_world.voices import agent_voice

NAMES = tuple(
  "ada ben cleo dan eve finn emma hugo iris june kenji leo mara mimi noah nora omar rosa sam vera tom anna max lily "
  "otto jack paul alice oscar ella peter julia david sara adam henry clara simon olga victor maya felix lena bruno "
  "ivan bella jonas greta".split()
)
NEW_NAMES = tuple("zoe mina amber lucy nina ruby grace hana tina carl luis dora edgar kim walter ines".split())
HOMES = tuple(
  "paris london rome oslo cairo dublin berlin lisbon lima tokyo madrid vienna athens prague milan delhi boston dallas "
  "denver sydney havana moscow warsaw geneva venice porto helsinki sofia riga tunis nairobi kyoto".split()
)
NEW_HOMES = tuple("toronto quito zurich naples florence bergen seoul hanoi manila bogota chicago seville".split())
LIKES = tuple(
  "tea music cats chess rivers trains books dogs cake coffee honey bread lemons snow rain flowers birds horses boats "
  "songs films games cars pasta rice soup apples cheese milk football walking reading".split()
)
NEW_LIKES = tuple(
  "cherries juice tennis swimming dancing cooking painting mountains islands gardens winter ships".split()
)


@dataclasses.dataclass(frozen=True)
class Persona:
  """Who the agent is: world fields, a voice, and the seed of its look. `new`: training has no such agent."""

  name: str
  home: str
  likes: str
  voice: Voice
  look_seed: int
  new: bool = False


SMALL_PERSONAS = (
  Persona("ada", "paris", "tea", Voice("ada", pitch=205.0, size=1.16, rate=1.0), 24),
  Persona("ben", "london", "music", Voice("ben", pitch=112.0, size=1.0, rate=1.0, tilt=0.45), 81),
)


def draw_persona(rng: np.random.Generator, new: bool, engines: Sequence[str] = ("formant",)) -> Persona:
  """A persona of size "full": one of training or a new one. Looks of odd seeds are for new ones only."""
  names, homes, likes = (NEW_NAMES, NEW_HOMES, NEW_LIKES) if new else (NAMES, HOMES, LIKES)
  pick = lambda words: words[int(rng.integers(len(words)))]
  look = 2 * int(rng.integers(2**20)) + int(new)
  return Persona(pick(names), pick(homes), pick(likes), agent_voice(rng, new, engines), look, new)


def small_persona(rng: np.random.Generator) -> Persona:
  """One of the two personas of size "small"."""
  return SMALL_PERSONAS[int(rng.integers(len(SMALL_PERSONAS)))]
