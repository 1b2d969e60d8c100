"""Many sessions of one agent side by side, one compiled program per unit; and the variants that are baselines.

All sessions tick together. Session i's noise comes from its own seed, so what it does does not depend on its
neighbours. Variants: `model`; `shuffled_user` (session i is shown the user of session i + 1); `text_only` (user sound
and picture are invalid); `copy_previous` (after its first unit, the agent repeats its latents and writes nothing).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax import rollout
from wanstreamer_jax.data.records import video_to_uint8
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.model.tokens import PAD, Latents
from wanstreamer_jax.rollout import Agent, SessionState, UserUnit

VARIANTS = ("model", "shuffled_user", "text_only", "copy_previous")


class Answers(NamedTuple):
  """What B agents did in one unit. audio: float32 [B, samples]; video: uint8 [B, F, H, W, 3]; text: int32 [B, n]."""

  audio: np.ndarray
  video: np.ndarray
  text: np.ndarray


class Programs(NamedTuple):
  """The compiled functions, batched over sessions."""

  start: Any  # (agent, seeds, worlds) -> state
  step: Any  # (agent, state, users) -> state, audio, video, text, latents
  repeat: Any  # (agent, state, latents) -> state, audio, video


def programs(units: int) -> Programs:
  """Programs for sessions of `units` units (the ring size of layouts with full history)."""

  def start(agent: Agent, seed: jax.Array, world: WorldArrays) -> SessionState:
    return rollout.start_session(agent, seed, world, capacity=units)

  def step(agent: Agent, state: SessionState, user: UserUnit) -> tuple[SessionState, Any, Any, Any, Latents]:
    state, spoken = rollout.step_unit(agent, state, user)
    return state, spoken.audio, video_to_uint8(spoken.video), spoken.text, spoken.latents

  def repeat(agent: Agent, state: SessionState, latents: Latents) -> tuple[SessionState, Any, Any]:
    audio, video, state = rollout.render(agent, state, latents)
    return state, audio, video_to_uint8(video)

  batched = lambda f: jax.vmap(f, in_axes=(None, 0, 0))
  return Programs(
    jax.jit(batched(start)), jax.jit(batched(step), donate_argnums=1), jax.jit(batched(repeat), donate_argnums=1)
  )


class Lockstep:
  """B sessions of one variant. `step` takes what the B users did in a unit and returns what the agents did."""

  def __init__(self, agent: Agent, compiled: Programs, worlds: WorldArrays, seeds: np.ndarray, variant: str = "model"):
    if variant not in VARIANTS:
      raise ValueError(f"variant is {variant!r}: expected one of {', '.join(VARIANTS)}")
    if variant == "shuffled_user" and len(seeds) < 2:
      raise ValueError("shuffled_user needs at least 2 sessions side by side")
    self.agent, self.programs, self.variant = agent, compiled, variant
    self._state = compiled.start(agent, jax.vmap(jax.random.key)(jnp.asarray(seeds)), worlds)
    self._latents: Latents | None = None  # copy_previous: what is repeated

  def step(self, users: UserUnit) -> Answers:
    """users: arrays [B, ...], see `rollout.UserUnit`."""
    if self._latents is not None:
      self._state, audio, video = self.programs.repeat(self.agent, self._state, self._latents)
      text = np.full((len(audio), self.agent.config.layout.text_slots), PAD, np.int32)
      return Answers(np.asarray(audio), np.asarray(video), text)
    self._state, audio, video, text, latents = self.programs.step(self.agent, self._state, self.shown(users))
    if self.variant == "copy_previous":
      self._latents = latents
    return Answers(np.asarray(audio), np.asarray(video), np.asarray(text))

  def shown(self, users: UserUnit) -> UserUnit:
    """What the agents of this variant perceive of the users."""
    if self.variant == "shuffled_user":
      return UserUnit(*(np.roll(x, -1, axis=0) for x in users))
    if self.variant == "text_only":
      no = np.zeros_like(users.audio_valid)
      return users._replace(audio_valid=no, video_valid=no)
    return users
