"""The engine: sessions of one agent in lockstep, a unit at a time, behind plain NumPy units.

    engine = Engine(agent)
    for unit in users_units:
      output = engine.step(unit)

A slot holds one session, whose state is one row of every array. A session joins by overwriting the row, and leaves when
nobody reads it any more: neither compiles anything, and no session notices another. A file needs one slot, a server
several.
"""

import functools
import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax import rollout
from wanstreamer_jax.config import Config, MediaConfig
from wanstreamer_jax.config_files import config_to_dict
from wanstreamer_jax.data.encode import world_arrays, world_text
from wanstreamer_jax.data.loudness import is_loud
from wanstreamer_jax.data.session import MediaUnit, World
from wanstreamer_jax.data.tokenizer import Keyboard, TextStream, TextTokenizer
from wanstreamer_jax.engine.interface import SlotEngine, Span, UnitOutput
from wanstreamer_jax.engine.phases import (
  PhaseTimer,
  Rendered,
  abstract_states,
  clock_state,
  compile_phases,
  split_state,
  to_host,
  with_clock,
)
from wanstreamer_jax.engine.placement import FusedPerformer, Performer, RemotePerformer, performer_devices
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import CheckpointError, DataError, UserError
from wanstreamer_jax.files import write_json
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.model.tokens import PAD, Latents
from wanstreamer_jax.parallel.machine import check_memory
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.rollout import Agent, Sampling, SessionState

STATES, ARRAYS = "engine.json", "engine.safetensors"  # what `Engine.save` writes
SILENCE = MediaUnit()
log = logging.getLogger("wanstreamer")


class ThinkerOutput(NamedTuple):
  """A unit of all slots that was thought, as `Engine.perform` wants it."""

  text: np.ndarray  # int32 [slots, n], PAD-filled
  written: list[str]  # the same for people
  present: list[bool]  # where somebody is
  units: jax.Array  # int32 [slots], which unit of its session every slot made
  snapshot: Any  # what the performer has to know
  timer: PhaseTimer


class SlotText:
  """What is typed and written in a slot, between ids and strings."""

  def __init__(self, config: Config, tokenizer: TextTokenizer):
    self.keyboard = Keyboard(tokenizer, config.layout.user_text_slots)
    self.stream = TextStream(tokenizer)


