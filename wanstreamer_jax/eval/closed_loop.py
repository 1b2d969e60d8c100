"""Runs the agent against users that react; `scores.score` judges every conversation. Batches of sessions run in
lockstep.

In turns, a user hears what the agent did up to the previous unit and acts, and the agent perceives the user's unit and
answers. Every variant of `baselines` meets users with the same seeds. In `shuffled_user` each agent perceives
the user of the next session in its batch, but its own user judges it and reacts to it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from wanstreamer_jax.data.encode import world_arrays
from wanstreamer_jax.data.session import MediaUnit, World
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.eval.baselines import PUPPETS, Answers, Lockstep, Puppets
from wanstreamer_jax.eval.scores import Conversation, Script
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.rollout import Agent

Act = tuple[np.ndarray, np.ndarray, Sequence[str]]  # a unit of sound, float32 [samples], pictures, typed texts


class User(Protocol):
  """A simulated user. `script` says, once the session is over, what called for a reaction."""

  world: World

  def step(self, audio: np.ndarray) -> Act:
    """The agent's last unit of sound, float32 [samples] (silence before the first) -> the user's next unit: float32
    [samples], uint8 [F, H, W, 3], typed texts."""
    ...

  def script(self, units: int) -> Script: ...


SHOWN = 2  # conversations of a batch whose user is shown in the report; the pictures of all would need gigabytes
MakeUser = Callable[[int], User]  # seed -> a held-out user


def encode_worlds(agent: Agent, tokenizer: TextTokenizer, worlds: Sequence[World]) -> list[WorldArrays]:
  """What the agents know beforehand; texts that are too long are cut, as in training."""
  return [world_arrays(agent, tokenizer, world, cut=True) for world in worlds]


def converse(
  engine: Engine, make_user: MakeUser, seeds: Sequence[int], units: int, variant: str = "model"
) -> list[Conversation]:
  """One batch of closed-loop sessions, `units` units long, one in every slot; session i has the user of seeds[i]. The
  user's pictures of the first SHOWN sessions are kept."""
  users = [make_user(seed) for seed in seeds]
  acts, answers = [], []
  for now, answer in steps(engine, users, seeds, units, variant):
    acts.append([(sound, video if i < SHOWN else video[:0], typed) for i, (sound, video, typed) in enumerate(now)])
    answers.append(answer)
  return [_conversation(i, seeds[i], user, acts, answers) for i, user in enumerate(users)]


def steps(
  engine: Engine, users: Sequence[User], seeds: Sequence[int], units: int, variant: str = "model"
) -> Iterator[tuple[list[Act], Answers]]:
  """What all users did in a unit and what their agents did, unit by unit; nothing is kept."""
  agents = agents_of(engine, [user.world for user in users], seeds, variant)
  audio = np.zeros((len(users), engine.agent.config.media.samples), np.float32)
  for _ in range(units):
    now = [user.step(heard) for user, heard in zip(users, audio)]
    answer = agents.step([MediaUnit(video, sound) for sound, video, _ in now], [list(typed) for *_, typed in now])
    audio = answer.audio
    yield now, answer


def agents_of(engine: Engine, worlds: Sequence[World], seeds: Sequence[int], variant: str) -> Lockstep | Puppets:
  """The agents of one variant, one for every world."""
  if variant in PUPPETS:
    return Puppets(engine.agent.config, engine.tokenizer, [world.portrait for world in worlds], seeds, variant)
  return Lockstep(engine, encode_worlds(engine.agent, engine.tokenizer, worlds), seeds, variant)


def _conversation(
  index: int, seed: int, user: User, acts: Sequence[Sequence[Act]], answers: Sequence[Answers]
) -> Conversation:
  return Conversation(
    seed=seed,
    script=user.script(len(answers)),
    user_audio=np.concatenate([now[index][0] for now in acts]),
    user_video=np.concatenate([now[index][1] for now in acts]),
    agent_audio=np.concatenate([answer.audio[index] for answer in answers]),
    agent_video=np.concatenate([answer.video[index] for answer in answers]),
    agent_text=np.stack([answer.text[index] for answer in answers]),
    portrait=user.world.portrait,
  )


def batches(sessions: int, batch: int, seed: int) -> Iterator[tuple[list[int], int]]:
  """(seeds, how many of them count): all batches have the same size, so that one program serves them all."""
  batch = min(batch, sessions)
  for first in range(0, sessions, batch):
    yield [seed + first + i for i in range(batch)], min(batch, sessions - first)
