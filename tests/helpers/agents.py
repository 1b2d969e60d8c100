"""Small random agents and inputs that the tests of the model share. No leaf is zero or one, so that no norm, bias or
zero-initialised head can be dropped unnoticed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanstreamer_jax import rollout
from wanstreamer_jax.config import Config, ModelConfig, NativeVideoConfig, PerceptionConfig, SourceFilterConfig
from wanstreamer_jax.data.loader import PREVIOUS
from wanstreamer_jax.model.streamer import UserTokens, WorldArrays
from wanstreamer_jax.model.tokens import Latents, Past
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.teacher_forcing import Conditions, Inputs, teacher_forced


def small_config(**layout) -> Config:
  """32x32 pictures, 2 layers, a window of 4 units and one sink: everything wraps within a few units."""
  config = Config(name="small")
  config.media.height = config.media.width = 32
  config.model = ModelConfig(width=48, layers=2, heads=4, kv_heads=2, head_dim=12, mlp=96, vocab=32)
  config.perception = PerceptionConfig(
    mel_bins=16, audio_tokens=2, audio_channels=32, audio_window=3, video_channels=16, video_patch=8
  )
  config.audio_codec.source_filter = SourceFilterConfig(channels=8, max_channels=16, latent_dim=8)
  config.video_codec.native = NativeVideoConfig(channels=(8, 8, 16), latent_dim=4)
  defaults = {"patch": 1, "user_text_slots": 2, "window": 4, "sinks": 1, "world_text": 5, "voice_units": 2}
  config.layout = dataclasses.replace(config.layout, **(defaults | layout))
  config.flow.steps, config.flow.carry = 2, config.layout.committed_history
  config.flow.anchor = config.layout.portrait
  return config.freeze()


def random_weights(tree, seed: int = 0):
  """A tree of shapes filled by NumPy: compiling a model's initialisation takes longer than most tests. Tokens that are
  nearly alike would make the gradients of an attention's queries and keys small differences of large numbers."""
  rng = np.random.default_rng(seed)

  def fill(leaf):
    if leaf.ndim < 2:  # norms, biases, standardisation
      return jnp.asarray(rng.uniform(0.1, 0.9, leaf.shape), leaf.dtype)
    scale = min(leaf.shape[-2] ** -0.5, 0.5)  # of one head [D, 1, H] 1 would make attention all or nothing
    return jnp.asarray(rng.normal(0, scale, leaf.shape), leaf.dtype)

  return jax.tree.map(fill, tree)


def small_agent(config: Config) -> Agent:
  return random_weights(jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0))))


def random_world(config: Config, seed: int = 0) -> WorldArrays:
  r = np.random.default_rng(seed)
  empty = WorldArrays.empty(config)
  text = np.zeros(config.layout.world_text, np.int32)
  text[:3] = r.integers(2, config.model.vocab, 3)[: len(text)]
  normal = lambda x: jnp.asarray(r.standard_normal(x.shape), jnp.float32)
  yes = jnp.ones((), bool)
  return WorldArrays(jnp.asarray(text), normal(empty.portrait), yes, normal(empty.voice), yes)


def random_sound(r: np.random.Generator, units: int, samples: int) -> np.ndarray:
  """Noise that is loud and soft by turns. [units, samples] within -1..1."""
  loudness = np.repeat(0.1 * np.exp(r.standard_normal((units, 8))), samples // 8, axis=1)
  return np.clip(loudness * r.standard_normal((units, samples)), -1, 1)


def random_users(config: Config, units: int, seed: int = 0) -> rollout.UserUnit:
  """Noise to hear and see, some typed words, and a camera that fails now and then."""
  r = np.random.default_rng(seed)
  media, slots = config.media, config.layout.user_text_slots
  typed = r.integers(2, config.model.vocab, (units, slots)) * (r.random((units, slots)) < 0.3)
  return rollout.UserUnit(
    audio=jnp.asarray(random_sound(r, units, media.samples), jnp.float32),
    video=jnp.asarray(r.uniform(-1, 1, (units, media.frames, media.height, media.width, 3)), jnp.float32),
    text=jnp.asarray(typed, jnp.int32),
    audio_valid=jnp.ones(units, bool),
    video_valid=jnp.asarray(r.random(units) < 0.8),
  )


def random_text(config: Config, units: int, seed: int = 0) -> jax.Array:
  """Agent text with PADs anywhere, so that some units are silent and some are full."""
  r = np.random.default_rng(seed + 100)
  shape = (units, config.layout.text_slots)
  return jnp.asarray(r.integers(1, config.model.vocab, shape) * (r.random(shape) < 0.7), jnp.int32)


def replay(
  agent: Agent,
  world: WorldArrays,
  users: rollout.UserUnit,
  spoken: rollout.AgentUnit,
  step: int,
  first: int,
  token: int,
):
  """The teacher-forced pass over what a rollout did: its own history, and the input of one of its solver steps."""
  streamer, units = agent.streamer, users.text.shape[0]
  audio, video, _ = streamer.perceive(users.audio.reshape(-1), users.video, streamer.hear.initial_state())
  user = UserTokens(audio, video, users.text, users.audio_valid, users.video_valid)
  before = lambda x: jnp.concatenate([jnp.zeros((PREVIOUS, *x.shape[1:]), x.dtype), x])
  past = Past.clean(jax.tree.map(before, spoken.latents), before(jnp.ones((units, 2), bool)))
  noisy = Latents(*(x[:, step] for x in spoken.trace["solver_inputs"]))
  conditions = Conditions(world, user, spoken.text, jnp.int32(first), jnp.int32(token))
  return teacher_forced(streamer, conditions, Inputs(past, noisy, spoken.trace["times"][:, step]))
