"""Laws 3 and 6 for what people use: the engine's separate programs are the rollout, whenever COMMIT is run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.agents import random_users, random_weights, small_config
from wanstreamer_jax import rollout
from wanstreamer_jax.data.encode import world_arrays
from wanstreamer_jax.data.media import MediaUnit
from wanstreamer_jax.data.records import video_to_float
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import Keyboard, TextStream
from wanstreamer_jax.engine.phases import StreamEngine
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.rollout import Agent

UNITS = 8  # past the window and the sinks
WORLD = World(fields={"name": "ada"})


@pytest.fixture(scope="module")
def engine():
  config = small_config(world_text=16).replace()
  config.model.vocab = 1024  # the shipped tokenizer's
  config.freeze()
  return StreamEngine(random_weights(jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))))


def session(config) -> tuple[list[MediaUnit], list[list[str]]]:
  """A user whose camera fails in unit 2 and whose microphone fails in unit 5, and who types twice."""
  users = random_users(config, UNITS)
  video = np.asarray((users.video + 1) * 127.5, np.uint8)
  units = [
    MediaUnit(None if k == 2 else video[k], None if k == 5 else np.asarray(users.audio[k])) for k in range(UNITS)
  ]
  return units, [["hello"] if k in (1, 4) else [] for k in range(UNITS)]


@pytest.mark.parametrize("early", [False, True])
def test_law_3_the_engine_is_the_rollout(engine, early, close):
  config, seed = engine.agent.config, 7
  units, typed = session(config)
  keyboard = Keyboard(engine.tokenizer, config.layout.user_text_slots)
  zeros = np.zeros((config.media.frames, config.media.height, config.media.width, 3), np.uint8)
  rows = [
    rollout.UserUnit(
      np.zeros(config.media.samples, np.float32) if user.audio is None else user.audio,
      np.asarray(video_to_float(zeros if user.video is None else user.video)),
      keyboard(texts), np.asarray(user.audio is not None), np.asarray(user.video is not None),
    )
    for user, texts in zip(units, typed)
  ]  # fmt: skip
  users = jax.tree.map(lambda *x: jnp.stack(x), *rows)
  world = world_arrays(engine.agent, engine.tokenizer, WORLD)
  start = lambda agent: rollout.start_session(agent, jax.random.PRNGKey(seed), world)
  _, spoken = jax.jit(lambda agent: rollout.rollout(agent, start(agent), users))(engine.agent)

  engine.start(Request(WORLD, seed), UNITS)
  made, answers = [], []
  for user, texts in zip(units, typed):
    if early:
      engine.commit()
      engine.commit()  # as often as one likes
    answers.append(engine.step(user, texts))
    made.append(jax.tree.map(lambda x: x[-1], engine._state.past))
  latents = jax.tree.map(lambda *x: jnp.stack(x), *made)
  close(latents, spoken.latents)
  assert "".join(answer.text for answer in answers) == TextStream(engine.tokenizer)(np.asarray(spoken.text).reshape(-1))

  def render(agent):
    def unit(state, z):
      audio, video, state = rollout.render(agent, state, z)
      return state, (audio, video)

    return jax.lax.scan(unit, start(agent), latents)[1]

  audio, video = jax.jit(render)(engine.agent)
  close(np.stack([answer.audio for answer in answers]), np.clip(audio, -1, 1))
  seen = np.stack([answer.video for answer in answers])
  assert np.abs(seen - (np.clip(video, -1, 1) + 1) * 127.5).max() <= 1.0


def test_law_6_two_sessions_of_one_seed_are_the_same_and_of_another_are_not(engine):
  units, typed = session(engine.agent.config)

  def run(seed: int) -> list:
    engine.start(Request(WORLD, seed), UNITS)
    return [engine.step(user, texts) for user, texts in zip(units, typed)]

  first, again, other = run(3), run(3), run(4)
  for a, b in zip(first, again):
    np.testing.assert_array_equal(a.audio, b.audio)
    np.testing.assert_array_equal(a.video, b.video)
    assert a.text == b.text
  assert any(np.abs(a.audio - b.audio).max() > 1e-3 for a, b in zip(first, other))
