"""The script: a user who acts and reacts, and an agent that answers perfectly. Both act unit by unit.

The user is a generator: it acts, yields at the end of a unit, and is sent whether the agent was speaking in it.
`make_session` runs it against `PerfectAgent`; the closed-loop evaluation runs the same generator against a model.
"""

import dataclasses
from collections.abc import Generator

import numpy as np

from wanstreamer_jax.data.duplex_world.body import RAISE_SECONDS, Body, Line
from wanstreamer_jax.data.duplex_world.faces import COLOURS, SHAPES, Held
from wanstreamer_jax.data.duplex_world.lexicon import (
  BACKCHANNEL,
  NUMBERS,
  PHRASES,
  PLURALS,
  REPEAT_WORDS,
  STOPS,
  TYPED,
  Persona,
  sum_is_held_out,
)
from wanstreamer_jax.data.session import AGENT, USER, Event, Word

WORLD_VERSION = 2  # raised with every change of what is acted or answered, so that a folder of records is of one world
Play = Generator[None, bool, None]  # yields at the end of every unit, is sent whether the agent was speaking in it


@dataclasses.dataclass
class ScriptRequest:
  """What an act of the user asks of the agent: words (and a directive) after `unit`. A statement asks for none."""

  act: str
  words: list[str]
  directive: str = ""
  unit: int = 0


@dataclasses.dataclass
class Scene:
  """What both sides share: the clock, the ground truth, and the requests that the perfect agent answers."""

  unit_seconds: float
  rng: np.random.Generator
  held_out: bool
  small: bool
  persona: Persona
  now: int = 0
  events: list[Event] = dataclasses.field(default_factory=list)
  requests: list[ScriptRequest] = dataclasses.field(default_factory=list)
  stops: list[int] = dataclasses.field(default_factory=list)  # units at whose end the agent must have fallen silent
  typed: list[Word] = dataclasses.field(default_factory=list)

  @property
  def time(self) -> float:
    return self.now * self.unit_seconds

  def last_unit(self, time: float) -> int:
    """The unit in which something that ends at `time` ends."""
    return int(np.ceil(time / self.unit_seconds - 1e-9)) - 1

  def note(self, start: float, end: float, actor: str, kind: str, **detail: str | float | int | bool) -> None:
    self.events.append(Event(start, end, actor, kind, detail))

  def pick(self, choices: tuple) -> object:
    return choices[int(self.rng.integers(len(choices)))]


