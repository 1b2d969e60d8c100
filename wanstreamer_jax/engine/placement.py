"""Places the performer: beside the thinker, on its own device, or on several. See design section 7.

The thinker holds encoders, COMMIT, HEAR, STATE, TEXT and decoders; the performer holds the solver and a copy of the
KV-cache. In every unit the thinker sends it the new keys and values and gets latents back.

    fused   one device; nothing is sent
    split   two devices
    group   the thinker's device and G others: video tokens spread over them, keys by head (`model/ulysses.py`)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wanstreamer_jax import rollout
from wanstreamer_jax.config import Config
from wanstreamer_jax.engine.phases import over_slots
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.model.transformer import Cache
from wanstreamer_jax.model.ulysses import check_performer_devices, sharded_heads, ulysses_pass
from wanstreamer_jax.rollout import Agent, SessionState
from wanstreamer_jax.units import build_layout

PLACEMENTS = ("fused", "split", "group")
AXIS = "performers"
EVERYWHERE = PartitionSpec()


class Performer(Protocol):
  """Makes the latents of all slots' units. States and latents are stacked over slots, on the thinker's device."""

  def join(self, slot: int, states: SessionState) -> None:
    """Tells the performer that a session began in a slot."""
    ...

  def snapshot(self, states: SessionState) -> Any:
    """What `perform` needs to know about the unit. Runs in the thinker's thread, unlike `perform`."""
    ...

  def perform(self, snapshot: Any) -> Latents:
    """Solves a unit."""
    ...

  def restore(self, states: SessionState) -> None:
    """Replaces the states of all slots at once."""
    ...


def performer_devices(placement: str, config: Config, performers: int | None = None) -> list[jax.Device]:
  """The devices besides the thinker's; none if the performer is fused with it.

  performers: how many devices of a group solve (default: all but the first). Raises ConfigError for an unknown
  placement, or when there are too few devices or they do not divide the work.
  """
  if placement not in PLACEMENTS:
    raise ConfigError(f"placement is {placement!r}: expected one of {', '.join(PLACEMENTS)}")
  if placement == "fused":
    return []
  devices = jax.devices()
  count = 1 if placement == "split" else performers or len(devices) - 1
  if not 1 <= count < len(devices):
    raise ConfigError(
      f"placement {placement} needs the thinker's device and {max(count, 1)} more; there are {len(devices)}: use fused"
    )
  check_performer_devices(config, count)
  return devices[1 : 1 + count]


class FusedPerformer:
  """The performer on the thinker's device. solve: (performer's view of the states) -> latents."""

  def __init__(self, solve: Callable[[SessionState], Latents]):
    self._solve = solve

  def join(self, slot: int, states: SessionState) -> None:
    pass

  def restore(self, states: SessionState) -> None:
    pass

  def snapshot(self, states: SessionState) -> SessionState:
    return performer_view(states)

  def perform(self, snapshot: SessionState) -> Latents:
    return self._solve(snapshot)


class CacheUpdate(NamedTuple):
  """What the performer needs of the entries that a unit added to a session."""

  added: list[Cache]  # what was written to each of `caches`
  unit: jax.Array
  made: jax.Array


def performer_view(state: SessionState) -> SessionState:
  """The part of a session's state that the performer reads."""
  nothing: Any = None
  return state._replace(text_tokens=nothing, hearing=nothing, audio_decoder=nothing, video_decoder=nothing)


def caches(state: SessionState) -> list[Cache]:
  """The session's cache and, with guidance, that of the unconditional branch."""
  return [state.cache] if state.unconditional is None else [state.cache, state.unconditional.cache]


def with_caches(state: SessionState, new: list[Cache]) -> SessionState:
  own, *other = new
  return state._replace(cache=own, unconditional=state.unconditional and state.unconditional._replace(cache=other[0]))


def cache_update(config: Config, state: SessionState) -> CacheUpdate:
  """The tokens that the thinker wrote in this unit."""
  layout, first = build_layout(config), _first_token(config, state)

  def cut(axis: int, rows: jax.Array) -> jax.Array:
    """The tokens of the unit, of S along an axis."""
    return jax.lax.dynamic_slice_in_dim(rows, first, layout.clean_tokens, axis)

  of_layers, of_tokens = (functools.partial(cut, axis) for axis in (2, 0))  # [L, M, S, ...] and [S, ...]
  added = [Cache(jax.tree.map(of_layers, cache.kv), jax.tree.map(of_tokens, cache.coords)) for cache in caches(state)]
  return CacheUpdate(added, state.unit, state.made)


