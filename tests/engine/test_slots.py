"""Laws 3 and 5 for many sessions: a slot is the single session, and no slot notices another."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.engine.test_engine import session
from tests.helpers.agents import random_weights, small_config
from wanstreamer_jax.aot.collectives import collectives
from wanstreamer_jax.aot.hlo import Program
from wanstreamer_jax.bench.long_session import compilations
from wanstreamer_jax.data.session import World
from wanstreamer_jax.engine import engine as slots
from wanstreamer_jax.engine.engine import SlotEngine
from wanstreamer_jax.engine.phases import StreamEngine
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import CheckpointError, ConfigError, DataError
from wanstreamer_jax.rollout import Agent

ADA, BEN = World(fields={"name": "ada"}), World(fields={"name": "ben"})
SLOTS = 3


@pytest.fixture(scope="module")
def agent():
  config = small_config(world_text=16).replace()
  config.model.vocab, config.flow.guidance = 1024, 1.5
  config.freeze()
  return random_weights(jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def engine(agent):
  engine = SlotEngine(agent, SLOTS)
  engine.prepare()
  return engine


def serve(engine: SlotEngine, slot: int, disturb) -> list:
  """One session of ADA in a slot, while `disturb(unit, engine)` says what the other slots do: [(user, typed)]."""
  units, typed = session(engine.agent.config)
  engine.join(slot, Request(ADA, 7))
  answers = []
  for k in range(len(units)):
    others = disturb(k, engine)
    others[slot] = (units[k], typed[k])
    users, texts = zip(*others)
    answers.append(engine.step(list(users), list(texts)))
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
  single = StreamEngine(agent)
  units, typed = session(agent.config)
  single.start(Request(ADA, 7), len(units))
  expected, states = [], []
  for user, texts in zip(units, typed):
    expected.append(single.step(user, texts))
    states.append(single._state.past)
  answers = serve(engine, 1, nobody)
  assert [row[1].text for row in answers] == [unit.text for unit in expected]
  engine.settle()
  close(jax.tree.map(lambda x: x[1], engine.states.past), states[-1])
  assert all(row[0] is None and row[2] is None for row in answers)


def test_law_5_no_slot_notices_another_bit_for_bit(engine):
  alone, among = serve(engine, 1, nobody), serve(engine, 1, crowd)
  for a, b in zip(alone, among):
    np.testing.assert_array_equal(a[1].audio, b[1].audio)
    np.testing.assert_array_equal(a[1].video, b[1].video)
    assert a[1].text == b[1].text
  assert among[4][2] is None  # the broken one is not answered
  assert among[3][2] is not None


def test_joining_and_leaving_compiles_nothing(engine):
  serve(engine, 1, nobody)  # the test's own sums are compiled now
  compiled, media = compilations(), engine.media
  portrait = np.full((media.height, media.width, 3), 90, np.uint8)
  serve(engine, 2, nobody)
  engine.join(0, Request(World(fields={"name": "ben"}, portrait=portrait, voice=np.ones(2000, np.float32)), 3, steps=1))
  engine.step([None] * SLOTS, [[]] * SLOTS)
  assert compiled == []
  jax.jit(lambda x: x + 1.5)(jnp.ones(3)).block_until_ready()
  assert compiled  # it does count


def test_sessions_go_on_after_a_restart(agent, engine, tmp_path):
  units, typed = session(agent.config)
  half = len(units) // 2
  whole = [answers[0] for answers in serve(engine, 0, nobody)]
  engine.join(0, Request(ADA, 7))
  step = lambda engine, k: engine.step([units[k], None, None], [typed[k], [], []])[0]
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


def test_a_defect_before_a_session_begins_is_that_sessions_own(agent, engine, monkeypatch):
  expected = [answers[1] for answers in serve(engine, 1, nobody)]

  def break_another(k, engine):
    if k == 2:
      with monkeypatch.context() as broken:
        broken.setattr(slots, "world_arrays", lambda *_: 1 / 0)
        with pytest.raises(DataError, match="could not begin"):
          engine.join(0, Request(BEN))
    return nobody(k, engine)

  for a, b in zip(expected, (answers[1] for answers in serve(engine, 1, break_another))):
    np.testing.assert_array_equal(a.audio, b.audio)


def test_sessions_of_another_server_are_refused(agent, engine, tmp_path):
  engine.save(tmp_path)
  with pytest.raises(CheckpointError, match="another --slots"):
    SlotEngine(agent, SLOTS + 1).restore(tmp_path)
  (tmp_path / "engine.safetensors").write_bytes(b"half")
  with pytest.raises(CheckpointError, match="does not hold sessions"):
    SlotEngine(agent, SLOTS).restore(tmp_path)


def test_what_cannot_be_served_is_said_before_anything_is_compiled(agent, monkeypatch):
  with pytest.raises(
    ConfigError, match="placement group needs the thinker's device and 99 more; there are 8: use fused"
  ):
    SlotEngine(agent, 1, placement="group", performers=99)
  with pytest.raises(ConfigError, match="model.heads is 4, which does not divide over 7 devices"):
    SlotEngine(agent, 1, placement="group")
  config = agent.config.replace()
  config.layout.window, config.layout.sinks = None, 0
  with pytest.raises(ConfigError, match="full history.*needs a capacity"):
    SlotEngine(random_weights(jax.eval_shape(lambda: Agent(config.freeze(), rngs=nnx.Rngs(0)))), 1)
  monkeypatch.setattr(slots, "memory_left", lambda: 1 << 20)
  with pytest.raises(
    ConfigError, match=r"what 50 sessions may come to remember needs .* GiB, and 0.0 are left: use fewer"
  ):
    SlotEngine(agent, 50)


@pytest.mark.parametrize(("request_", "reason"), [
  (Request(steps=3), "compiled for at most 2"),
  (Request(World(fields={"name": "a " * 99})), "the world text has"),
])  # fmt: skip
def test_requests_beyond_what_was_compiled(engine, request_, reason):
  with pytest.raises(DataError, match=reason):
    engine.check(request_)


def largest(hlo: str, kind: str) -> int:
  """Bytes of the largest result of a collective."""
  shapes = re.findall(rf"= (\S+\[[\d,]*\]).*? {kind}(?:-start)?\(", hlo)
  size = lambda shape: 4 * int(np.prod([int(n) for n in re.findall(r"\d+", shape.split("[")[1])] or [1]))
  return max(map(size, shapes), default=0)


def hold(engine: SlotEngine, ahead: bool) -> tuple:
  """Two sessions, the second joining later. ahead: a unit is thought before the one before it is answered."""
  units, typed = session(engine.agent.config)
  engine.join(0, Request(ADA, 7))
  waiting = None
  for k, (user, texts) in enumerate(zip(units, typed)):
    if k == 3:
      waiting = waiting and engine.perform(waiting)  # a slot changes hands between units
      waiting = None
      engine.join(1, Request(BEN, 9))
    thought = engine.think([user, user if k >= 3 else None], [texts, []])
    if waiting is not None:
      engine.perform(waiting)
      waiting = None
    if ahead:
      waiting = thought
    else:
      engine.perform(thought)
  if waiting is not None:
    engine.perform(waiting)
  engine.settle()
  return jax.tree.map(np.asarray, (engine.states.past, engine.states.cache.kv, engine.decoders))


def test_all_placements_are_equal(close, tmp_path):
  """The performer elsewhere, and thinking ahead of it: the same sessions, joins in between and REFEED included."""
  config = small_config(world_text=16, commit_delay=2).replace()
  config.model.vocab, config.model.heads, config.model.kv_heads, config.flow.guidance = 1024, 4, 4, 2.0
  agent = random_weights(jax.eval_shape(lambda: Agent(config.freeze(), rngs=nnx.Rngs(0))))
  engines = {place: SlotEngine(agent, 2, placement=place, performers=4) for place in ("fused", "split", "group")}
  expected = hold(engines["fused"], ahead=False)
  assert not engines["fused"].overlaps
  for place in ("split", "group"):
    assert engines[place].overlaps
    close(hold(engines[place], ahead=False), expected)
    engines[place].save(tmp_path)
    engines[place].restore(tmp_path)
    compiled = compilations()
    close(hold(engines[place], ahead=True), expected)
    assert compiled == []  # all arrays are where they were the first time
  engine = engines["group"]
  # keys stay where they are: tokens travel around attention, nobody gathers the cache
  performer = engine.performer
  program = performer.solve.lower(performer._agent, performer._states, performer.brief(engine.states)).compile()
  found = collectives(Program(program.as_text()), {"performers": 4})
  assert sum(traffic.count for (kind, _), traffic in found.items() if kind == "all-to-all") > 0
  layer = engine.states.cache.kv.k[:, 0].nbytes  # of all slots
  assert 0 < largest(program.as_text(), "all-gather") < layer / 4
