"""Laws 3, 5 and 6 for what people use: the engine's programs are the rollout, whenever COMMIT is run and whatever other
slots do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers.agents import random_users, small_agent, small_config
from wanstreamer_jax import rollout
from wanstreamer_jax.bench.long_session import compilations
from wanstreamer_jax.data.encode import world_arrays
from wanstreamer_jax.data.records import video_to_float
from wanstreamer_jax.data.session import MediaUnit, World
from wanstreamer_jax.data.tokenizer import Keyboard, TextStream
from wanstreamer_jax.engine import engine as engine_module
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.engine.interface import PHASES
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import CheckpointError, ConfigError, DataError
from wanstreamer_jax.parallel import machine

UNITS = 8  # past the window and the sinks
ADA, BEN = World(fields={"name": "ada"}), World(fields={"name": "ben"})
SLOTS = 3
VOCABULARY = 1024  # the shipped tokenizer's


@pytest.fixture(scope="module")
def single():
  """An engine with one slot, without guidance."""
  config = small_config(world_text=16).replace()
  config.model.vocab = VOCABULARY
  return Engine(small_agent(config.freeze()))


@pytest.fixture(scope="module")
def agent():
  config = small_config(world_text=16).replace()
  config.model.vocab, config.flow.guidance = VOCABULARY, 1.5
  return small_agent(config.freeze())


@pytest.fixture(scope="module")
def engine(agent):
  engine = Engine(agent, SLOTS)
  engine.prepare()
  return engine


def session(config) -> tuple[list[MediaUnit], list[list[str]]]:
  """A user whose camera fails in unit 2 and whose microphone fails in unit 5, and who types twice."""
  users = random_users(config, UNITS)
  video = np.asarray((users.video + 1) * 127.5, np.uint8)
  units = [
    MediaUnit(None if k == 2 else video[k], None if k == 5 else np.asarray(users.audio[k])) for k in range(UNITS)
  ]
  return units, [["hello"] if k in (1, 4) else [] for k in range(UNITS)]


@pytest.mark.parametrize("early", [False, True])
def test_law_3_the_engine_is_the_rollout(single, early, close):
  engine = single
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
  world = world_arrays(engine.agent, engine.tokenizer, ADA)
  start = lambda agent: rollout.start_session(agent, jax.random.key(seed), world)
  _, spoken = jax.jit(lambda agent: rollout.rollout(agent, start(agent), users))(engine.agent)

  engine.join(0, Request(ADA, seed))
  made, answers = [], []
  for user, texts in zip(units, typed):
    if early:
      engine.commit()
      engine.commit()  # as often as one likes
    answers.append(engine.step(user, texts))
    made.append(jax.tree.map(lambda x: x[0], engine.latents))
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


def run(engine: Engine, seed: int) -> list:
  """A whole session of ADA in an engine with one slot."""
  engine.join(0, Request(ADA, seed))
  return [engine.step(user, texts) for user, texts in zip(*session(engine.agent.config))]


def test_law_6_two_sessions_of_one_seed_are_the_same_and_of_another_are_not(single):

  first, again, other = run(single, 3), run(single, 3), run(single, 4)
  for a, b in zip(first, again):
    np.testing.assert_array_equal(a.audio, b.audio)
    np.testing.assert_array_equal(a.video, b.video)
    assert a.text == b.text
    assert list(a.times) == list(PHASES)
  assert any(np.abs(a.audio - b.audio).max() > 1e-3 for a, b in zip(first, other))


def test_without_a_request_a_session_is_that_of_the_default_one(agent):
  unit = session(agent.config)[0][0]
  given, default, warm = Engine(agent), Engine(agent), Engine(agent)
  given.join(0, Request())
  warm.prepare()  # whose silent units leave nothing behind
  expected = given.step(unit).audio
  for engine in (default, warm):
    np.testing.assert_array_equal(engine.step(unit).audio, expected)


@pytest.mark.parametrize(
  ("user", "words"),
  [
    (None, "user is None"),
    (MediaUnit(audio=np.zeros(100, np.float32)), r"audio is float32 \[100\]: expected float32 \[\d+\]"),
    (MediaUnit(audio=np.full(3840, np.nan, np.float32)), "not finite numbers"),
    (MediaUnit(audio=np.zeros(3840, np.int16)), "audio is int16"),
    (MediaUnit(video=np.zeros((4, 8, 8, 3), np.uint8)), r"video is uint8 \[4, 8, 8, 3\]: expected uint8"),
  ],
)
def test_a_unit_that_is_none_is_refused_and_the_session_goes_on(single, user, words):
  single.join(0, Request())
  with pytest.raises(DataError, match=words):
    single.step(user)
  assert np.isfinite(single.step(MediaUnit()).audio).all()


@pytest.mark.parametrize("options", [{"slots": 0}, {"slots": True}, {"slots": 1.5}, {"capacity": 0}])
def test_numbers_that_make_no_engine(agent, options):
  with pytest.raises(ConfigError, match="expected a whole number of at least 1"):
    Engine(agent, **options)


def test_a_session_that_is_not_finite_any_more_is_not_answered(single):
  run(single, 3)
  single.settle()
  single.states = single.states._replace(past=jax.tree.map(lambda x: x * jnp.nan, single.states.past))
  with pytest.raises(CheckpointError, match="no longer finite"):
    single.step(MediaUnit())


# Slots


def serve(engine: Engine, slot: int, disturb) -> list:
  """One session of ADA in a slot, while `disturb(unit, engine)` says what the other slots do: [(user, typed)]."""
  units, typed = session(engine.agent.config)
  engine.join(slot, Request(ADA, 7))
  answers = []
  for k in range(len(units)):
    others = disturb(k, engine)
    others[slot] = (units[k], typed[k])
    users, texts = zip(*others)
    answers.append(engine.perform(engine.think(users, texts)))
  return answers


def nobody(k, engine):
  return [(None, [])] * SLOTS


def crowd(k, engine):
  """Others come, go and start anew at random; one of them breaks."""
  random = np.random.default_rng(k)
  units, _ = session(engine.agent.config)
  for slot in (0, 2):
    if random.random() < 0.4:
      seed, steps = int(random.integers(100)), int(random.integers(1, 3))
      engine.join(slot, Request(BEN, seed, temperature=1.0, pad_bias=-2.0, steps=steps, guidance=3.0))
  if k == 4:
    engine.settle()
    past = engine.states.past
    engine.states = engine.states._replace(past=past._replace(audio=past.audio.at[2].set(jnp.nan)))
  return [(units[(k + 3) % len(units)], ["say something"]), (None, []), (units[k], [])]


def test_law_3_a_slot_is_the_single_session(engine, agent, close):
  single = Engine(agent)
  expected = run(single, 7)
  single.settle()
  answers = serve(engine, 1, nobody)
  assert [row[1].text for row in answers] == [unit.text for unit in expected]
  engine.settle()
  close(jax.tree.map(lambda x: x[1], engine.states.past), jax.tree.map(lambda x: x[0], single.states.past))
  assert all(row[0] is None and row[2] is None for row in answers)


def test_law_5_no_slot_notices_another_bit_for_bit(engine):
  alone, among = serve(engine, 1, nobody), serve(engine, 1, crowd)
  for a, b in zip(alone, among):
    np.testing.assert_array_equal(a[1].audio, b[1].audio)
    np.testing.assert_array_equal(a[1].video, b[1].video)
    assert a[1].text == b[1].text
  assert among[4][2] is None  # the broken one is not answered
  assert among[3][2] is not None


def test_a_session_that_joins_after_the_commit_misses_nothing(engine):
  expected = serve(engine, 1, nobody)
  engine.commit()
  for a, b in zip(expected, serve(engine, 1, nobody)):
    np.testing.assert_array_equal(a[1].audio, b[1].audio)
    np.testing.assert_array_equal(a[1].video, b[1].video)


def test_joining_and_leaving_compiles_nothing(engine):
  serve(engine, 1, nobody)  # the test's own sums are compiled now
  compiled, media = compilations(), engine.media
  portrait = np.full((media.height, media.width, 3), 90, np.uint8)
  serve(engine, 2, nobody)
  engine.join(0, Request(World(fields={"name": "ben"}, portrait=portrait, voice=np.ones(2000, np.float32)), 3, steps=1))
  engine.perform(engine.think([None] * SLOTS, [[]] * SLOTS))
  assert compiled == []
  jax.jit(lambda x: x + 1.5)(jnp.ones(3)).block_until_ready()
  assert compiled  # it does count


def test_sessions_go_on_after_a_restart(agent, engine, tmp_path):
  units, typed = session(agent.config)
  half = len(units) // 2
  whole = [answers[0] for answers in serve(engine, 0, nobody)]
  engine.join(0, Request(ADA, 7))

  def step(engine, k):
    return engine.perform(engine.think([units[k], None, None], [typed[k], [], []]))[0]

  for k in range(half):
    step(engine, k)
  engine.commit()  # as in the pause before the next unit
  engine.save(tmp_path)
  serve(engine, 0, crowd)  # whatever it did meanwhile
  compiled = compilations()
  engine.restore(tmp_path)
  for k in range(half, len(units)):
    answer = step(engine, k)
    np.testing.assert_array_equal(answer.audio, whole[k].audio)
    np.testing.assert_array_equal(answer.video, whole[k].video)
    assert answer.text == whole[k].text
  assert compiled == []  # visitors wait: everything was compiled before


def test_a_unit_does_not_touch_the_module(engine, monkeypatch):
  """Its weights are flat: an NNX module among the arguments of a program would be flattened in Python at every call."""
  engine.join(0, Request(ADA, 7))
  monkeypatch.setattr(engine, "agent", None)
  thought = engine.think([MediaUnit(), None, None], [[], [], []])
  assert engine.perform(thought)[0] is not None


def test_a_defect_before_a_session_begins_is_that_sessions_own(agent, engine, monkeypatch):
  expected = [answers[1] for answers in serve(engine, 1, nobody)]

  def break_another(k, engine):
    if k == 2:
      with monkeypatch.context() as broken:
        broken.setattr(engine_module, "world_arrays", lambda *_: 1 / 0)
        with pytest.raises(DataError, match="could not start"):
          engine.join(0, Request(BEN))
    return nobody(k, engine)

  for a, b in zip(expected, (answers[1] for answers in serve(engine, 1, break_another))):
    np.testing.assert_array_equal(a.audio, b.audio)


def test_sessions_of_another_server_are_refused(agent, engine, tmp_path):
  engine.save(tmp_path)
  with pytest.raises(CheckpointError, match="another --slots"):
    Engine(agent, SLOTS + 1).restore(tmp_path)
  arrays = load_file(tmp_path / "engine.safetensors")
  keys = next(name for name in arrays if name.endswith(".cache.kv.k"))
  by_token = np.ascontiguousarray(arrays[keys].swapaxes(2, 3))  # as an earlier version stored them
  save_file(arrays | {keys: by_token}, tmp_path / "engine.safetensors")
  with pytest.raises(CheckpointError, match="another version"):
    engine.restore(tmp_path)
  (tmp_path / "engine.safetensors").write_bytes(b"half")
  with pytest.raises(CheckpointError, match="does not hold sessions"):
    Engine(agent, SLOTS).restore(tmp_path)


def test_what_cannot_be_served_is_said_before_anything_is_compiled(agent, monkeypatch):
  config = agent.config.replace()
  config.layout.window, config.layout.sinks = None, 0
  with pytest.raises(ConfigError, match="full history.*needs a capacity"):
    Engine(small_agent(config.freeze()))
  monkeypatch.setattr(machine, "memory_left", lambda: 1 << 20)
  with pytest.raises(
    ConfigError, match=r"the states of 50 sessions may grow to .* GiB, but only 0\.0 GiB are free: use fewer"
  ):
    Engine(agent, 50)


@pytest.mark.parametrize(("request_", "reason"), [
  (Request(steps=3), "compiled for at most 2"),
  (Request(World(fields={"name": "a " * 99})), "the world text has"),
])  # fmt: skip
def test_requests_beyond_what_was_compiled(engine, request_, reason):
  with pytest.raises(DataError, match=reason):
    engine.check(request_)
