"""The agent that answers perfectly: every request one unit after it is complete."""

import dataclasses

from wanstreamer_jax.data.duplex_world.body import Body, Line
from wanstreamer_jax.data.duplex_world.stage import Scene, ScriptRequest
from wanstreamer_jax.data.session import AGENT, Word

DIRECTED_SECONDS = 2.0  # how long a directed smile or look lasts


def perform(body: Body, directive: str, start: float) -> None:
  """Does what a directive such as "(looks left)" says."""
  end = start + DIRECTED_SECONDS
  name = directive.strip("()")
  if name.startswith("looks "):
    body.look(name.split()[1], start, end)
  elif name == "smiles":
    body.smile(start, end)
  elif name == "surprised":
    body.surprise(start, end)
  else:
    {"nods": body.nod, "shakes head": body.shake, "waves": body.wave, "thumb up": body.thumb_up}[name](start)


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
    for request in [request for request in scene.requests if request.unit + 1 == scene.now]:
      self.answer(request)
    if scene.stops and scene.stops[-1] + 1 == scene.now:
      self.stop()

  def speaking(self) -> bool:
    """Whether it sounds at any time of the unit."""
    start, end = self.scene.time, self.scene.time + self.scene.unit_seconds
    return self._line is not None and self._line.start < end and self._line.end > start

  def answer(self, request: ScriptRequest) -> None:
    """Plans an utterance, a movement, or both: text now, sound `lead` units later."""
    scene, unit = self.scene, self.scene.unit_seconds
    start = (scene.now + self.lead) * unit
    if request.directive:
      perform(self.body, request.directive, start)
      self.words.append(Word(request.directive, scene.time, start, start, voiced=False))
    if not request.words:
      scene.note(start, start, AGENT, "directive", name=request.directive)
      return
    line = self.body.say(list(request.words), start)
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