class Engine(SlotEngine):
  """`slots` sessions of one agent. For one session call `step`; for several `join`, then `think` and `perform`.

  With a performer on other devices and `commit_delay` 2 (`overlaps`), the next unit may be thought in one thread while
  this one is performed in another.
  """

  def __init__(
    self, agent: Agent, slots: int = 1, capacity: int | None = None, placement: str = "fused",
    performers: int | None = None,
  ):  # fmt: skip
    """Allocates; compiles nothing (`prepare` does, or the first unit).

    capacity: units of history for layouts without a window; placement: where the performer runs, see `placement.py`;
    performers: on how many devices besides the first the placement `group` solves (default: all).

    Raises ConfigError when there is too little memory or the placement does not fit, DataError for a tokenizer that is
    not the agent's.
    """
    self.agent, self.media = rollout.cast_layers_to_compute_dtype(agent), agent.config.media
    self.slots, self.placement = slots, placement
    self.capacity = capacity if agent.config.layout.window is None else None
    self.tokenizer = TextTokenizer(agent.config.data.tokenizer)
    check_tokenizer(agent.config, self.tokenizer)
    self._weights, treedef = jax.tree.flatten(self.agent)
    self.phases = compile_phases(treedef, slots, self.capacity)
    self._empty = abstract_states(self.agent, slots, self.capacity)
    check_memory(slots, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self._empty)))
    devices = performer_devices(placement, agent.config, performers)
    self.overlaps = bool(devices) and agent.config.layout.commit_delay == 2
    self.spans: list[Span] | None = None  # a list here is filled with what ran when
    self._allocate()
    self.performer: Performer = (
      RemotePerformer(self.agent, self.states, devices)
      if devices
      else FusedPerformer(functools.partial(self.phases.perform, self._weights))
    )

  def _allocate(self) -> None:
    """Zeros for states, and no sessions.

    They are put on the thinker's device expressly, as what a performer sends back will be: else programs would be
    compiled twice.
    """
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._empty)
    self.states, self.decoders = split_state(jax.device_put(zeros, jax.devices()[0]))
    self._forget()

  def _forget(self) -> None:
    """What is remembered of sessions beside the states."""
    self._text = [SlotText(self.agent.config, self.tokenizer) for _ in range(self.slots)]
    self._began = False  # whether any session did
    # Units and latents that `states` does not have yet; the performer's thread appends, the thinker's takes.
    self._performed: deque[tuple[jax.Array, Latents]] = deque()
    self._committed = PhaseTimer()  # of the unit to come
    self.latents: Latents | None = None  # [slots, ...], of the newest unit

  def reset(self) -> None:
    """After an error in a step, which may have taken the states with it: all sessions are gone."""
    del self.states, self.decoders  # there may be no room for two of them
    self._allocate()
    self.performer.restore(self.states)

  def prepare(self, tell: Callable[[str], None] | None = None) -> None:
    """Compiles everything by running two units without users; all sessions are gone.

    tell: is given a line for people after every step of it.
    """
    media, begin = self.media, time.perf_counter()
    portrait = np.zeros((media.height, media.width, 3), np.uint8)
    world = World(portrait=portrait, voice=np.zeros(media.samples, np.float32))

    def report(what: str) -> None:
      if tell is not None:
        tell(f"  {time.perf_counter() - begin:6.1f} s  {what}")

    nobody: tuple[list[None], list[list[str]]] = [None] * self.slots, [[]] * self.slots
    for slot in range(self.slots):
      self.join(slot, Request(world))
    report(f"{self.slots} of {self.slots} sessions begun")
    self.commit()
    report("commit")
    thought = self.think(*nobody)
    report("perceive and think")
    self.perform(thought)
    report("perform and render")
    self.perform(self.think(*nobody))  # whose COMMIT remembers the first
    report("a second unit")
    self._began = False

  def measure(self, units: int = 30) -> list[dict[str, float]]:
    """Milliseconds of every phase of some units with all slots taken, after `prepare`; all sessions are gone."""
    everybody: tuple[list[MediaUnit], list[list[str]]] = [SILENCE] * self.slots, [[]] * self.slots
    found = []
    for _ in range(units):
      thought = self.think(*everybody)
      self.perform(thought)
      found.append(thought.timer.milliseconds)
    self._began = False
    return found

  def check(self, request: Request) -> None:
    """Raises DataError when the request is more than the model takes."""
    world_text(self.agent.config, self.tokenizer, request.world)
    sampling(self.agent.config, request)

  def join(self, slot: int, request: Request) -> None:
    """Begins a session in a slot, whatever was in it. Raises DataError before anything was touched."""
    try:
      world = world_arrays(self.agent, self.tokenizer, request.world)
      drawing = sampling(self.agent.config, request)
    except UserError:
      raise
    except Exception as error:  # a defect, but one session's
      log.exception("a session could not begin")
      raise DataError("this session could not begin; please start again") from error
    self.begin(slot, request.seed, world, drawing)

  def begin(self, slot: int, seed: int, world: WorldArrays, drawing: Sampling) -> None:
    """As `join`, with a world that is arrays already.

    If COMMIT of the unit to come has run, this session misses nothing: its first COMMIT has no latents to show.
    """
    self.settle()
    arguments = (jnp.int32(slot), jax.random.key(seed), world, drawing)
    self.states, self.decoders = self.phases.join(self._weights, (self.states, self.decoders), *arguments)
    self.performer.join(slot, self.states)
    self._text[slot], self._began = SlotText(self.agent.config, self.tokenizer), True

  def unread(self, slot: int) -> int:
    """Tokens that were typed in a slot and wait for room."""
    return len(self._text[slot].keyboard.waiting)

  def commit(self) -> None:
    """What can be done before the users' next units are there. `think` does it if nobody did."""
    if not self._committed.milliseconds:
      self.settle()
      self.states = self._committed("commit", self.phases.commit, self._weights, self.states)

  def settle(self) -> None:
    """Enters the latents that were performed meanwhile into the states. In the thinker's thread."""
    while self._performed:
      units, latents = self._performed.popleft()
      self.states = with_clock(self.states, self.phases.remember(clock_state(self.states), latents, units))

  def think(self, users: Sequence[MediaUnit | None], typed: Sequence[list[str]]) -> ThinkerOutput:
    """Perceives one unit of every slot's user and writes the agent's words. In the thinker's thread.

    users: by slot, None where nobody is; typed: texts by slot, which enter as many of this and the next units' slots
    as they need.
    """
    self.commit()
    timer, self._committed = self._committed, PhaseTimer(self.spans)
    ids = [slot.keyboard(texts) for slot, texts in zip(self._text, typed)]
    heard, states = timer("perceive", self.phases.perceive, self._weights, self.states, self._host_units(users, ids))
    text, states, next_clock = timer("think", self.phases.think, self._weights, states, heard)
    snapshot = self.performer.snapshot(states)
    self.states = with_clock(states, next_clock)
    written = np.asarray(text)
    strings = [slot.stream(row) for slot, row in zip(self._text, written)]
    return ThinkerOutput(written, strings, [user is not None for user in users], states.unit, snapshot, timer)

  def _host_units(self, users: Sequence[MediaUnit | None], ids: Sequence[np.ndarray]) -> rollout.UserUnit:
    rows = [host_unit(self.media, user or SILENCE, text) for user, text in zip(users, ids)]
    return rollout.UserUnit(*map(np.stack, zip(*rows)))

  def perform(self, thought: ThinkerOutput) -> list[UnitOutput | None]:
    """Solves and renders what was thought. None where nobody is, and where a session is no longer finite."""
    timer = thought.timer
    latents = timer("perform", self.performer.perform, thought.snapshot)
    unit = timer("render", self.render, latents)
    self.latents = latents
    self._performed.append((thought.units, latents))
    return [
      UnitOutput(unit.video[slot], audio, thought.written[slot], is_loud(audio), timer.milliseconds)
      if thought.present[slot] and unit.finite[slot]
      else None
      for slot, audio in enumerate(unit.audio)
    ]

  def render(self, latents: Latents) -> Rendered:
    """Latents of all slots -> what is sent, on the host. The decoders' states go on."""
    unit, self.decoders = to_host(self.phases.render(self._weights, self.decoders, latents))
    return unit

  def step(self, user: MediaUnit, typed: Sequence[str] = ()) -> UnitOutput:
    """Answers one unit of a session, for engines with one slot. Without `join` it is that of the default `Request`.

    typed: texts that enter as many of this and the next units' slots as they need. Raises CheckpointError when the
    session is no longer finite.
    """
    if not self._began:
      self.join(0, Request())
    return super().step(user, typed)

  def save(self, folder: Path) -> None:
    """Writes the state of all slots into a folder."""
    from safetensors.numpy import save

    self.settle()
    arrays = {name: np.asarray(jax.device_get(leaf)) for name, leaf in named_leaves(self._both()).items()}
    (folder / ARRAYS).write_bytes(save(arrays))  # `save_file` says that a disk is full with an error of its own
    text = [{"typed": slot.keyboard.waiting, "written": slot.stream.open} for slot in self._text]
    about = {"agent": self._identity(), "committed": bool(self._committed.milliseconds), "text": text}
    write_json(folder / STATES, about)

  def restore(self, folder: Path) -> None:
    """Takes up what `save` wrote. Raises CheckpointError when that was another agent's."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
      about, arrays = json.loads((folder / STATES).read_text()), load_file(folder / ARRAYS)
    except (OSError, ValueError, SafetensorError) as error:
      raise CheckpointError(f"{folder} does not hold sessions that can be continued: {error}") from error
    if about["agent"] != self._identity() or _shapes(named_leaves(self._both())) != _shapes(arrays):
      raise CheckpointError(
        f"{folder} holds sessions of another agent, or of another --slots: they cannot be continued"
      )
    self.states, self.decoders = jax.device_put(fill_leaves(self._both(), arrays), jax.devices()[0])
    self.performer.restore(self.states)
    self._forget()
    self._began = True
    if about["committed"]:
      self._committed.milliseconds["commit"] = 0.0
    for slot, value in zip(self._text, about["text"]):
      slot.keyboard.waiting, slot.stream.open = value["typed"], value["written"]

  def _both(self) -> tuple[SessionState, SessionState]:
    return self.states, self.decoders

  def _identity(self) -> str:
    """Which agent this is, as far as its states tell."""
    digest = hashlib.sha256(json.dumps(config_to_dict(self.agent.config), sort_keys=True).encode())
    for leaf in self._weights:
      digest.update(np.asarray(leaf.reshape(-1)[:64]).tobytes())
    return digest.hexdigest()


def _shapes(leaves: dict[str, Any]) -> dict[str, Any]:
  return {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def sampling(config: Config, request: Request) -> Sampling:
  """What a session draws with. Raises DataError for what was not compiled."""
  steps, guidance = request.steps, request.guidance
  if steps is not None and steps > config.flow.steps:
    raise DataError(f"steps is {steps}, but the solver was compiled for at most {config.flow.steps} (flow.steps)")
  if guidance is not None and config.flow.guidance is None:
    raise DataError(f"guidance is {guidance:g}, but was not compiled in: flow.guidance is None")
  return Sampling.of(config, request.temperature, request.pad_bias, steps, guidance)


def host_unit(media: MediaConfig, user: MediaUnit, text: np.ndarray) -> rollout.UserUnit:
  """A unit of media and typed ids as arrays on the host; absent streams are zeros that are not valid."""
  frames = (media.frames, media.height, media.width, 3)
  video = np.zeros(frames, np.uint8) if user.video is None else user.video  # floats are made on the device
  audio = np.zeros(media.samples, np.float32) if user.audio is None else user.audio
  return rollout.UserUnit(audio, video, text, np.asarray(user.audio is not None), np.asarray(user.video is not None))


def check_tokenizer(config: Config, tokenizer: TextTokenizer) -> None:
  """Raises DataError when the tokenizer makes ids that the model has no embedding for."""
  if tokenizer.vocab_size > config.model.vocab:
    raise DataError(
      f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} tokens, but the model embeds {config.model.vocab}: "
      "use the tokenizer that the checkpoint was trained with"
    )
  if tokenizer.pad_id != PAD:
    raise DataError(f"tokenizer {tokenizer.path} pads with id {tokenizer.pad_id}: this model needs {PAD}")
