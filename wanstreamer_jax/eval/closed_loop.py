"""Rollouts against users that react: batches of sessions in lockstep, judged by `conversation.score`.

A user hears what the agent did up to the unit before, and acts; the agent perceives that and answers; and so
on. Every variant of `lockstep.VARIANTS` meets users with the same seeds. In `shuffled_user` each agent is shown the
user of the next session of its batch, but is judged by (and reacted to by) its own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.encode import world_arrays
from wanstreamer_jax.data.records import video_to_float
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import Keyboard, TextTokenizer
from wanstreamer_jax.eval.baselines import Lockstep, Programs
from wanstreamer_jax.eval.scores import Conversation, Script
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.rollout import Agent, UserUnit


class User(Protocol):
  """A simulated user. `script` says, once the session is over, what called for a reaction."""

  world: World

  def step(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """The agent's last unit of sound, float32 [samples] (silence before the first) -> the user's next unit: float32
    [samples], uint8 [F, H, W, 3], typed texts."""
    ...

  def script(self, units: int) -> Script: ...


MakeUser = Callable[[int], User]  # seed -> a held-out user


def encode_worlds(agent: Agent, tokenizer: TextTokenizer, worlds: Sequence[World]) -> WorldArrays:
  """What the agents know beforehand, as arrays [B, ...]."""
  return jax.tree.map(lambda *xs: jnp.stack(xs), *[world_arrays(agent, tokenizer, world, cut=True) for world in worlds])


def converse(
  agent: Agent, compiled: Programs, tokenizer: TextTokenizer, make_user: MakeUser, seeds: Sequence[int], units: int,
  variant: str = "model",
) -> list[Conversation]:  # fmt: skip
  """One batch of closed-loop sessions, `units` units long; session i has the user of seeds[i]."""
  config, media = agent.config, agent.config.media
  users = [make_user(seed) for seed in seeds]
  worlds = encode_worlds(agent, tokenizer, [user.world for user in users])
  lockstep = Lockstep(agent, compiled, worlds, np.asarray(seeds, np.int32), variant)
  keyboards = [Keyboard(tokenizer, config.layout.user_text_slots) for _ in users]
  size = len(users)
  audio = np.zeros((size, media.samples), np.float32)
  heard, made = [], []
  for _ in range(units):
    acts = [user.step(sound) for user, sound in zip(users, audio)]
    now = UserUnit(
      audio=np.stack([act[0] for act in acts]),
      video=video_to_float(np.stack([act[1] for act in acts])),
      text=np.stack([keyboard(act[2]) for keyboard, act in zip(keyboards, acts)]),
      audio_valid=np.ones(size, bool),
      video_valid=np.ones(size, bool),
    )
    audio, video, text = lockstep.step(now)
    heard.append((now.audio, np.stack([act[1] for act in acts])))
    made.append((audio, video, text))
  return [_conversation(i, seeds[i], user, heard, made, config) for i, user in enumerate(users)]


def _conversation(
  index: int, seed: int, user: User, heard: Sequence[tuple], made: Sequence[tuple], config: Config
) -> Conversation:
  column = lambda rows, field: np.concatenate([row[field][index] for row in rows])
  return Conversation(
    seed=seed,
    script=user.script(len(made)),
    user_audio=column(heard, 0),
    user_video=column(heard, 1),
    agent_audio=column(made, 0),
    agent_video=column(made, 1),
    agent_text=np.stack([row[2][index] for row in made]),
    portrait=user.world.portrait,
  )


def batches(sessions: int, batch: int, seed: int) -> Iterator[tuple[list[int], int]]:
  """(seeds, how many of them count): all batches have the same size, so that one program serves them all."""
  batch = min(batch, sessions)
  for first in range(0, sessions, batch):
    yield [seed + first + i for i in range(batch)], min(batch, sessions - first)
