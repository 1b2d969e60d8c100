"""Agents with pretrained ears and eyes: exports, dtypes, rules of sharding, and what `inspect model` says of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.agents import random_users, random_world, small_agent
from tests.helpers.encoders import POCKET, config_with
from wanstreamer_jax import rollout
from wanstreamer_jax.cli.inspect_parts import agent_parts
from wanstreamer_jax.cli.inspect_report import model_lines
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.parallel.rules import matching_rules, named_leaves
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.weights.agent import export_agent, load_agent

CHOICES = [("pocket", "siglip2"), ("moonshine", "siglip2")]


@pytest.mark.parametrize(("audio", "video"), CHOICES)
def test_an_exported_agent_is_read_back(audio, video, tmp_path):
  config = config_with(audio, video).replace()
  config.model.vocab = 1024  # of the shipped tokenizer, which an export carries
  agent = small_agent(config.freeze())
  export_agent(agent, tmp_path, "f32")
  again = load_agent(tmp_path)
  assert again.config.perception == agent.config.perception
  for (name, leaf), other in zip(named_leaves(agent).items(), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(leaf, other, err_msg=name)


@pytest.mark.parametrize(("audio", "video"), [*CHOICES, ("native", "native")])
def test_every_parameter_has_one_rule(audio, video):
  config = config_with(audio, video, video_blocks=(2, 1))
  for name in named_leaves(jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))):
    assert len(matching_rules(name)) == 1, name


def test_seeing_in_the_dtype_of_its_use_gives_the_same_numbers():
  config = config_with("pocket", "siglip2").replace()
  config.model.dtype = "bfloat16"
  agent, users = small_agent(config.freeze()), random_users(config, 1)
  used, state = rollout.cast_layers_to_compute_dtype(agent), agent.streamer.hear.initial_state()
  assert {leaf.dtype for leaf in jax.tree.leaves(used.streamer.see.trunk.layers)} == {jnp.dtype(jnp.bfloat16)}
  see = jax.jit(lambda agent: agent.streamer.perceive(users.audio[0], users.video, state)[1])
  np.testing.assert_array_equal(see(agent), see(used))


def test_every_stream_reaches_the_agent_and_may_be_absent():
  """What is not there changes nothing, whatever its samples and pixels are; guidance's second branch sees this."""
  config = config_with("pocket", "siglip2")
  agent, users = small_agent(config), jax.tree.map(lambda x: x[0], random_users(config, 1))
  state = rollout.start_session(agent, jax.random.key(0), random_world(config))
  think = jax.jit(lambda user: rollout.think(agent, *reversed(rollout.perceive(agent, state, user)))[2]["logits"])
  logits = think(users)
  for stream, valid in (("audio", "audio_valid"), ("video", "video_valid")):
    changed = {stream: getattr(users, stream)[::-1]}
    assert not np.array_equal(think(users._replace(**changed)), logits)
    absent = users._replace(**{valid: jnp.zeros((), bool)})
    np.testing.assert_array_equal(think(absent._replace(**changed)), think(absent))


def test_parts_of_an_agent():
  """Every parameter is in one row, and what the rows say is what they cost."""
  config = config_with("pocket", "siglip2", video_every=2)
  live, offline = agent_parts(config)
  agent = jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))
  counted = sum(part.parameters or 0 for part in live + offline)
  assert counted == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(agent))
  assert [part.name for part in live] == ["hears", "sees", "thinks", "performs", "speaks", "draws"]
  s, sees = config.perception.siglip2, live[1]
  tokens = s.patches
  layer = 2 * tokens * s.width * (4 * s.width + 2 * s.mlp) + 4 * tokens * tokens * s.width
  patches = 2 * tokens * 3 * s.patch**2 * s.width
  places = 2 * s.places * tokens * s.width  # resized once for all pictures
  project = 2 * 4 * (2 * 4 * s.width * 2 * s.width + 2 * s.width * config.model.width)  # 4 tokens of 2 x 4 patches
  assert sees.flops == 2 * (s.layers * layer + patches) + places + project
  assert live[0].state > 4 * (POCKET.window - 1) * 2 * POCKET.kv_heads * POCKET.head_dim
  text = "\n".join(model_lines(config, 1))
  for words in ("pocket's encoder, 2 tokens a unit", "4x4 patches, 2 of 4 frames, 4 tokens a unit", "GFLOP a unit"):
    assert words in text


def test_the_base_encoder_costs_what_the_documents_say():
  config = load_config("configs/real.py:qwen3_1p7b,192x336")
  rows = {part.name: part for part in agent_parts(config)[0]}
  assert config.siglip2_grid == (12, 21)
  assert 45e9 < rows["sees"].flops < 47e9
  assert 90e6 < rows["sees"].parameters < 100e6
  assert rows["draws"].flops < 25e9
