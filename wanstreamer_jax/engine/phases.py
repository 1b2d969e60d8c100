"""Compiles the five phases of a unit: no other module makes programs of model code.

    commit    COMMIT of the next unit            may run before the user's unit is there
    perceive  the user's unit -> tokens
    think     HEAR and STATE, then the TEXT slots
    perform   REFEED once, then the solver
    render    latents -> audio and video as they are sent

They are the functions that `rollout.step_unit` composes. Each is a separate program, so that every phase can be timed
and COMMIT can run before the user's unit arrives. States never leave the device.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wanstreamer_jax import rollout
from wanstreamer_jax.data.records import video_to_float, video_to_uint8
from wanstreamer_jax.engine.interface import Span
from wanstreamer_jax.model.streamer import UserTokens, WorldArrays
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.rollout import Agent, SessionState


class Rendered(NamedTuple):
  """A unit of all slots, as it is sent."""

  audio: Any  # float32 [slots, samples] in [-1, 1]
  video: Any  # uint8 [slots, frames, H, W, 3]
  finite: Any  # bool [slots]: whether the session's audio and state are finite


class Phases(NamedTuple):
  """The jitted phases over all slots. States, users and latents have a leading axis [slots].

  weights: `jax.tree.leaves(agent)`. jit flattens its arguments at every call. For an NNX module this is Python
  work of 0.85 ms in each of a unit's five calls; for a list it takes a fiftieth of that. States are donated: their
  buffers are reused.
  """

  join: Callable[..., tuple[SessionState, SessionState]]  # (weights, both states, slot, seed, WorldArrays, Sampling)
  commit: Callable[..., SessionState]  # (weights, states)
  perceive: Callable[..., tuple[UserTokens, SessionState]]  # (weights, states, UserUnit with uint8 video)
  think: Callable[..., tuple[jax.Array, SessionState, SessionState]]  # (weights, states, tokens) -> text, states, clock
  perform: Callable[..., Latents]  # (weights, performer's view of states)
  render: Callable[..., tuple[Rendered, SessionState]]  # (weights, decoders' states, latents)
  remember: Callable[..., SessionState]  # (clock, latents, units) -> clock
  step: jax.stages.Wrapped  # (weights, whole states, UserUnit) -> (Rendered, states): all five as one program


def compile_phases(treedef: Any, slots: int, capacity: int | None = None) -> Phases:
  """Makes the jitted phases; nothing is compiled before the first call.

  treedef: of the agent, whose leaves the phases take; capacity: units of history for layouts without a window.
  """

  def program(function: Callable[..., Any], donates: bool = True) -> jax.stages.Wrapped:
    def run(weights: list[jax.Array], *arguments: Any) -> Any:
      agent = jax.tree.unflatten(treedef, weights)
      return over_slots(functools.partial(function, agent), slots)(*arguments)

    run.__name__ = function.__name__  # the name that profiles and compilation logs show
    return jax.jit(run, donate_argnums=1 if donates else ())

  def join(weights, states, slot, seed, world, sampling):
    agent = jax.tree.unflatten(treedef, weights)
    state = rollout.start_session(agent, seed, world, capacity=capacity)._replace(sampling=sampling)
    return jax.tree.map(lambda rows, row: rows.at[slot].set(row), states, split_state(state))

  return Phases(
    join=jax.jit(join, donate_argnums=1),
    commit=program(rollout.commit),
    perceive=program(perceive),
    think=program(think),
    perform=program(perform, donates=False),
    render=program(render_checked),
    remember=jax.jit(over_slots(rollout.remember, slots)),
    step=program(step),
  )


def over_slots(function: Callable[..., Any], slots: int) -> Callable[..., Any]:
  """Turns a function of one session into one of all: every array of arguments and results gets a first axis [slots].

  Rows never mix. With one slot there is no batch axis in the program: it is that of a single session.
  """
  if slots > 1:
    return jax.vmap(function)

  def alone(*arguments: Any) -> Any:
    result = function(*jax.tree.map(lambda rows: jnp.squeeze(rows, 0), arguments))
    return jax.tree.map(lambda row: jnp.expand_dims(row, 0), result)

  return alone


def abstract_states(agent: Agent, slots: int, capacity: int | None = None) -> SessionState:
  """The shapes of all sessions' states. Raises ConfigError for full history without a capacity."""
  start = functools.partial(rollout.start_session, capacity=capacity)
  one = jax.eval_shape(start, agent, jax.random.key(0), WorldArrays.empty(agent.config))
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((slots, *leaf.shape), leaf.dtype), one)