def apply_update(config: Config, state: SessionState, update: CacheUpdate) -> SessionState:
  """The performer's state after an update that it was sent."""
  state = state._replace(unit=update.unit, made=update.made)
  first = _first_token(config, state)

  def put(axis: int, rows: jax.Array, new: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(rows, new, first, axis)

  of_layers, of_tokens = (functools.partial(put, axis) for axis in (2, 0))
  new = [
    Cache(jax.tree.map(of_layers, cache.kv, added.kv), jax.tree.map(of_tokens, cache.coords, added.coords))
    for cache, added in zip(caches(state), update.added)
  ]
  return with_caches(state, new)


def _first_token(config: Config, state: SessionState) -> jax.Array:
  """The cache index of the unit's first token."""
  layout = build_layout(config)
  ring = (state.cache.coords.unit.shape[0] - layout.pinned_tokens) // layout.clean_tokens
  return layout.first_index(state.unit, ring)


class Shardings(NamedTuple):
  """Shardings on the performers' mesh: keys by head, everything else on every device."""

  states: SessionState  # with leading axis [slots]
  row: SessionState  # of one slot
  update: CacheUpdate


def make_shardings(mesh: Mesh, states: SessionState) -> Shardings:
  """For states [slots, ...] as `performer_view` leaves them."""
  by_head = [sharded_heads(cache, AXIS, leading=1) for cache in caches(states)]
  everywhere: Any = jax.tree.map(lambda _: EVERYWHERE, states)
  of_states = with_caches(everywhere, by_head)
  of_update: Any = CacheUpdate(by_head, everywhere.unit, everywhere.made)
  of_row = jax.tree.map(lambda spec: PartitionSpec(*spec[1:]), of_states)
  return Shardings(*jax.tree.map(functools.partial(NamedSharding, mesh), (of_states, of_row, of_update)))


def remote_solver(config: Config, treedef: Any, slots: int, shardings: Shardings) -> jax.stages.Wrapped:
  """The jitted (weights, performer's states, updates) -> (latents, states). Every device has its heads of the cache."""
  one_pass = ulysses_pass(AXIS)

  def solve(weights: list[jax.Array], states: SessionState, updates: CacheUpdate) -> tuple[Latents, SessionState]:
    agent: Agent = jax.tree.unflatten(treedef, weights)

    def one(state: SessionState, update: CacheUpdate) -> tuple[Latents, SessionState]:
      state = apply_update(config, state, update)
      latents = rollout.perform(agent, state, one_pass)[0]
      return latents, rollout.finish_unit(state, latents)  # kept, since REFEED and carry need them

    return over_slots(one, slots)(states, updates)

  spec = jax.tree.map(lambda sharding: sharding.spec, shardings)
  mesh = jax.tree.leaves(shardings)[0].mesh
  spread = jax.shard_map(
    solve, mesh=mesh, in_specs=(EVERYWHERE, spec.states, spec.update), out_specs=(EVERYWHERE, spec.states),
    check_vma=False,
  )  # fmt: skip
  return jax.jit(spread, donate_argnums=1)


@jax.jit
def _row(states: SessionState, slot: jax.Array) -> SessionState:
  return jax.tree.map(lambda rows: rows[slot], states)


@functools.partial(jax.jit, donate_argnums=0)
def _with_row(states: SessionState, slot: jax.Array, row: SessionState) -> SessionState:
  return jax.tree.map(lambda rows, new: rows.at[slot].set(new), states, row)


class RemotePerformer:
  """The performer on devices other than the thinker's, with its own copy of the cache."""

  def __init__(self, agent: Agent, states: SessionState, devices: Sequence[jax.Device]):
    """states: of all slots, on the thinker's device."""
    mesh, slots = Mesh(np.array(devices), (AXIS,)), states.unit.shape[0]
    weights, treedef = jax.tree.flatten(agent)
    self._thinker = states.unit.sharding
    self._shardings = make_shardings(mesh, performer_view(states))
    self._weights = jax.device_put(weights, NamedSharding(mesh, EVERYWHERE))
    self._update = jax.jit(over_slots(functools.partial(cache_update, agent.config), slots))
    self._solve = remote_solver(agent.config, treedef, slots, self._shardings)
    self.restore(states)

  def restore(self, states: SessionState) -> None:
    self._states = jax.device_put(performer_view(states), self._shardings.states)

  def join(self, slot: int, states: SessionState) -> None:
    row = jax.device_put(_row(performer_view(states), jnp.int32(slot)), self._shardings.row)
    self._states = _with_row(self._states, jnp.int32(slot), row)

  def snapshot(self, states: SessionState) -> CacheUpdate:
    return jax.device_put(self._update(states), self._shardings.update)

  def perform(self, snapshot: CacheUpdate) -> Latents:
    latents, self._states = self._solve(self._weights, self._states, snapshot)
    return jax.device_put(latents, self._thinker)

  def compiled_text(self, snapshot: CacheUpdate) -> str:
    """The text of the solver's optimised program, which shows what devices exchange."""
    return self._solve.lower(self._weights, self._states, snapshot).compile().as_text() or ""
