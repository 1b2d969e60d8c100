"""What `wanstreamer eval` does, behind the command line."""

import dataclasses
from typing import Any

from wanstreamer_jax.agent_io import load_agent
from wanstreamer_jax.config import Config, EvalConfig
from wanstreamer_jax.data.duplex_source import world_config
from wanstreamer_jax.data.duplex_world.world import make_session
from wanstreamer_jax.eval.closed_loop import User
from wanstreamer_jax.eval.evaluate import Evaluation, MakeSession, MakeUser, evaluate, units_of
from wanstreamer_jax.eval.report import lines, make_folder, write_report
from wanstreamer_jax.perception.text import TextTokenizer
from wanstreamer_jax.rollout import Agent

SPLIT = "heldout"


def duplex_world(config: Config, options: EvalConfig) -> tuple[MakeSession, MakeUser]:
  """Held-out sessions and reacting users of duplex_world, as long as `options` say."""
  from wanstreamer_jax.eval.simulated import SimulatedUser

  world = dataclasses.replace(world_config(config), units=units_of(config, options))

  def user(seed: int) -> User:
    return SimulatedUser(seed, world, SPLIT)

  return lambda seed: make_session(seed, world, SPLIT), user


def evaluate_agent(agent: Agent, options: EvalConfig, progress: bool = True) -> Evaluation:
  """The evaluation of an agent on duplex_world."""
  return evaluate(agent, options, *duplex_world(agent.config, options), progress)


def evaluate_checkpoint(checkpoint: str, out: str, changes: dict[str, Any]) -> None:
  """`wanstreamer eval`: writes eval.json and eval.png into `out` and prints the table. changes: of the eval config."""
  agent = load_agent(checkpoint)
  make_folder(out)  # before the work
  options = dataclasses.replace(agent.config.eval, **changes)
  evaluation = evaluate_agent(agent, options)
  files = write_report(evaluation, out, agent.config.media, TextTokenizer(agent.config.data.tokenizer))
  print(*lines(evaluation.figures), sep="\n")
  print(*(f"{name}: {path}" for name, path in files.items()), sep="\n")
