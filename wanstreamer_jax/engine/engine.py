"""The engine steps all sessions of one agent together, one unit at a time. Units are plain NumPy.

    engine = Engine(agent)
    for unit in users_units:
      output = engine.step(unit)

A slot holds one session; its state is one row of every array. A session joins by overwriting the row, and leaves when
its row is no longer read. Neither compiles anything, and no session affects another. A file needs one slot, a server
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
from wanstreamer_jax.data.tokenizer import Keyboard, TextStream, TextTokenizer, tokenizer_of
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
from wanstreamer_jax.errors import CheckpointError, ConfigError, DataError, UserError
from wanstreamer_jax.files import write_json
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.parallel.machine import check_memory
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.rollout import Agent, Sampling, SessionState

STATES, ARRAYS = "engine.json", "engine.safetensors"  # what `Engine.save` writes
SILENCE = MediaUnit()
log = logging.getLogger("wanstreamer")


class ThinkerOutput(NamedTuple):
  """The thinker's result for one unit of all slots, which `Engine.perform` takes."""

  text: np.ndarray  # int32 [slots, n], PAD-filled
  written: list[str]  # the same as strings
  present: list[bool]  # whether the slot has a session
  units: jax.Array  # int32 [slots], which unit of its session every slot made
  snapshot: Any  # what the performer needs
  timer: PhaseTimer


class SlotText:
  """The typed and written text of a slot; converts between ids and strings."""

  def __init__(self, config: Config, tokenizer: TextTokenizer):
    self.keyboard = Keyboard(tokenizer, config.layout.user_text_slots)
    self.stream = TextStream(tokenizer)


