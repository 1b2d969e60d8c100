"""The video codec's optional losses: structure against its formula, and who learns from which part of the contest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wanstreamer_jax.codecs.losses import structure_loss
from wanstreamer_jax.codecs.native_video_codec import NativeVideoCodec
from wanstreamer_jax.config import NativeVideoConfig, TrainConfig
from wanstreamer_jax.parallel.rules import matching_rules, named_leaves
from wanstreamer_jax.train.codec_losses import adversarial_codec_loss, video_codec_loss
from wanstreamer_jax.train.critic import CodecWithCritic, adversarial_loss
from wanstreamer_jax.train.picture_critic import PictureCritic


def clips(seed=0, frames=5, side=16):
  rng = np.random.default_rng(seed)
  smooth = np.cumsum(np.cumsum(rng.standard_normal((frames, side, side, 3)), 1), 2) / 20
  return jnp.asarray(np.clip(smooth, -1, 1), jnp.float32), jnp.asarray(rng.uniform(-1, 1, smooth.shape), jnp.float32)


def test_structure_is_one_minus_ssim():
  """One scale of 8x8 pixels, window by window in NumPy."""
  x, y = (np.asarray(clip, np.float64) for clip in clips(side=8))
  found = []
  for row in range(2):
    for column in range(2):
      a, b = (clip[:, row : row + 7, column : column + 7].reshape(5, 49, 3) for clip in (x, y))
      mean_a, mean_b = a.mean(1), b.mean(1)
      both = (a * b).mean(1) - mean_a * mean_b
      light = (2 * mean_a * mean_b + 0.02**2) / (mean_a**2 + mean_b**2 + 0.02**2)
      found.append(light * (2 * both + 0.06**2) / (a.var(1) + b.var(1) + 0.06**2))
  assert structure_loss(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)) == pytest.approx(
    1 - np.mean(found), rel=1e-4
  )


def test_structure_minds_lost_detail_more_than_brightness():
  picture, noise = clips(side=32)
  detailed = 0.4 + 0.1 * picture + 0.1 * noise
  flat = jnp.broadcast_to(detailed.mean(axis=(1, 2), keepdims=True), detailed.shape)
  error = jnp.sqrt(jnp.mean((flat - detailed) ** 2))
  assert structure_loss(detailed, detailed) == pytest.approx(0, abs=1e-5)
  assert structure_loss(detailed + error, detailed) < 0.5 * structure_loss(flat, detailed)
  assert jnp.isfinite(jax.grad(structure_loss)(flat, detailed)).all()


def test_each_side_learns_from_its_own_part():
  setting = TrainConfig(critic_channels=2, feature_weight=1.0)
  critic, (original, decoded) = PictureCritic(setting, rngs=nnx.Rngs(0)), clips()

  @functools.partial(jax.jit, static_argnums=2)
  def gradients(critic, decoded, weight):
    loss = lambda c, d: adversarial_loss(c, original, d, setting.replace(adversarial_weight=weight))
    return jax.grad(loss, argnums=(0, 1), has_aux=True)(critic, decoded)

  (judge, picture), metrics = gradients(critic, decoded, 0.0)
  assert set(metrics) == {"critic", "deceive", "features"}
  assert not np.any(picture)
  assert all(np.any(leaf) for name, leaf in named_leaves(judge).items() if not name.endswith("judge.b"))
  (again, picture), _ = gradients(critic, decoded, 5.0)
  assert np.any(picture)
  jax.tree.map(np.testing.assert_array_equal, judge, again)
  both = named_leaves(CodecWithCritic(NativeVideoCodec(NativeVideoConfig(), rngs=nnx.Rngs(0)), critic))
  assert all(len(matching_rules(name)) == 1 for name in both if name.startswith("critic."))


def test_the_options_add_to_the_loss_of_the_codec():
  sizes = NativeVideoConfig(channels=(4, 4, 4), latent_dim=3, decoder_blocks=(1, 1, 1))
  codec, (clip, _) = NativeVideoCodec(sizes, rngs=nnx.Rngs(0)), clips()
  plain = TrainConfig()
  more = plain.replace(structure_weight=0.5, adversarial_weight=0.1, critic_channels=2)
  both = CodecWithCritic(codec, PictureCritic(more, rngs=nnx.Rngs(1)))
  key = jax.random.key(0)
  before, _ = jax.jit(lambda c: video_codec_loss(c, clip, key, plain))(codec)
  after, metrics = jax.jit(lambda c: adversarial_codec_loss(c, clip, key, more))(both)
  contest = metrics["critic"] + 0.1 * (metrics["deceive"] + more.feature_weight * metrics["features"])
  assert float(after) == pytest.approx(float(before + 0.5 * metrics["structure"] + contest), rel=1e-4)
