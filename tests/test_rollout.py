"""Laws 2, 3, 5, 6 and 9 of the model: one truth, causality, isolation, the clock, purity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.agents import random_text, random_users, random_world, replay, small_agent, small_config
from tests.helpers.streaming import check_causality, check_chunking
from wanstreamer_jax import rollout
from wanstreamer_jax.config_files import apply_override
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.model.tokens import text_valid
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves

UNITS = 8  # past the window of 4, the sink, and one whole turn of the ring
LAYOUTS = {
  "paper": {},
  "delay 2, refeed implied": {"commit_delay": 2},
  "refeed": {"refeed": True, "commit_patch": 1},
  "window of one unit": {"window": 1, "sinks": 0},
  "three sinks": {"window": 2, "sinks": 3},
  "full history": {"window": None, "sinks": 0},
  "no committed history": {"committed_history": False},
  "separate blocks": {"split_modalities": True},
  "token-causal, ordinal rope": {"token_causal_hear": True, "rope": "ordinal"},
  "nothing to see, no world": {"user_video": False, "portrait": False, "voice_units": 0, "world_text": 0},
}

CHANGES = {
  "int8 cache": "model.kv_cache=int8",
  "guidance": "flow.guidance=1.7",
  "no anchor": "flow.anchor=False",
  "no carry": "flow.carry=False",
}


@functools.cache
def rolled_out(name: str, first: int = 0, word: int = 0):
  """A rollout of UNITS units: (agent, world, users, state, spoken)."""
  config = small_config(**LAYOUTS.get(name, {}))
  if name in CHANGES:
    config = config.replace()
    apply_override(config, CHANGES[name])
    config.freeze()
  agent, world, users = small_agent(config), random_world(config), random_users(config, UNITS)

  def run(agent):
    state = rollout.start_session(agent, jax.random.key(7), world, first, word, capacity=UNITS)
    return rollout.rollout(agent, state, users, random_text(config, UNITS))

  state, spoken = jax.jit(run)(agent)
  return agent, world, users, state, spoken


@pytest.mark.parametrize(
  ("name", "first"),
  [(name, 0) for name in LAYOUTS] + [("paper", 11), ("delay 2, refeed implied", 3), ("no anchor", 0), ("no carry", 0)],
)
def test_law_3_teacher_forced_pass_equals_rollout(name, first, close):
  agent, world, users, _, spoken = rolled_out(name, first, 5 * (first > 0))
  step = agent.config.flow.steps - 1
  predicted = jax.jit(lambda a: replay(a, world, users, spoken, step, first, 5 * (first > 0)))(agent)
  exists = text_valid(spoken.text, agent.config.model.pad)[..., None]
  close(jnp.where(exists, agent.streamer.logits(predicted.text), 0), jnp.where(exists, spoken.trace["logits"], 0))
  last = jax.tree.map(lambda x: x[:, step], spoken.trace["solver_inputs"])
  tau = spoken.trace["times"][:, step]
  velocity = jax.tree.map(lambda a, b: (a - b) / tau.reshape(-1, *[1] * (a.ndim - 1)), last, spoken.latents)
  close(predicted.velocity, velocity)


def test_law_3_guidance_is_two_teacher_forced_passes(close):
  """One is shown the user and the world, the other neither; both the same words and the same past."""
  agent, world, users, _, spoken = rolled_out("guidance")
  no = jnp.zeros(UNITS, bool)
  alone = users._replace(text=jnp.zeros_like(users.text), audio_valid=no, video_valid=no)
  told = jax.jit(lambda a, world, users: replay(a, world, users, spoken, 0, 0, 0).velocity)
  v, u = told(agent, world, users), told(agent, WorldArrays.empty(agent.config), alone)
  expected = jax.tree.map(lambda v, u: v + 0.7 * (v - u), v, u)
  first, second = (jax.tree.map(lambda x, i=i: x[:, i], spoken.trace["solver_inputs"]) for i in (0, 1))
  step = spoken.trace["times"][0, 0] - spoken.trace["times"][0, 1]
  close(jax.tree.map(lambda a, b: (a - b) / step, first, second), expected)
  assert all(jnp.abs(a - b).max() > 0.1 for a, b in zip(v, u))


def test_layers_in_the_dtype_of_their_use_give_the_same_numbers():
  config = small_config(commit_delay=2).replace()
  config.model.dtype = "bfloat16"
  config.freeze()
  agent, world = small_agent(config), random_world(config)
  used = rollout.cast_layers_to_compute_dtype(agent)
  assert {leaf.dtype for leaf in jax.tree.leaves(used.streamer.transformer.layers)} == {jnp.dtype(jnp.bfloat16)}
  state = rollout.start_session(agent, jax.random.key(0), world)
  perform = jax.jit(lambda agent: rollout.perform(agent, state)[0])
  for a, b in zip(perform(agent), perform(used)):
    np.testing.assert_array_equal(a, b)


def test_law_3_chunked_perception_equals_offline(close):
  """The encoders see the same whether the stream comes unit by unit or at once."""
  config = small_config()
  streamer, users = small_agent(config).streamer, random_users(config, UNITS)

  def step(state, unit):
    audio, video, state = streamer.perceive(unit[0], unit[1][None], state)
    return state, (audio[0], video[0])

  _, chunked = jax.lax.scan(step, streamer.hear.initial_state(), (users.audio, users.video))
  whole = streamer.perceive(users.audio.reshape(-1), users.video, streamer.hear.initial_state())
  close(chunked, whole[:2])


def hear(encoder, samples, state):
  return encoder(samples, state)


def test_law_1_hearing_in_any_chunks():
  config = small_config()
  encoder, unit = small_agent(config).streamer.hear, config.media.samples
  audio = random_users(config, units := 5).audio.reshape(-1)  # past the attention's window of 3
  splits = [[unit] * units, [3 * unit, unit, unit]]
  check_chunking(hear, encoder, audio, encoder.initial_state(), splits)


def test_law_2_hearing_knows_no_future():
  config = small_config()
  encoder, unit = small_agent(config).streamer.hear, config.media.samples
  audio = random_users(config, UNITS).audio.reshape(-1)
  check_causality(hear, encoder, audio, encoder.initial_state(), 5 * unit, 5, poison=1e30)


def test_law_2_finite_poison_in_the_future_changes_no_bit_of_the_training_pass():
  agent, world, users, _, spoken = rolled_out("paper")
  run = jax.jit(lambda users, spoken: replay(agent, world, users, spoken, 1, 0, 0))
  cut, poison = 5, 1e30
  clean = run(users, spoken)
  worse = users._replace(
    audio=users.audio.at[cut:].set(poison), video=users.video.at[cut:].set(poison), text=users.text.at[cut:].set(3)
  )
  inputs = jax.tree.map(lambda x: x.at[cut:].set(-poison), spoken.trace["solver_inputs"])
  latents = jax.tree.map(lambda x: x.at[cut:].set(poison), spoken.latents)
  other = spoken._replace(
    latents=latents, text=spoken.text.at[cut:].set(9), trace=spoken.trace | {"solver_inputs": inputs}
  )
  poisoned = run(worse, other)
  for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned)):
    assert np.array_equal(a[:cut], b[:cut])
    assert not np.array_equal(a[cut:], b[cut:])


def test_law_2_gradient_of_earlier_outputs_by_later_inputs_is_exactly_zero():
  agent, world, users, _, spoken = rolled_out("paper")
  cut = 4

  def earlier(audio, latents):
    predicted = replay(agent, world, users._replace(audio=audio), spoken._replace(latents=latents), 1, 0, 0)
    return sum(jnp.sum(x[:cut] ** 2) for x in jax.tree.leaves(predicted))

  audio, latents = jax.jit(jax.grad(earlier, argnums=(0, 1)))(users.audio, spoken.latents)
  assert np.all(np.asarray(audio[cut:]) == 0)
  assert np.any(np.asarray(audio[:cut]) != 0)
  for gradient in latents:  # unit k is committed for unit k + 1
    assert np.all(np.asarray(gradient[cut - 1 :]) == 0)
    assert np.any(np.asarray(gradient[: cut - 1]) != 0)


def test_law_2_the_future_of_a_rollout_may_be_nan(close):
  agent, _, users, _, spoken = rolled_out("paper")
  config, world = agent.config, random_world(agent.config)
  cut = 3
  nan = users._replace(audio=users.audio.at[cut:].set(jnp.nan), video=users.video.at[cut:].set(jnp.nan))

  @jax.jit
  def run(agent, users):
    state = rollout.start_session(agent, jax.random.key(7), world, 0, 0, capacity=UNITS)
    return rollout.rollout(agent, state, users, random_text(config, UNITS))[1]

  clean, late = run(agent, users), run(agent, nan)
  for a, b in zip(jax.tree.leaves(clean._replace(trace={})), jax.tree.leaves(late._replace(trace={}))):
    assert np.array_equal(a[:cut], b[:cut])
  close(clean.audio, spoken.audio)


def test_law_5_a_session_does_not_notice_its_neighbours_or_its_slot():
  config = small_config()
  agent = small_agent(config)
  worlds = [random_world(config, seed) for seed in range(3)]
  users = [random_users(config, 6, seed) for seed in range(3)]
  stack = lambda items: jax.tree.map(lambda *xs: jnp.stack(xs), *items)

  @jax.jit
  def run(agent, seeds, worlds, users):
    def session(seed, world, users):
      return rollout.rollout(agent, rollout.start_session(agent, seed, world), users)[1]

    return jax.vmap(session)(seeds, worlds, users)

  seeds = jnp.stack([jax.random.key(seed) for seed in range(3)])
  first = run(agent, seeds, stack(worlds), stack(users))
  order = jnp.array([2, 0, 1])
  moved = run(agent, seeds[order], stack([worlds[i] for i in order]), stack([users[i] for i in order]))
  loud = users[1]._replace(audio=users[1].audio * jnp.nan)  # a broken neighbour
  beside = run(agent, seeds, stack(worlds), stack([users[0], loud, users[2]]))
  for name in ("audio", "video", "text"):
    a, b, c = (np.asarray(getattr(spoken, name)) for spoken in (first, moved, beside))
    assert np.array_equal(a[np.asarray(order)], b)
    assert np.array_equal(a[[0, 2]], c[[0, 2]])
  assert not np.array_equal(np.asarray(first.audio)[1], np.asarray(beside.audio)[1])


def test_law_6_a_unit_in_is_a_unit_of_frames_and_samples_out():
  agent, _, users, state, spoken = rolled_out("paper")
  media = agent.config.media
  assert spoken.video.shape == (UNITS, 4, media.height, media.width, 3)
  assert spoken.audio.shape == (UNITS, 3840) == users.audio.shape
  assert int(state.unit) == int(state.made) == UNITS


def test_law_9_calling_changes_no_leaf_and_no_module_is_in_two_places():
  config = small_config()
  agent = small_agent(config)
  before = jax.tree.leaves(agent)

  def call():  # traced with the agent closed over: a call that changed it would leave a tracer in it
    state = rollout.start_session(agent, jax.random.key(0), random_world(config))
    return rollout.step_unit(agent, state, jax.tree.map(lambda x: x[0], random_users(config, 1)))

  jax.eval_shape(call)
  assert all(a is b for a, b in zip(before, jax.tree.leaves(agent), strict=True))
  names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(agent)]
  assert len({id(leaf) for leaf in jax.tree.leaves(agent)}) == len(names)
  assert all(name.endswith(".value") for name in names)


def test_text_is_greedy_at_temperature_zero_and_seeded_above():
  agent, world, users, _, _ = rolled_out("paper")

  def run(seed, temperature, bias):
    state = rollout.start_session(agent, jax.random.key(seed), world)
    state = state._replace(sampling=rollout.Sampling(temperature, bias, *state.sampling[2:]))
    return rollout.rollout(agent, state, users)[1].text

  run = jax.jit(run)
  assert np.array_equal(run(1, 2.0, 0.0), run(1, 2.0, 0.0))
  assert not np.array_equal(run(1, 2.0, 0.0), run(2, 2.0, 0.0))
  assert np.all(np.asarray(run(1, 0.0, 1e9)) == 0)  # a huge PAD bias silences the text


def test_only_a_new_shape_compiles():
  config = small_config()
  agent, traces = small_agent(config), []

  @jax.jit
  def step(agent, state, user):
    traces.append(1)
    return rollout.step_unit(agent, state, user)

  state = jax.jit(rollout.start_session)(agent, jax.random.key(0), random_world(config))
  users = random_users(config, 6)
  for k in range(6):  # past the window, with and without video and words
    state, _ = step(agent, state, jax.tree.map(lambda x, k=k: x[k], users))
  assert len(traces) == 1


def test_a_session_with_int8_keys_is_smaller_and_nearly_the_same():
  _, _, _, state, plain = rolled_out("paper")
  _, _, _, small_state, small = rolled_out("int8 cache")
  size = lambda state: sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache.kv))
  assert size(small_state) < 0.4 * size(state)  # int8 and a scale per head of 12, against float32
  for a, b in zip(plain.latents, small.latents):
    assert 0 < jnp.abs(a - b).max() < 0.05 * jnp.abs(a).max()
  np.testing.assert_allclose(plain.trace["logits"], small.trace["logits"], atol=0.3)


def test_pad_may_be_any_token(close):
  """The model whose PAD is token 9, with rows 0 and 9 of the embedding exchanged, does the same."""
  agent, world, users, state, spoken = rolled_out("paper")
  config, ids = agent.config.replace(), np.arange(agent.config.model.vocab)
  config.model.pad = 9
  ids[[0, 9]] = 9, 0
  renamed = jnp.asarray(ids)
  embedding = agent.streamer.tokens.embedding[...][renamed]
  leaves = named_leaves(agent) | {"streamer.tokens.embedding": embedding}
  other = fill_leaves(jax.eval_shape(lambda: rollout.Agent(config.freeze(), rngs=nnx.Rngs(0))), leaves)
  world, users = (x._replace(text=renamed[x.text]) for x in (world, users))
  words = renamed[random_text(config, UNITS)]

  def run(agent):
    state = rollout.start_session(agent, jax.random.key(7), world, capacity=UNITS)
    return rollout.rollout(agent, state, users, words)

  found_state, found = jax.jit(run)(other)
  close(found.latents, spoken.latents)
  close(found.trace["logits"][..., renamed], spoken.trace["logits"])
  assert int(found_state.text_tokens) == int(state.text_tokens)
  step = config.flow.steps - 1
  predicted = jax.jit(lambda a: replay(a, world, users, found, step, 0, 0))(other)
  exists = text_valid(found.text, 9)[..., None]
  close(jnp.where(exists, other.streamer.logits(predicted.text), 0), jnp.where(exists, found.trace["logits"], 0))


def test_rows_that_fill_the_vocabulary_up_are_never_written():
  agent, world, users, _, _ = rolled_out("paper")
  config = agent.config.replace()
  config.model.tokens = 5
  other = fill_leaves(jax.eval_shape(lambda: rollout.Agent(config.freeze(), rngs=nnx.Rngs(0))), named_leaves(agent))

  def run(agent):
    state = rollout.start_session(agent, jax.random.key(1), world)
    state = state._replace(sampling=rollout.Sampling(5.0, -1e9, *state.sampling[2:]))  # any word but PAD
    return rollout.rollout(agent, state, users)[1].text

  assert set(np.unique(jax.jit(run)(other))) == {1, 2, 3, 4}
  assert np.asarray(jax.jit(run)(agent)).max() > 5