def perceive(agent: Agent, state: SessionState, user: rollout.UserUnit) -> tuple[UserTokens, SessionState]:
  """`rollout.perceive` of a unit as it comes from outside, with uint8 video: floats are made on the device."""
  return rollout.perceive(agent, state, user._replace(video=video_to_float(user.video)))


def think(agent: Agent, state: SessionState, heard: UserTokens) -> tuple[jax.Array, SessionState, SessionState]:
  """-> (text ids int32 [n], the state in which the unit is performed, the clock of the next unit)."""
  text, state, _ = rollout.think(agent, state, heard)
  return text, state, clock_state(rollout.next_unit(state))


def perform(agent: Agent, state: SessionState) -> Latents:
  """`rollout.perform` without its trace."""
  return rollout.perform(agent, state)[0]


def render_checked(agent: Agent, decoders: SessionState, latents: Latents) -> tuple[Rendered, SessionState]:
  """`rollout.render`, converted to what is sent. Reads and writes only the decoders' part of the state."""
  audio, video, decoders = rollout.render(agent, decoders, latents)
  audio, video = to_wire(audio, video)
  finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((latents, audio, decoders))]
  return Rendered(audio, video, jnp.stack(finite).all()), decoders


def step(agent: Agent, state: SessionState, user: rollout.UserUnit) -> tuple[Rendered, SessionState]:
  """The whole unit as one program, for `bench` and `aot`: the least that the phases cost together."""
  state, unit = rollout.step_unit(agent, state, user._replace(video=video_to_float(user.video)))
  audio, video = to_wire(unit.audio, unit.video)
  return Rendered(audio, video, jnp.all(jnp.isfinite(audio))), state


def to_wire(audio: jax.Array, video: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Audio in [-1, 1] and video as uint8."""
  return jnp.clip(audio, -1.0, 1.0), video_to_uint8(video)


def to_host(rendered: tuple[Rendered, SessionState]) -> tuple[Rendered, SessionState]:
  """Copies what is sent to NumPy arrays; the decoders' states stay on the device."""
  unit, decoders = rendered
  return jax.device_get(unit), decoders


def split_state(state: SessionState) -> tuple[SessionState, SessionState]:
  """Splits a state into the thinker's and the decoders' part; the rest is None in each."""
  decoders = _only(state, "audio_decoder", "video_decoder")
  nothing: Any = None
  return state._replace(audio_decoder=nothing, video_decoder=nothing), decoders


def join_state(states: SessionState, decoders: SessionState) -> SessionState:
  """Joins the parts of `split_state`."""
  return states._replace(audio_decoder=decoders.audio_decoder, video_decoder=decoders.video_decoder)


def clock_state(state: SessionState) -> SessionState:
  """The small part of the state that moves at a unit's end; programs over it copy no cache."""
  return _only(state, "unit", "made", "past")


def with_clock(state: SessionState, clock: SessionState) -> SessionState:
  return state._replace(unit=clock.unit, made=clock.made, past=clock.past)


def _only(state: SessionState, *fields: str) -> SessionState:
  nothing: Any = None
  return SessionState(**{name: getattr(state, name) if name in fields else nothing for name in SessionState._fields})


class PhaseTimer:
  """Runs phases to their end and notes their durations, and in `spans`, if given, their start and end times."""

  def __init__(self, spans: list[Span] | None = None) -> None:
    self.milliseconds: dict[str, float] = {}
    self.spans = spans

  def __call__(self, phase: str, function: Callable[..., Any], *arguments: Any) -> Any:
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    end = time.perf_counter()
    self.milliseconds[phase] = (end - begin) * 1000
    if self.spans is not None:
      self.spans.append((phase, begin, end))
    return result
