"""The performer with the thinker, on another device, or spread over several: the same sessions."""

import re

import jax
import numpy as np
import pytest

from tests.engine.test_engine import ADA, BEN, session
from tests.helpers.agents import small_agent, small_config
from wanstreamer_jax.aot.collectives import collectives
from wanstreamer_jax.aot.hlo import Program
from wanstreamer_jax.bench.long_session import compilations
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import ConfigError


def largest(hlo: str, kind: str) -> int:
  """Bytes of the largest result of a collective."""
  shapes = re.findall(rf"= (\S+\[[\d,]*\]).*? {kind}(?:-start)?\(", hlo)
  size = lambda shape: 4 * int(np.prod([int(n) for n in re.findall(r"\d+", shape.split("[")[1])] or [1]))
  return max(map(size, shapes), default=0)


def hold(engine: Engine, ahead: bool) -> tuple:
  """Two sessions, the second joining later. ahead: a unit is thought before the one before it is performed."""
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
  agent = small_agent(config.freeze())
  engines = {place: Engine(agent, 2, placement=place, performers=4) for place in ("fused", "split", "group")}
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
  text = engine.performer.compiled_text(engine.performer.snapshot(engine.states))
  found = collectives(Program(text), {"performers": 4})
  assert sum(traffic.count for (kind, _), traffic in found.items() if kind == "all-to-all") > 0
  layer = engine.states.cache.kv.k[:, 0].nbytes  # of all slots
  assert 0 < largest(text, "all-gather") < layer / 4


def test_placements_that_do_not_fit_are_refused():
  config = small_config(world_text=16).replace()
  config.model.vocab = 1024
  agent = small_agent(config.freeze())
  with pytest.raises(
    ConfigError, match="placement group needs the thinker's device and 99 more; there are 8: use fused"
  ):
    Engine(agent, placement="group", performers=99)
  with pytest.raises(ConfigError, match="model.heads is 4, which does not divide over 7 devices"):
    Engine(agent, placement="group")
  with pytest.raises(ConfigError, match="placement is 'apart': expected one of fused, split, group"):
    Engine(agent, placement="apart")
