"""The script of a user who acts and reacts, and how often it does what.

The user is a generator: it acts, yields at the end of a unit, and is sent whether the agent was speaking in it.
`make_session` runs it against `PerfectAgent`; the closed-loop evaluation runs the same generator against a model.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from wanstreamer_jax.data.duplex_world import acts_seen, acts_talk, acts_turns
from wanstreamer_jax.data.duplex_world.actor import Actor
from wanstreamer_jax.data.duplex_world.body import Body
from wanstreamer_jax.data.duplex_world.stage import Play, Scene

WORLD_VERSION = 3  # raised with every change of what is acted or answered, so that a folder of records is of one world
LONG_SILENCE = 0.04  # share of the pauses between acts that last seconds


@dataclasses.dataclass(frozen=True)
class Act:
  """What a user does, how often (weights, of each size of world), and whether it shows something or must be seen.

  joins: its answer joins a word that is heard with what is seen or known, or says it again.
  """

  play: Callable[[Actor], Play]
  full: float
  small: float = 0.0
  shows: bool = False
  seen: bool = False
  joins: bool = False


ACTS = (
  Act(acts_seen.colour, 6.0, 0.19, shows=True),
  Act(acts_seen.shape, 9.0, 0.114, shows=True),
  Act(acts_seen.count, 7.0, 0.076, shows=True),
  Act(acts_seen.place, 5.0, shows=True),
  Act(acts_seen.letter, 8.0, shows=True),
  Act(acts_seen.digit, 7.0, shows=True),
  Act(acts_seen.same, 5.0, shows=True, joins=True),
  Act(acts_seen.which, 4.0, shows=True, joins=True),
  Act(acts_seen.correction, 4.0, shows=True, joins=True),
  Act(acts_seen.yes_no, 3.0, shows=True, joins=True),
  Act(acts_seen.memory, 17.0, shows=True),
  Act(acts_seen.remark, 4.0, 0.14, shows=True),
  Act(acts_seen.gesture, 4.0, seen=True),
  Act(acts_seen.face, 3.0, seen=True),
  Act(acts_talk.name, 2.5, 0.034),
  Act(acts_talk.home, 2.5, 0.033),
  Act(acts_talk.likes, 2.5, 0.033),
  Act(acts_talk.yes_no_persona, 2.0, joins=True),
  Act(acts_talk.type_question, 1.0, 0.03),
  Act(acts_talk.greet, 1.5, 0.04),
  Act(acts_talk.tell_name, 3.0, joins=True),
  Act(acts_talk.who_am_i, 0.5),
  Act(acts_talk.repeat, 6.5, 0.1, joins=True),
  Act(acts_talk.add, 6.0, 0.06, joins=True),
  Act(acts_talk.neighbour, 4.0),
  Act(acts_talk.how_are_you, 1.2),
  Act(acts_talk.thanks, 1.0),
  Act(acts_talk.goodbye, 1.0),
  Act(acts_talk.refusal, 2.0),
  Act(acts_turns.counting, 5.5, 0.08),
  Act(acts_turns.spell, 5.0, joins=True),
  Act(acts_turns.about_you, 4.0),
  Act(acts_turns.statement, 4.0, 0.05),
  Act(acts_turns.story, 3.5, 0.05),
  Act(acts_turns.outside, 2.0),
  Act(acts_turns.directive, 2.0),
  Act(acts_turns.noise, 1.0),
)


class ScriptedUser(Actor):
  """The user's endless side of the script. It knows the agent's units up to the previous one."""

  def __init__(self, scene: Scene, body: Body):
    super().__init__(scene, body)
    self._play = self.play()
    next(self._play)

  def step(self, spoke: bool) -> None:
    """Acts in unit `scene.now`. spoke: whether the agent sounded in the previous unit; then the user looks at it."""
    if spoke:
      self.body.attention.append((self.scene.time, self.scene.time + self.scene.unit_seconds))
    self._play.send(spoke)

  def play(self) -> Play:
    """Idles, acts, waits for the answer, and so on."""
    scene = self.scene
    yield
    yield from self.idle(scene.units(2, 8))
    while True:
      yield from self.next_act()(self)
      if scene.small:
        yield from self.idle(scene.units(3, 9))
      else:
        yield from self.idle(scene.units(12, 25) if scene.chance(LONG_SILENCE) else scene.units(0, 6))

  def next_act(self) -> Callable[[Actor], Play]:
    """What is due, else something by weight that leaves alone what is to be remembered."""
    for later in self.later:
      if later.unit <= self.scene.now:
        self.later.remove(later)
        return later.act
    blind, off = any(later.blind for later in self.later), self.scene.camera_off
    choices = [act for act in ACTS if not ((act.shows and (blind or off)) or (act.seen and off))]
    often = lambda act: self.scene.emphasis if act.joins else 1.0
    weights = np.array([act.small if self.scene.small else act.full * often(act) for act in choices])
    return choices[int(self.scene.rng.choice(len(choices), p=weights / weights.sum()))].play