class Engine(SlotEngine):
  """`slots` sessions of one agent. For one session call `step`; for several `join`, then `think` and `perform`.

  With a performer on other devices and `commit_delay` 2 (`overlaps`), one thread may think the next unit while another
  performs this one.
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
    for name, value in (("slots", slots), ("capacity", capacity)):
      if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"{name} is {value!r}: expected a whole number of at least 1")
    self.agent, self.media = rollout.cast_layers_to_compute_dtype(agent), agent.config.media
    self.slots, self.placement = slots, placement
    self.capacity = capacity if agent.config.layout.window is None else None
    self.tokenizer = tokenizer_of(agent.config)
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
    """Allocates zero states, without sessions.

    The states are put on the thinker's device explicitly, where a performer's results arrive too; otherwise programs
    would be compiled twice.
    """
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._empty)
    self.states, self.decoders = split_state(jax.device_put(zeros, jax.devices()[0]))
    self._forget()

  def _forget(self) -> None:
    """Clears what is remembered about sessions besides the states."""
    self._text = [SlotText(self.agent.config, self.tokenizer) for _ in range(self.slots)]
    self._began = False  # whether any session did
    # Units and latents that `states` does not have yet; the performer's thread appends, the thinker's takes.
    self._performed: deque[tuple[jax.Array, Latents]] = deque()
    self._committed = PhaseTimer()  # of the unit to come
    self.latents: Latents | None = None  # [slots, ...], of the newest unit

  def reset(self) -> None:
    """Ends all sessions after an error in a step, which may have destroyed the states."""
    del self.states, self.decoders  # there may be no room for two of them
    self._allocate()
    self.performer.restore(self.states)

  def prepare(self, tell: Callable[[str], None] | None = None) -> None:
    """Compiles everything by running two units without users; ends all sessions.

    tell: is called with a line of text after every step.
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
    report(f"{self.slots} of {self.slots} sessions started")
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
    """Times every phase of some units with all slots taken, in milliseconds, after `prepare`; ends all sessions."""
    everybody: tuple[list[MediaUnit], list[list[str]]] = [SILENCE] * self.slots, [[]] * self.slots
    found = []
    for _ in range(units):
      thought = self.think(*everybody)
      self.perform(thought)
      found.append(thought.timer.milliseconds)
    self._began = False
    return found

  def check(self, request: Request) -> None:
    """Raises DataError when the model cannot take the request."""
    world_text(self.agent.config, self.tokenizer, request.world)
    sampling(self.agent.config, request)

  def join(self, slot: int, request: Request) -> None:
    """Begins a session in a slot and overwrites what was there. Raises DataError before anything is changed."""
    try:
      world = world_arrays(self.agent, self.tokenizer, request.world)
      drawing = sampling(self.agent.config, request)
    except UserError:
      raise
    except Exception as error:  # a bug that concerns one session
      log.exception("a session could not start")
      raise DataError("this session could not start; please try again") from error
    self.begin(slot, request.seed, world, drawing)

  def begin(self, slot: int, seed: int, world: WorldArrays, drawing: Sampling) -> None:
    """Does what `join` does, with a world that is already arrays.

    If COMMIT of the unit to come has run, this session misses nothing: its first COMMIT has no latents to show.
    """
    self.settle()
    arguments = (jnp.int32(slot), jax.random.key(seed), world, drawing)
    self.states, self.decoders = self.phases.join(self._weights, (self.states, self.decoders), *arguments)
    self.performer.join(slot, self.states)
    self._text[slot], self._began = SlotText(self.agent.config, self.tokenizer), True

  def unread(self, slot: int) -> int:
    """Number of typed tokens of a slot that still wait for room."""
    return len(self._text[slot].keyboard.waiting)

  def commit(self) -> None:
    """Runs COMMIT before the users' next units arrive. `think` calls it if nobody has."""
    if not self._committed.milliseconds:
      self.settle()
      self.states = self._committed("commit", self.phases.commit, self._weights, self.states)

  def settle(self) -> None:
    """Enters the latents that were performed meanwhile into the states. Runs in the thinker's thread."""
    while self._performed:
      units, latents = self._performed.popleft()
      self.states = with_clock(self.states, self.phases.remember(clock_state(self.states), latents, units))

  def think(self, users: Sequence[MediaUnit | None], typed: Sequence[list[str]]) -> ThinkerOutput:
    """Perceives one unit of every slot's user and writes the agent's words. Runs in the thinker's thread.

    users: by slot, None for an empty slot; typed: texts by slot, which fill as many text slots of this and the next
    units as they need.
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
    """Solves and renders the unit. None for an empty slot and for a session that is no longer finite."""
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
    """Latents of all slots -> what is sent, on the host. Advances the decoders' states."""
    unit, self.decoders = to_host(self.phases.render(self._weights, self.decoders, latents))
    return unit

  def step(self, user: MediaUnit, typed: Sequence[str] = ()) -> UnitOutput:
    """Answers one unit of a session, for engines with one slot. Without `join` it is that of the default `Request`.

    typed: texts that fill as many text slots of this and the next units as they need. Raises CheckpointError when the
    session is no longer finite.
    """
    if user is None:
      raise DataError("user is None: a unit in which nobody is heard or seen is MediaUnit()")
    if not self._began:
      self.join(0, Request())
    return super().step(user, typed)

  def save(self, folder: Path) -> None:
    """Writes the state of all slots into a folder."""
    from safetensors.numpy import save

    self.settle()
    arrays = {name: np.asarray(jax.device_get(leaf)) for name, leaf in named_leaves(self._both()).items()}
    (folder / ARRAYS).write_bytes(save(arrays))  # `save_file` has its own error for a full disk
    text = [{"typed": slot.keyboard.waiting, "written": slot.stream.open} for slot in self._text]
    about = {"agent": self._identity(), "committed": bool(self._committed.milliseconds), "text": text}
    write_json(folder / STATES, about)

  def restore(self, folder: Path) -> None:
    """Restores what `save` wrote. Raises CheckpointError if it belongs to another agent or version."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
      about, arrays = json.loads((folder / STATES).read_text()), load_file(folder / ARRAYS)
    except (OSError, ValueError, SafetensorError) as error:
      raise CheckpointError(f"{folder} does not hold sessions that can be continued: {error}") from error
    if about["agent"] != self._identity() or _shapes(named_leaves(self._both())) != _shapes(arrays):
      raise CheckpointError(
        f"{folder} holds sessions of another agent, of another version, or of another --slots: they cannot be continued"
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
    """Identifies the agent, as far as its states tell."""
    digest = hashlib.sha256(json.dumps(config_to_dict(self.agent.config), sort_keys=True).encode())
    for leaf in self._weights:
      digest.update(np.asarray(leaf.reshape(-1)[:64]).tobytes())
    return digest.hexdigest()


def _shapes(leaves: dict[str, Any]) -> dict[str, Any]:
  return {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def sampling(config: Config, request: Request) -> Sampling:
  """Sampling options of a session. Raises DataError for options that were not compiled."""
  steps, guidance = request.steps, request.guidance
  if steps is not None and steps > config.flow.steps:
    raise DataError(f"steps is {steps}, but the solver was compiled for at most {config.flow.steps} (flow.steps)")
  if guidance is not None and config.flow.guidance is None:
    raise DataError(f"guidance is {guidance:g}, but was not compiled in: flow.guidance is None")
  return Sampling.of(config, request.temperature, request.pad_bias, steps, guidance)


def check_unit(media: MediaConfig, user: MediaUnit) -> None:
  """Raises DataError for a unit that is not what `MediaUnit` says, before a session takes it in."""
  expected = {
    "video": (user.video, (media.frames, media.height, media.width, 3), np.uint8),
    "audio": (user.audio, (media.samples,), np.float32),
  }
  for name, (stream, shape, dtype) in expected.items():
    if stream is not None and (np.shape(stream) != shape or np.asarray(stream).dtype != dtype):
      found = f"{np.asarray(stream).dtype} {list(np.shape(stream))}"
      raise DataError(f"a unit's {name} is {found}: expected {np.dtype(dtype)} {list(shape)}, or None")
  if user.audio is not None and not np.isfinite(user.audio).all():
    raise DataError("a unit's audio has samples that are not finite numbers: expected samples in [-1, 1]")


def host_unit(media: MediaConfig, user: MediaUnit, text: np.ndarray) -> rollout.UserUnit:
  """A unit of media and typed ids as arrays on the host; absent streams are zeros that are not valid."""
  check_unit(media, user)
  frames = (media.frames, media.height, media.width, 3)
  video = np.zeros(frames, np.uint8) if user.video is None else user.video  # floats are made on the device
  audio = np.zeros(media.samples, np.float32) if user.audio is None else user.audio
  return rollout.UserUnit(audio, video, text, np.asarray(user.audio is not None), np.asarray(user.video is not None))
