"""Many sessions in lockstep: the unit step of one agent over stacked states, one compiled program per phase.

Slots are rows of every leaf of the state. A session joins by overwriting its row, and leaves by nobody looking at it;
neither compiles anything. Rows never mix: `jax.vmap` over the same functions that serve one session.
"""

import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax import rollout
from wanstreamer_jax.config_files import config_to_dict
from wanstreamer_jax.data.encode import world_arrays, world_text
from wanstreamer_jax.data.loudness import is_loud
from wanstreamer_jax.data.media import MediaUnit
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import Keyboard, TextStream, TextTokenizer
from wanstreamer_jax.engine.phases import Clock, Span, UnitOutput, check_tokenizer, encode, host_unit, sampling, shown
from wanstreamer_jax.engine.placement import make_performer
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import CheckpointError, DataError, UserError
from wanstreamer_jax.files import write_json
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.parallel.machine import check_memory
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.rollout import Agent, Sampling, SessionState

STATES, ARRAYS = "engine.json", "engine.safetensors"  # what `SlotEngine.save` writes
log = logging.getLogger("wanstreamer")


class Programs(NamedTuple):
  """The phases over all slots. Each takes the stacked states and gives them back; buffers are reused."""

  join: Callable[..., tuple[SessionState, SessionState]]
  commit: Callable[..., SessionState]
  encode: Callable[..., Any]
  think: Callable[..., Any]
  decode: Callable[..., Any]
  move: Callable[..., SessionState]  # of the clock's part of the state
  remember: Callable[..., SessionState]


class Thought(NamedTuple):
  """What `think` leaves for `answer`: a unit of all slots."""

  brief: Any  # what the performer needs to know
  units: jax.Array  # int32 [slots], every session's own count
  present: list[bool]
  written: list[str]
  clock: Clock


def split(state: SessionState) -> tuple[SessionState, SessionState]:
  """What the thinker and what the decoders remember; the rest is None in each."""
  nothing: Any = None
  decoders = jax.tree.map(lambda _: nothing, state, is_leaf=lambda x: x is not state)
  decoders = decoders._replace(audio_decoder=state.audio_decoder, video_decoder=state.video_decoder)
  return state._replace(audio_decoder=nothing, video_decoder=nothing), decoders


def spoken(agent: Agent, decoders: SessionState, latents: Latents) -> tuple[tuple[jax.Array, ...], SessionState]:
  """Sound, pictures, and whether all that the session says and remembers of it is finite."""
  audio, video, decoders = shown(agent, decoders, latents)
  finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((latents, audio, decoders))]
  return (audio, video, jnp.stack(finite).all()), decoders


def clock_of(state: SessionState) -> SessionState:
  """The small part of the state that moves at a unit's end; programs over it copy no cache."""
  nothing: Any = None
  blank = jax.tree.map(lambda _: nothing, state, is_leaf=lambda x: x is not state)
  return blank._replace(unit=state.unit, made=state.made, past=state.past)


def with_clock(state: SessionState, clock: SessionState) -> SessionState:
  return state._replace(unit=clock.unit, made=clock.made, past=clock.past)


def programs(capacity: int | None) -> Programs:
  """capacity: units of history for layouts without a window."""

  def join(agent: Agent, states: Any, slot: jax.Array, seed: jax.Array, world: Any, sampling: Sampling):
    state = rollout.start_session(agent, seed, world, capacity=capacity)._replace(sampling=sampling)
    return jax.tree.map(lambda rows, row: rows.at[slot].set(row), states, split(state))

  over = lambda function, arguments: jax.vmap(function, in_axes=(None, *[0] * arguments))
  think = lambda agent, state, heard: rollout.think(agent, state, heard)[:2]
  return Programs(
    join=jax.jit(join, donate_argnums=1),
    commit=jax.jit(over(rollout.commit, 1), donate_argnums=1),
    encode=jax.jit(over(encode, 2), donate_argnums=1),
    think=jax.jit(over(think, 2), donate_argnums=1),
    decode=jax.jit(over(spoken, 2), donate_argnums=1),
    move=jax.jit(jax.vmap(rollout.next_unit)),
    remember=jax.jit(jax.vmap(rollout.remember)),
  )


