"""The discriminators: who learns from which part of the loss, and that they tell originals from something else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wanstreamer_jax.config import TrainConfig
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train.critic import Critic, adversarial_loss

SAMPLES = 1600


def train(**changes):
  return TrainConfig(critic_channels=4, critic_windows=(128,), critic_periods=(2, 3), **changes)


@pytest.fixture(scope="module")
def critic():
  return Critic(train(), rngs=nnx.Rngs(0))


def sounds(seed=0):
  rng = np.random.default_rng(seed)
  tone = np.sin(np.arange(SAMPLES) / rng.uniform(3, 9))
  return jnp.asarray(0.3 * tone, jnp.float32), jnp.asarray(0.2 * rng.standard_normal(SAMPLES), jnp.float32)


@jax.jit
def gradients(critic, original, decoded, weight, feature_weight):
  """Of the critic's parameters and of the decoded sound."""
  setting = train()
  setting.adversarial_weight, setting.feature_weight = weight, feature_weight
  loss = lambda critic, decoded: adversarial_loss(critic, original, decoded, setting)
  return jax.grad(loss, argnums=(0, 1), has_aux=True)(critic, decoded)


def test_each_side_learns_from_its_own_part(critic):
  original, decoded = sounds()
  (judge, sound), metrics = gradients(critic, original, decoded, 0.0, 0.0)
  assert set(metrics) == {"critic", "deceive", "features"}
  assert not np.any(sound)  # what the critic learns from does not move the codec
  idle = [name for name, leaf in named_leaves(judge).items() if not np.any(leaf)]
  assert all(name.endswith("judge.b") for name in idle)  # within the margins originals and others cancel there
  (again, sound), _ = gradients(critic, original, decoded, 5.0, 1.0)
  assert np.any(sound)
  jax.tree.map(np.testing.assert_array_equal, judge, again)  # nor does the codec's part move the critic
  _, equal = gradients(critic, original, original, 1.0, 1.0)
  assert equal["features"] == 0


def test_the_codecs_part_points_towards_the_original(critic):
  """A step along the features' gradient brings the activations nearer."""
  original, decoded = sounds()
  (_, far), metrics = gradients(critic, original, decoded, 1e-3, 1e3)
  _, nearer = gradients(critic, original, decoded - 3e-3 * jnp.sign(far), 1e-3, 1e3)
  assert nearer["features"] < metrics["features"]


def test_a_critic_learns_to_tell_tones_from_noise(critic):
  def step(critic, seed):
    (judge, _), metrics = gradients(critic, *sounds(seed), 0.0, 0.0)
    return jax.tree.map(lambda p, g: p - 0.01 * g / (jnp.sqrt(jnp.sum(g**2)) + 1e-9), critic, judge), metrics

  first = gradients(critic, *sounds(99), 0.0, 0.0)[1]["critic"]
  for seed in range(60):
    critic, _ = step(critic, seed)
  assert gradients(critic, *sounds(99), 0.0, 0.0)[1]["critic"] < 0.6 * first