class ScriptedUser:
  """The user's endless side of the script. It knows the agent's units up to the previous one."""

  def __init__(self, scene: Scene, body: Body):
    self.scene, self.body = scene, body
    self.thing: Held | None = None
    self.unseen = False  # whether training never has what was last said
    self._play = self.play()
    next(self._play)

  def step(self, spoke: bool) -> None:
    """Acts in unit `scene.now`. spoke: whether the agent sounded in the previous unit; then the user looks at it."""
    if spoke:
      self.body.attention.append((self.scene.time, self.scene.time + self.scene.unit_seconds))
    self._play.send(spoke)

  def play(self) -> Play:
    """Idles, acts, waits for the answer, and so on."""
    acts = (self.ask_seen, self.ask_persona, self.ask_sum, self.ask_repeat, self.counting, self.statement, self.story,
            self.greet, self.raise_silently, self.type_question)  # fmt: skip
    weights = np.array([0.38, 0.1, 0.06, 0.1, 0.08, 0.05, 0.05, 0.04, 0.14, 0.03])
    yield
    yield from self.idle(int(self.scene.rng.integers(2, 8)))
    while True:
      yield from acts[int(self.scene.rng.choice(len(acts), p=weights / weights.sum()))]()
      yield from self.idle(int(self.scene.rng.integers(3, 9)))

  def idle(self, units: int) -> Play:
    for _ in range(units):
      yield

  def wait_for_answer(self) -> Play:
    """Until the agent has spoken and been silent for 3 units; gives up after 4 s without a sound."""
    heard, quiet = False, 0
    for _ in range(120):
      speaking = yield
      heard |= bool(speaking)
      quiet = 0 if speaking else quiet + 1
      if quiet >= (3 if heard else 25):
        return

  def say(self, phrase: str, act: str, *, question: bool = True) -> Generator[None, bool, tuple[float, float]]:
    """Speaks a phrase, sometimes with a pause at a ",", and notes it in the ground truth. Returns (start, end)."""
    scene, parts = self.scene, [part.split() for part in phrase.split(",")]
    pauses = len(parts) > 1 and scene.rng.random() < 0.3
    if not pauses:
      parts = [[word for part in parts for word in part]]
    start = scene.time + float(scene.rng.uniform(0, 0.9)) * scene.unit_seconds
    end = start
    for index, words in enumerate(parts):
      if index:
        gap = int(scene.rng.integers(3, 7)) * scene.unit_seconds
        scene.note(end, end + gap, USER, "pause", act=act)
        start_part = end + gap
      else:
        start_part = start
      line = self.body.say(words, start_part, question=question and index == len(parts) - 1)
      end = line.end
    while scene.last_unit(end) > scene.now:
      yield
    scene.note(start, end, USER, "speech", act=act, text=" ".join(w for part in parts for w in part))
    return start, end

  def ask(self, act: str, phrase: str, words: list[str], answer: str, directive: str = "") -> Play:
    """Asks aloud; `answer` is the word that a right answer must contain."""
    _, end = yield from self.say(phrase, act)
    scene = self.scene
    request = ScriptRequest(act, words, directive, scene.last_unit(end))
    scene.requests.append(request)
    scene.note(end, end, USER, "question", act=act, answer=answer, text=" ".join(words), unseen=self.unseen)
    yield
    yield from self.wait_for_answer()

  def phrase(self, act: str) -> str:
    """A phrasing of training or, in half of the cases of held-out sessions, one that it never has (`unseen`)."""
    train, held_out = PHRASES[act]
    self.unseen = bool(self.scene.held_out and self.scene.rng.random() < 0.5)
    return str(self.scene.pick(held_out if self.unseen else train))

  def raise_thing(self, *, remark: bool) -> Held:
    """Holds up a random thing from now on."""
    scene = self.scene
    colours = tuple(COLOURS)[: 4 if scene.small else 6]
    count = 1 + int(scene.rng.choice(3, p=[0.6, 0.25, 0.15]))
    thing = Held(str(scene.pick(SHAPES)), str(scene.pick(colours)), count, bool(scene.rng.random() < 0.5))
    self.thing = thing
    self.body.hold(thing, scene.time)
    scene.note(
      scene.time, scene.time + RAISE_SECONDS, USER, "raise",
      shape=thing.shape, colour=thing.colour, count=thing.count, left=thing.left, remark=remark,
    )  # fmt: skip
    return thing

  def ask_seen(self) -> Play:
    """Holds something up and asks for its colour, shape or number."""
    scene = self.scene
    thing = self.thing if self.thing is not None and scene.rng.random() < 0.4 else self.raise_thing(remark=False)
    act = str(scene.rng.choice(["colour", "shape", "count"], p=[0.5, 0.3, 0.2]))
    words, answer = answer_seen(act, thing)
    yield from self.ask(act, self.phrase(act), words, answer, "(looks)")
    if scene.rng.random() < 0.3:
      self.body.lower(scene.time)
      scene.note(scene.time, scene.time + RAISE_SECONDS, USER, "lower")
      self.thing = None

  def ask_persona(self) -> Play:
    act = str(self.scene.pick(("name", "home", "likes")))
    words, answer = answer_persona(act, self.scene.persona)
    yield from self.ask(act, self.phrase(act), words, answer)

  def ask_sum(self) -> Play:
    scene = self.scene
    while True:
      a, b = (int(x) for x in scene.rng.integers(1, 6, 2))
      if sum_is_held_out(a, b) == (scene.held_out and scene.rng.random() < 0.5):
        break
    phrase = self.phrase("sum").format(a=NUMBERS[a], b=NUMBERS[b])
    self.unseen |= sum_is_held_out(a, b)
    yield from self.ask("sum", phrase, ["it", "is", NUMBERS[a + b]], NUMBERS[a + b])

  def ask_repeat(self) -> Play:
    word = str(self.scene.pick(REPEAT_WORDS))
    yield from self.ask("repeat", self.phrase("repeat").format(word=word), [word], word)

  def greet(self) -> Play:
    persona = self.scene.persona
    yield from self.ask("greet", self.phrase("greet"), ["hello", "i", "am", persona.name], "hello", "(smiles)")

  def type_question(self) -> Play:
    """Types a question."""
    scene = self.scene
    act = str(scene.pick(("name", "home", "likes")))
    words, answer = answer_persona(act, scene.persona)
    scene.typed.append(Word(TYPED[act], scene.time, scene.time, scene.time))
    scene.requests.append(ScriptRequest(act, words, "", scene.now))
    scene.note(scene.time, scene.time, USER, "question", act=act, answer=answer, text=" ".join(words), typed=True)
    yield
    yield from self.wait_for_answer()

  def statement(self) -> Play:
    """Says something that needs no answer."""
    start, end = yield from self.say(self.phrase("statement"), "statement", question=False)
    self.scene.note(start, end, USER, "statement")
    yield from self.idle(6)

  def story(self) -> Play:
    """Says two parts with a pause, in which the agent may say mhm; needs no answer at the end."""
    scene = self.scene
    first, second = (part.split() for part in self.phrase("story").split(","))
    line = self.body.say(first, scene.time)
    scene.requests.append(ScriptRequest("backchannel", [BACKCHANNEL], "(nods)", scene.last_unit(line.end)))
    scene.note(line.end, line.end + 5 * scene.unit_seconds, USER, "backchannel_place")
    start = (scene.last_unit(line.end) + 1 + int(scene.rng.integers(6, 9))) * scene.unit_seconds
    line = self.body.say(second, start)
    while scene.last_unit(line.end) >= scene.now:
      yield
    scene.note(start, line.end, USER, "statement")
    yield from self.idle(6)

  def raise_silently(self) -> Play:
    """Shows something without a word, on which the agent is to remark."""
    scene = self.scene
    thing = self.raise_thing(remark=True)
    words = ["oh", *description(thing)]
    unit = scene.last_unit(scene.time + RAISE_SECONDS) + 1
    scene.requests.append(ScriptRequest("remark", words, "(smiles)", unit))
    scene.note(scene.time, scene.time + RAISE_SECONDS, USER, "question", act="remark", answer=thing.colour,
               text=" ".join(words))  # fmt: skip
    yield from self.idle(4)
    yield from self.wait_for_answer()

  def counting(self) -> Play:
    """Asks for a count to ten, and mostly interrupts it."""
    scene = self.scene
    _, end = yield from self.say(self.phrase("counting"), "counting")
    scene.requests.append(ScriptRequest("counting", list(NUMBERS[1:]), "", scene.last_unit(end)))
    text = " ".join(NUMBERS[1:])
    scene.note(end, end, USER, "question", act="counting", answer="one", text=text, unseen=self.unseen)
    interrupt = scene.rng.random() < 0.75
    patience = int(scene.rng.integers(6, 16))  # units of speech before the interruption
    speaking_for = 0
    for _ in range(30):
      speaking_for += bool((yield))
      if interrupt and speaking_for >= patience:
        break
      if not interrupt and speaking_for >= 4:
        break
    if not interrupt or speaking_for < patience:
      yield from self.wait_for_answer()
      return
    start, end = yield from self.say(str(scene.pick(STOPS)), "stop", question=False)
    scene.note(start, end, USER, "interrupt")
    scene.stops.append(scene.last_unit(end))
    yield
    yield from self.wait_for_answer()


