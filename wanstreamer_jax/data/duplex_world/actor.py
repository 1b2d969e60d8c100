"""The user's means: to speak, ask, show, type, cough and wait. All of it is noted in the ground truth."""

import dataclasses
from collections.abc import Callable, Generator

from wanstreamer_jax.data.duplex_world import grammar
from wanstreamer_jax.data.duplex_world.body import RAISE_SECONDS, Body
from wanstreamer_jax.data.duplex_world.grammar import Phrase
from wanstreamer_jax.data.duplex_world.personas import NAMES, NEW_NAMES
from wanstreamer_jax.data.duplex_world.stage import Answer, Play, Scene, ScriptRequest
from wanstreamer_jax.data.duplex_world.things import Held
from wanstreamer_jax.data.duplex_world.voices import cough
from wanstreamer_jax.data.session import USER, Word

GIVE_UP = 25  # units without a sound after which the user goes on
DONE = 3  # silent units after which an answer is over
CUT_IN = 0.3  # seconds of an interruption after which the agent knows that it is one
DISTURBED = 0.16  # share of the answers during which the user coughs or says mhm


@dataclasses.dataclass(frozen=True)
class Later:
  """An act that is due from a unit on. `blind`: until then nothing is shown."""

  unit: int
  act: Callable[["Actor"], Play]
  blind: bool


class Actor:
  """One user. `held` is what it shows now; `before` what it lowered last, if that was one kind of thing, and when."""

  def __init__(self, scene: Scene, body: Body):
    self.scene, self.body = scene, body
    self.held: tuple[Held, ...] = ()
    self.before: tuple[Held, float] | None = None
    self.later: list[Later] = []
    self.name = scene.pick([name for name in self._names() if name != scene.persona.name])
    self.told: float | None = None  # when it told its name

  def _names(self) -> tuple[str, ...]:
    return NEW_NAMES if self.scene.chance(0.4) else NAMES

  def idle(self, units: int) -> Play:
    for _ in range(units):
      yield

  def wait_for_answer(self) -> Play:
    """Until the agent has spoken and been silent for `DONE` units; gives up after `GIVE_UP` without a sound."""
    heard, quiet = 0, 0
    often = not self.scene.small and self.scene.chance(min(1.0, DISTURBED * self.scene.emphasis))
    disturb = self.scene.units(1, 4) if often else 0
    for _ in range(150):
      speaking = yield
      heard += bool(speaking)
      quiet = 0 if speaking else quiet + 1
      if speaking and disturb and heard == disturb:
        self.disturb()
      if quiet >= (DONE if heard else GIVE_UP):
        return

  def disturb(self) -> None:
    """Coughs, or says mhm: nothing that the agent should stop for."""
    scene = self.scene
    start = scene.time + float(scene.rng.uniform(0, 0.9)) * scene.unit_seconds
    if scene.chance(0.5):
      audio = cough(self.body.sample_rate, scene.rng)
      self.body.make_sound(audio, start)
      end, sound = start + len(audio) / self.body.sample_rate, "cough"
    else:
      end, sound = self.body.say(["mhm"], start).end, "mhm"
    scene.note(start, end, USER, "cough", sound=sound)

  def draw(self, act: str, **slots: str) -> Phrase:
    """A sentence of an act, its slots still open. Held-out users draw seen, composed and new ones, a third each."""
    scene = self.scene
    phrasing = scene.pick(grammar.PHRASINGS) if scene.held_out else grammar.SEEN
    drawn = grammar.draw(scene.rng, act, phrasing, tuple(slots), scene.small)
    return drawn if scene.asides is None else Phrase(scene.asides.of(act, drawn.text), drawn.phrasing)

  def phrase(self, act: str, **slots: str) -> Phrase:
    """A sentence of an act with its slots filled."""
    drawn = self.draw(act, **slots)
    return Phrase(drawn.text.format(**slots), drawn.phrasing)

  def say(
    self, text: str, act: str, *, question: bool = True, stop: bool = False
  ) -> Generator[None, bool, tuple[float, float]]:
    """Speaks a text, sometimes with a pause at a ",", and notes it in the ground truth. Returns (start, end).

    stop: it cuts in, so that the agent is to fall silent once the first word, or `CUT_IN` of it, has been heard.
    """
    scene, parts = self.scene, [part.split() for part in text.split(",")]
    if not (len(parts) > 1 and scene.chance(0.25)):
      parts = [[word for part in parts for word in part]]
    start = scene.time + float(scene.rng.uniform(0, 0.9)) * scene.unit_seconds
    end = start
    for index, words in enumerate(parts):
      begin = end
      if index:
        begin = end + scene.units(3, 7) * scene.unit_seconds
        scene.note(end, begin, USER, "pause", act=act)
      line = self.body.say(words, begin, question=question and index == len(parts) - 1)
      end = line.end
      if stop and not index:
        first = line.utterance.words[0]
        scene.stops.append(scene.last_unit(begin + min(first.end, CUT_IN)))
    while scene.last_unit(end) > scene.now:
      yield
    scene.note(start, end, USER, "speech", act=act, text=" ".join(word for part in parts for word in part))
    return start, end

  def ask(self, act: str, phrase: Phrase, wanted: Answer, **detail: str | float | int | bool) -> Play:
    """Says a phrase that asks for an answer, and waits for it."""
    _, end = yield from self.say(phrase.text, act)
    self.request(act, end, wanted, phrasing=phrase.phrasing, **detail)
    yield
    yield from self.wait_for_answer()

  def request(self, act: str, time: float, wanted: Answer, **detail: str | float | int | bool) -> None:
    """Notes that the agent is to answer now, and what."""
    scene = self.scene
    scene.requests.append(ScriptRequest(act, wanted.words, wanted.directive, max(scene.now, scene.last_unit(time))))
    if wanted.choices:
      detail["choices"] = " ".join(wanted.choices)
    detail = {"phrasing": grammar.SEEN, "persona": "new" if scene.persona.new else "seen", **detail}
    scene.note(time, time, USER, "question", act=act, answer=wanted.right, text=" ".join(wanted.words), **detail)

  def type(self, text: str) -> None:
    """Writes a text in the current unit."""
    time = self.scene.time
    self.scene.typed.append(Word(text, time, time, time))

  def raise_things(self, things: tuple[Held, ...], *, remark: bool) -> None:
    """Holds up one kind of thing, or two, from now on. remark: without a word, so that the agent is to speak."""
    scene, time = self.scene, self.scene.time
    self.lower()
    self.held = things
    self.body.hold(things if len(things) > 1 else things[0], time)
    detail: dict[str, str | int | bool] = {"remark": remark}
    for number, thing in zip(("", "2"), things):
      detail |= {f"shape{number}": thing.shape, f"colour{number}": thing.colour}
      detail |= {f"count{number}": thing.count, f"place{number}": thing.place}
    scene.note(time, time + RAISE_SECONDS, USER, "raise", **detail)

  def lower(self) -> None:
    """Takes down what is held."""
    if self.held:
      time = self.scene.time
      self.body.lower(time)
      self.before = (self.held[0], time) if len(self.held) == 1 else None
      self.held = ()
      self.scene.note(time, time + RAISE_SECONDS, USER, "lower")

  def plan(self, delay: float, act: Callable[["Actor"], Play], *, blind: bool) -> None:
    """Does an act `delay` seconds from now, or soon after."""
    self.later.append(Later(self.scene.now + round(delay / self.scene.unit_seconds), act, blind))
