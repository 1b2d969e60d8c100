"""Where the performer runs: with the thinker, on a device of its own, or spread over several (design section 7).

The thinker holds encoders, COMMIT, HEAR, STATE, TEXT and decoders; the performer holds the solver and a copy of the
KV-cache. Every unit the thinker sends it the keys and values that the unit added, and gets latents back.

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
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.model.transformer import Cache
from wanstreamer_jax.model.ulysses import check_performer_devices, sharded_heads, ulysses_pass
from wanstreamer_jax.rollout import Agent, SessionState
from wanstreamer_jax.units import build_layout

PLACEMENTS = ("fused", "split", "group")
AXIS = "performers"


class Performer(Protocol):
  """Makes the latents of all slots' units. States and latents are stacked over slots, on the thinker's device."""

  def join(self, slot: int, states: SessionState) -> None:
    """A session began in a slot."""
    ...

  def brief(self, states: SessionState) -> Any:
    """What has to be known of a unit that was thought. In the thinker's thread, unlike `perform`."""
    ...

  def perform(self, brief: Any) -> Latents:
    """Solves a unit."""
    ...

  def restore(self, states: SessionState) -> None:
    """All slots changed at once."""
    ...


def make_performer(placement: str, agent: Agent, states: SessionState, performers: int | None = None) -> Performer:
  """Raises ConfigError for an unknown placement, or when there are too few devices or they do not divide the work.

  performers: how many devices of a group solve (default: all but the first).
  """
  if placement not in PLACEMENTS:
    raise ConfigError(f"placement is {placement!r}: expected one of {', '.join(PLACEMENTS)}")
  if placement == "fused":
    return Fused(agent)
  devices = jax.devices()
  count = 1 if placement == "split" else performers or len(devices) - 1
  if not 1 <= count < len(devices):
    raise ConfigError(
      f"placement {placement} needs the thinker's device and {max(count, 1)} more; there are {len(devices)}: use fused"
    )
  return Apart(agent, states, devices[1 : 1 + count])


class Fused:
  """The performer on the thinker's device."""

  def __init__(self, agent: Agent):
    self.agent = agent
    self._perform = jax.jit(jax.vmap(lambda agent, state: rollout.perform(agent, state)[0], in_axes=(None, 0)))

  def join(self, slot: int, states: SessionState) -> None:
    pass

  def restore(self, states: SessionState) -> None:
    pass

  def brief(self, states: SessionState) -> SessionState:
    return states

  def perform(self, brief: SessionState) -> Latents:
    return self._perform(self.agent, known(brief))


class News(NamedTuple):
  """What a unit added to a session, as the performer needs it."""

  added: list[Cache]  # what was written to each of `caches`
  unit: jax.Array
  made: jax.Array


def known(state: SessionState) -> SessionState:
  """The part of a session's state that the performer reads."""
  nothing: Any = None
  return state._replace(text_tokens=nothing, hearing=nothing, audio_decoder=nothing, video_decoder=nothing)


def caches(state: SessionState) -> list[Cache]:
  """The session's own, and with guidance that of the unconditional branch."""
  return [state.cache] if state.unconditional is None else [state.cache, state.unconditional.cache]


def with_caches(state: SessionState, new: list[Cache]) -> SessionState:
  own, *other = new
  return state._replace(cache=own, unconditional=state.unconditional and state.unconditional._replace(cache=other[0]))


def news(config: Config, state: SessionState) -> News:
  """The tokens that the thinker wrote in this unit."""
  layout, at = build_layout(config), _place(config, state)
  cut = lambda x: jax.lax.dynamic_slice_in_dim(x, at, layout.clean_tokens)
  of = lambda cache: Cache(jax.tree.map(jax.vmap(cut), cache.kv), jax.tree.map(cut, cache.coords))
  return News([of(cache) for cache in caches(state)], state.unit, state.made)


def heard_of(config: Config, state: SessionState, news: News) -> SessionState:
  """The performer's state with what it was sent."""
  state = state._replace(unit=news.unit, made=news.made)
  at = _place(config, state)
  put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=0)
  of = lambda old, new: Cache(
    jax.tree.map(jax.vmap(put), old.kv, new.kv), jax.tree.map(put, old.coords, new.coords)
  )  # fmt: skip
  return with_caches(state, [of(old, new) for old, new in zip(caches(state), news.added)])


def _place(config: Config, state: SessionState) -> jax.Array:
  """Where the unit's tokens lie in the cache."""
  layout = build_layout(config)
  ring = (state.cache.coords.unit.shape[0] - layout.pinned_tokens) // layout.clean_tokens
  return layout.slot(state.unit, ring)


class Apart:
  """The performer on other devices than the thinker."""

  def __init__(self, agent: Agent, states: SessionState, devices: Sequence[jax.Device]):
    config, count = agent.config, len(devices)
    check_performer_devices(config, count)
    mesh = Mesh(np.array(devices), (AXIS,))
    whole = NamedSharding(mesh, PartitionSpec())
    by_head = lambda cache: sharded_heads(cache, AXIS, leading=1)
    spec: Any = jax.tree.map(lambda _: PartitionSpec(), known(states))
    spec = with_caches(spec, [by_head(cache) for cache in caches(states)])
    self._placed = jax.tree.map(lambda part: NamedSharding(mesh, part), spec)
    everywhere: Any = PartitionSpec()
    news_spec = News(caches(spec), everywhere, everywhere)
    self._news_placed = jax.tree.map(lambda part: NamedSharding(mesh, part), news_spec)
    self._thinker = jax.tree.leaves(states)[0].sharding
    self._agent = jax.device_put(agent, whole)
    one_pass = ulysses_pass(AXIS)

    def solve(agent: Agent, states: SessionState, fresh: News) -> tuple[Latents, SessionState]:
      """Inside the mesh: every device has its heads of the cache."""

      def one(state: SessionState, fresh: News) -> tuple[Latents, SessionState]:
        state = heard_of(config, state, fresh)
        latents = rollout.perform(agent, state, one_pass)[0]
        return latents, rollout.finish_unit(state, latents)  # it remembers what it made: REFEED needs it

      return jax.vmap(one)(states, fresh)

    spread = jax.shard_map(
      solve, mesh=mesh, in_specs=(PartitionSpec(), spec, news_spec), out_specs=(PartitionSpec(), spec), check_vma=False
    )
    self.solve = jax.jit(spread, donate_argnums=1)
    self._news = jax.jit(jax.vmap(functools.partial(news, config)))
    self._put: Callable[..., SessionState] = jax.jit(
      lambda states, slot, row: jax.tree.map(lambda rows, new: rows.at[slot].set(new), states, row), donate_argnums=0
    )
    self._row = jax.jit(lambda states, slot: jax.tree.map(lambda rows: rows[slot], states))
    self.restore(states)

  def restore(self, states: SessionState) -> None:
    self._states = jax.device_put(known(states), self._placed)

  def join(self, slot: int, states: SessionState) -> None:
    row = self._row(known(states), jnp.int32(slot))
    placed = jax.tree.map(
      lambda sharding: NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:])), self._placed
    )
    self._states = self._put(self._states, jnp.int32(slot), jax.device_put(row, placed))

  def brief(self, states: SessionState) -> News:
    return jax.device_put(self._news(states), self._news_placed)

  def perform(self, brief: News) -> Latents:
    latents, self._states = self.solve(self._agent, self._states, brief)
    return jax.device_put(latents, self._thinker)