def description(thing: Held) -> list[str]:
  """one red star; two red stars."""
  return [NUMBERS[thing.count], thing.colour, thing.shape if thing.count == 1 else PLURALS[thing.shape]]


def answer_seen(act: str, thing: Held) -> tuple[list[str], str]:
  """The words of the answer to a question about what is held up, and the one that must be right."""
  number, colour, shape = description(thing)
  if act == "colour":
    return ["it", "is", colour], colour
  return ["i", "see", number, colour, shape], shape if act == "shape" else number


def answer_persona(act: str, persona: Persona) -> tuple[list[str], str]:
  """The words of the answer to a question about the agent, and the one that must be right."""
  if act == "name":
    return ["i", "am", persona.name], persona.name
  if act == "home":
    return ["in", persona.home], persona.home
  return ["i", "like", persona.likes], persona.likes


class PerfectAgent:
  """Answers every request one unit after it is complete; speech sounds `lead` units after it is written."""

  def __init__(self, scene: Scene, body: Body, lead: int):
    self.scene, self.body, self.lead = scene, body, lead
    self.words: list[Word] = []
    self._line: Line | None = None
    self._plan: list[Word] = []

  def step(self) -> None:
    """Acts at the start of unit `scene.now`, knowing the user's units up to the previous one."""
    scene = self.scene
    for request in [r for r in scene.requests if r.unit + 1 == scene.now]:
      self.answer(request)
    if scene.stops and scene.stops[-1] + 1 == scene.now:
      self.stop()

  def speaking(self) -> bool:
    """Whether it sounds at any time of the unit."""
    start, end = self.scene.time, self.scene.time + self.scene.unit_seconds
    return self._line is not None and self._line.start < end and self._line.end > start

  def answer(self, request: ScriptRequest) -> None:
    """Plans an utterance: text now, sound `lead` units later."""
    scene, unit = self.scene, self.scene.unit_seconds
    start = (scene.now + self.lead) * unit
    if request.directive == "(nods)":
      self.body.nods.append(start)
    if request.directive == "(smiles)":
      self.body.smiles.append((start, start + 2.0))
    if request.directive:
      self.words.append(Word(request.directive, scene.time, start, start, voiced=False))
    line = self.body.say(request.words, start)
    self._line, self._plan = line, []
    for word in line.utterance.words:
      onset = start + word.start
      written = max(scene.now, int(onset / unit + 1e-6) - self.lead) * unit
      self._plan.append(Word(word.text, written, onset, start + word.end))
    self.words += self._plan
    kind = "backchannel" if request.act == "backchannel" else "answer"
    scene.note(start, line.end, AGENT, kind, act=request.act, text=" ".join(request.words))

  def stop(self) -> None:
    """Falls silent. Words that are written but not yet voiced stay in the stream, followed by <cut>."""
    scene = self.scene
    if self._line is None or not self.speaking():
      return
    self._line.cut = scene.time
    kept = []
    for word in self._plan:
      if word.start < scene.time:
        kept.append(dataclasses.replace(word, end=min(word.end, scene.time)))
      elif word.written < scene.time:
        kept.append(dataclasses.replace(word, end=word.start, voiced=False))
    self.words = [word for word in self.words if word not in self._plan] + kept
    self.words.append(Word("<cut>", scene.time, scene.time, scene.time, voiced=False))
    self._plan = []
    scene.note(scene.time, scene.time, AGENT, "stopped")