class SlotEngine:
  """`slots` sessions of one agent. Implements `scheduler.SlotEngine`.

  `think` and `perform` make a unit. With a performer elsewhere and `commit_delay` 2 (`overlaps`), the next unit may be
  thought, in one thread, while this one is answered in another.

  capacity: units of history for layouts without a window; placement: see `placement.py`; performers: on how many
  devices besides the first the placement `group` solves (default: all).
  """

  def __init__(
    self, agent: Agent, slots: int, capacity: int | None = None, placement: str = "fused", performers: int | None = None
  ):
    self.agent, self.media, self.slots, self.capacity = (
      rollout.cast_layers_to_compute_dtype(agent),
      agent.config.media,
      slots,
      capacity,
    )
    self.tokenizer = TextTokenizer(agent.config.data.tokenizer)
    check_tokenizer(agent.config, self.tokenizer)
    self.placement, self.programs = placement, programs(capacity)
    start = functools.partial(rollout.start_session, capacity=capacity)
    empty = jax.eval_shape(start, agent, jax.random.PRNGKey(0), self._world(World()))
    self._empty = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((slots, *leaf.shape), leaf.dtype), empty)
    check_memory(slots, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self._empty)))
    self.states, self.decoders = split(self._zeros())
    self.overlaps = placement != "fused" and agent.config.layout.commit_delay == 2
    self._made: list[tuple[jax.Array, Latents]] = []  # units whose latents `states` does not know yet
    self.performer = make_performer(placement, self.agent, self.states, performers)
    self._text = [self._new_text() for _ in range(slots)]
    self.spans: list[Span] | None = None  # a list here is filled with what ran when
    self._committed = Clock()

  def _zeros(self) -> SessionState:
    """On the thinker's device expressly, as what a performer sends back will be: else programs are compiled twice."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._empty)
    return jax.device_put(zeros, jax.devices()[0])

  def reset(self) -> None:
    """After an error in a step, which may have taken the states with it: all sessions are gone."""
    self.states, self.decoders = split(self._zeros())
    self.performer.restore(self.states)
    self._made, self._committed = [], Clock()

  def prepare(self, tell: Callable[[str], None] = lambda _: None) -> None:
    """Compiles everything, by serving silent units to nobody who has a portrait and a voice.

    tell: is called after every step of it, with a line for people.
    """
    media, begin = self.media, time.perf_counter()
    portrait = np.zeros((media.height, media.width, 3), np.uint8)
    world = World(portrait=portrait, voice=np.zeros(media.samples, np.float32))
    report = lambda what: tell(f"  {time.perf_counter() - begin:6.1f} s  {what}")
    for slot in range(self.slots):
      self.join(slot, Request(world))
    report(f"{self.slots} of {self.slots} sessions begun")
    self.commit()
    report("commit")
    thought = self.think([None] * self.slots, [[]] * self.slots)
    report("encode and think")
    self.perform(thought)
    report("perform and decode")
    self.step([None] * self.slots, [[]] * self.slots)  # which remembers the first
    report("a second unit")

  def check(self, request: Request) -> None:
    """Raises DataError when the request is more than the model takes."""
    world_text(self.agent.config, self.tokenizer, request.world)
    sampling(self.agent.config, request)

  def measure(self, units: int = 30) -> list[dict[str, float]]:
    """Milliseconds of every phase of some units with all slots taken, after `prepare`; sessions are lost."""
    nobody: MediaUnit = MediaUnit(None, None)
    found = []
    for _ in range(units):
      answers = self.step([nobody] * self.slots, [[]] * self.slots)
      found += [answer.times for answer in answers[:1] if answer is not None]
    return found

  def join(self, slot: int, request: Request) -> None:
    """Begins a session in a slot, whatever was in it. Raises DataError before anything was touched."""
    try:
      arguments = (jnp.int32(slot), jax.random.PRNGKey(request.seed), self._world(request.world))
      drawing = sampling(self.agent.config, request)
    except UserError:
      raise
    except Exception as error:  # a defect, but one session's
      log.exception("a session could not begin")
      raise DataError("this session could not begin; please start again") from error
    self.settle()
    self.states, self.decoders = self.programs.join(self.agent, (self.states, self.decoders), *arguments, drawing)
    self.performer.join(slot, self.states)
    self._text[slot] = self._new_text()

  def _world(self, world: World) -> Any:
    return world_arrays(self.agent, self.tokenizer, world)

  def _new_text(self) -> tuple[Keyboard, TextStream]:
    return Keyboard(self.tokenizer, self.agent.config.layout.user_text_slots), TextStream(self.tokenizer)

  def save(self, folder: Path) -> None:
    """Writes the state of all slots into a folder."""
    from safetensors.numpy import save

    self.settle()
    whole = (self.states, self.decoders)
    arrays = {name: np.asarray(jax.device_get(leaf)) for name, leaf in named_leaves(whole).items()}
    (folder / ARRAYS).write_bytes(save(arrays))  # `save_file` says that a disk is full with an error of its own
    text = [{"typed": keyboard.waiting, "written": stream.open} for keyboard, stream in self._text]
    write_json(
      folder / STATES, {"agent": self._identity(), "committed": bool(self._committed.milliseconds), "text": text}
    )

  def restore(self, folder: Path) -> None:
    """Takes up what `save` wrote. Raises CheckpointError when that was another agent's."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
      about, arrays = json.loads((folder / STATES).read_text()), load_file(folder / ARRAYS)
    except (OSError, ValueError, SafetensorError) as error:
      raise CheckpointError(f"{folder} does not hold sessions that can be continued: {error}") from error
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in named_leaves((self.states, self.decoders)).items()}
    found = {name: (leaf.shape, leaf.dtype) for name, leaf in arrays.items()}
    if about["agent"] != self._identity() or shapes != found:
      raise CheckpointError(
        f"{folder} holds sessions of another agent, or of another --slots: they cannot be continued"
      )
    leaves = fill_leaves((self.states, self.decoders), arrays)
    self.states, self.decoders = jax.device_put(leaves, jax.devices()[0])  # expressly, as in `_zeros`
    self._made = []
    self.performer.restore(self.states)
    self._committed = Clock()
    if about["committed"]:
      self._committed.milliseconds["commit"] = 0.0
    self._text = [self._new_text() for _ in range(self.slots)]
    for (keyboard, stream), value in zip(self._text, about["text"]):
      keyboard.waiting, stream.open = value["typed"], value["written"]

  def _identity(self) -> str:
    """Which agent this is, as far as its states tell."""
    digest = hashlib.sha256(json.dumps(config_to_dict(self.agent.config), sort_keys=True).encode())
    for leaf in jax.tree.leaves(self.agent):
      digest.update(np.asarray(leaf.reshape(-1)[:64]).tobytes())
    return digest.hexdigest()

  def commit(self) -> None:
    """What can be done before the users' next units are there. `think` does it if nobody did."""
    if not self._committed.milliseconds:
      self.settle()
      self.states = self._committed("commit", self.programs.commit, self.agent, self.states)

  def settle(self) -> None:
    """Latents that were made since enter the states, in the thinker's thread."""
    made, self._made = self._made, []
    for units, latents in made:
      clock = self.programs.remember(clock_of(self.states), latents, units)
      self.states = with_clock(self.states, clock)

  def think(self, users: Sequence[MediaUnit | None], typed: Sequence[list[str]]) -> Thought:
    """Hears one unit of every slot and writes its words. In the thinker's thread."""
    self.commit()
    clock, self._committed = self._committed, Clock(self.spans)
    rows = [
      host_unit(self.media, user or MediaUnit(None, None), keyboard(texts))
      for (keyboard, _), user, texts in zip(self._text, users, typed)
    ]
    inputs = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    heard, states = clock("perceive", self.programs.encode, self.agent, self.states, inputs)
    text, states = clock("think", self.programs.think, self.agent, states, heard)
    written = [stream(np.asarray(row)) for (_, stream), row in zip(self._text, np.asarray(text))]
    brief = self.performer.brief(states)
    self.states = with_clock(states, self.programs.move(clock_of(states)))
    return Thought(brief, states.unit, [user is not None for user in users], written, clock)

  def perform(self, thought: Thought) -> list[UnitOutput | None]:
    """Performs and decodes what was thought. None where nobody is, and where a session is no longer finite."""
    clock = thought.clock
    latents = clock("perform", self.performer.perform, thought.brief)
    (audio, video, finite), self.decoders = clock("render", self._decode, latents)
    self._made.append((thought.units, latents))
    return [
      UnitOutput(video[k], audio[k], thought.written[k], is_loud(audio[k]), clock.milliseconds)
      if here and finite[k]
      else None
      for k, here in enumerate(thought.present)
    ]

  def _decode(self, latents: Latents) -> tuple[tuple[np.ndarray, ...], SessionState]:
    """What was made, on the host; what the decoders remember stays on the device."""
    made, decoders = self.programs.decode(self.agent, self.decoders, latents)
    return jax.device_get(made), decoders

  def step(self, users: Sequence[MediaUnit | None], typed: Sequence[list[str]]) -> list[UnitOutput | None]:
    """One unit in every slot, thought and answered."""
    return self.perform(self.think(users, typed))
