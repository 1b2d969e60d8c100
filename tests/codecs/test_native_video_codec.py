"""The video codec: laws 1, 2, 5, 6 and 9, stills, priming, the cosine start, and that its loss can be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.streaming import check_causality, check_chunking
from wanstreamer_jax.codecs.native_video_codec import NativeVideoCodec, cosine_basis, still_first
from wanstreamer_jax.codecs.posterior import calibrate
from wanstreamer_jax.config import NativeVideoConfig, TrainConfig
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.train.codec_losses import calibration_statistics, video_codec_loss

SMALL = NativeVideoConfig(channels=(4, 8, 8), latent_dim=5, decoder_blocks=(1, 1, 1))
HEIGHT, WIDTH = 16, 24


def small():
  """A small codec whose networks matter: not damped, and with latents that are not yet standard."""
  vae = NativeVideoCodec(SMALL, rngs=nnx.Rngs(0))
  for conv in (vae.encoder.conv_out, vae.decoder.conv_out, vae.decoder.colour):
    conv.w = nnx.Param(20 * conv.w[...])
  vae.standard.latent_mean = nnx.Param(jnp.arange(5.0) - 2)
  vae.standard.latent_std = nnx.Param(jnp.array([0.5, 2.0, 1.0, 3.0, 0.7]))
  return vae


def video(frames, seed=0):
  return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, size=(frames, HEIGHT, WIDTH, 3)), jnp.float32)


def latents(count, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 2, 3, 5)), jnp.float32)


def encode(vae, frames, state):
  posterior, state = vae.encode(frames, state)
  return tuple(posterior), state


def decode_groups(vae, z, state):
  """`decode` with time on axis 0 in latent frames."""
  frames, state = vae.decode(z, state)
  return frames.reshape(z.shape[0], 4, *frames.shape[1:]), state


def test_encoding_in_chunks_equals_the_whole():
  vae = small()
  check_chunking(encode, vae, video(28), vae.encoder_state(HEIGHT, WIDTH), [[4] * 7, [8, 16, 4]])


def test_squares_of_four_pixels_in_chunks_equal_the_whole():
  cfg = NativeVideoConfig(fold=4, channels=(4, 8), latent_dim=5, encoder_blocks=(1,), decoder_blocks=(1, 1))
  assert cfg.space_stride == 8
  vae = NativeVideoCodec(cfg, rngs=nnx.Rngs(0))
  for conv in (vae.encoder.conv_out, vae.decoder.conv_out, vae.decoder.colour):
    conv.w = nnx.Param(20 * conv.w[...])
  check_chunking(encode, vae, video(12), vae.encoder_state(HEIGHT, WIDTH), [[4] * 3, [8, 4]])
  check_chunking(decode_groups, vae, latents(3), vae.decoder_state(HEIGHT, WIDTH), [[1] * 3, [2, 1]])
  check_causality(encode, vae, video(12), vae.encoder_state(HEIGHT, WIDTH), 8, 2)


def test_decoding_in_chunks_equals_the_whole():
  vae = small()
  check_chunking(decode_groups, vae, latents(7), vae.decoder_state(HEIGHT, WIDTH), [[1] * 7, [2, 4, 1]])


def test_never_sees_the_future():
  vae = small()
  check_causality(encode, vae, video(20), vae.encoder_state(HEIGHT, WIDTH), 12, 3)
  check_causality(decode_groups, vae, latents(5), vae.decoder_state(HEIGHT, WIDTH), 3, 3)


def test_the_first_frame_and_then_groups_equal_a_clip_that_begins_with_a_still():
  vae, clip = small(), video(1 + 8)
  whole, _ = vae.encode(still_first(clip, 4), vae.encoder_state(HEIGHT, WIDTH))
  first, state = vae.encode_first(clip[:1])
  rest, _ = vae.encode(clip[1:], state)
  assert_close(jnp.concatenate([first.mean, rest.mean]), whole.mean)

  frames, _ = vae.decode(whole.mean, vae.decoder_state(HEIGHT, WIDTH))
  first, state = vae.decode_first(whole.mean[:1])
  rest, _ = vae.decode(whole.mean[1:], state)
  assert first.shape == (1, HEIGHT, WIDTH, 3)
  assert_close(jnp.concatenate([first, rest]), frames[3:])


def test_priming_is_a_grey_first_frame():
  moved = lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape)  # without biases grey leaves no trace
  vae, grey = jax.tree.map(moved, small()), jnp.zeros((1, HEIGHT, WIDTH, 3))
  posterior, encoder = vae.encode_first(grey)
  _, decoder = vae.decode_first(posterior.mean)
  assert_close(vae.primed_encoder_state(HEIGHT, WIDTH), encoder)
  assert_close(vae.primed_decoder_state(HEIGHT, WIDTH), decoder)
  assert any(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(decoder) if leaf.size)


def test_a_session_does_not_see_its_neighbour():
  vae = small()
  state = vae.decoder_state(HEIGHT, WIDTH)
  run = jax.jit(lambda batch: jax.vmap(lambda z: vae.decode(z, state)[0])(batch))
  clean, poisoned = run(jnp.stack([latents(2), latents(2, 1)])), run(jnp.stack([latents(2), latents(2) * jnp.nan]))
  np.testing.assert_array_equal(clean[0], poisoned[0])
  assert np.isfinite(clean).all()


def test_lengths_are_exact_and_other_sizes_refused():
  vae = small()
  posterior, _ = vae.encode(video(12), vae.encoder_state(HEIGHT, WIDTH))
  assert posterior.mean.shape == posterior.logvar.shape == (3, 2, 3, 5)
  assert vae.decode(posterior.mean, vae.decoder_state(HEIGHT, WIDTH))[0].shape == (12, HEIGHT, WIDTH, 3)
  for shape in ((6, 16, 24, 3), (4, 20, 24, 3), (4, 16, 20, 3)):
    with pytest.raises(ValueError, match="not whole groups of 4 frames with sides divisible by 8"):
      vae.encode(jnp.zeros(shape), vae.encoder_state(HEIGHT, WIDTH))
  for channels in ((4,), (4, 8), (4, 6, 8), (4, 8, 24)):
    with pytest.raises(ConfigError, match=r"video_codec.native.(channels|encoder_blocks)"):
      NativeVideoCodec(NativeVideoConfig(channels=channels), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("channels", "side", "frames"), [((4, 8), 4, 2), ((4, 4, 8, 8), 16, 4)])
def test_the_lists_set_the_size_of_a_latent(channels, side, frames):
  count = len(channels)
  cfg = NativeVideoConfig(
    channels=channels, encoder_blocks=(1,) * (count - 1), decoder_blocks=(1,) * count, time_stride=frames, latent_dim=3
  ).freeze()
  shape = (1 + 2 * frames, 2 * side, side, 3)
  vae = jax.eval_shape(lambda: NativeVideoCodec(cfg, rngs=nnx.Rngs(0)))
  latents = jax.eval_shape(lambda vae, clip: vae.encode_clip(clip).mean, vae, jax.ShapeDtypeStruct(shape, jnp.float32))
  assert latents.shape == (3, 2, 1, 3)
  assert jax.eval_shape(lambda vae, z: vae.decode_clip(z), vae, latents).shape == shape


@pytest.mark.slow
def test_a_codec_of_four_resolutions_in_chunks_equals_the_whole():
  cfg = NativeVideoConfig(channels=(4, 4, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1, 1), latent_dim=3)
  vae = NativeVideoCodec(cfg, rngs=nnx.Rngs(0))
  clip = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (8, 32, 16, 3)), jnp.float32)
  check_chunking(encode, vae, clip, vae.primed_encoder_state(32, 16), [[4, 4]])
  quiet = TrainConfig(latent_noise=0.0)  # training sees the clip as the codec does: a still, then groups
  exact = jax.tree.map(lambda leaf: leaf, vae)
  exact.encoder.conv_out.b = nnx.Param(exact.encoder.conv_out.b[...].at[3:].set(-20.0))  # no deviation
  _, metrics = video_codec_loss(exact, clip, jax.random.key(0), quiet)
  shown = np.clip(exact.decode_clip(exact.encode_clip(clip).mean)[1:], -1, 1)
  still, _ = exact.decode(exact.encode_first(clip[:1])[0].mean, exact.decoder_state(2 * side, side))
  errors = np.concatenate([np.clip(still, -1, 1) - clip[:1], shown - clip[1:]])
  assert_close(metrics["psnr"], 10 * np.log10(4 / np.mean(errors**2)), 1e-3)


def test_the_default_codec_is_small_and_pure():
  vae = jax.eval_shape(lambda: NativeVideoCodec(NativeVideoConfig(), rngs=nnx.Rngs(0)))
  assert sum(leaf.size for leaf in jax.tree.leaves(vae)) < 800_000
  params = jax.tree.leaves(vae, is_leaf=lambda x: isinstance(x, nnx.Variable))
  assert all(isinstance(leaf, nnx.Param) for leaf in params)
  vae = small()
  before = jax.tree.map(np.array, vae)
  vae.decode(vae.encode_first(video(1))[0].mean, vae.decoder_state(HEIGHT, WIDTH))
  jax.tree.map(np.testing.assert_array_equal, before, vae)


def test_the_cosine_basis_is_orthonormal_and_begins_with_the_mean_colour():
  basis = cosine_basis(12, 8, 4)
  np.testing.assert_allclose(basis @ basis.T / basis.shape[1], np.eye(12), atol=2e-3)
  np.testing.assert_allclose(basis[0], 1.0, atol=1e-6)
  assert cosine_basis(5, 8, 4).shape == (5, 768)


def test_an_untrained_codec_shows_the_colours_of_blocks():
  vae = NativeVideoCodec(NativeVideoConfig(channels=(4, 8, 8)), rngs=nnx.Rngs(0))
  colours = np.random.default_rng(0).uniform(-1, 1, size=(1, 2, 3, 3))
  frame = jnp.asarray(colours.repeat(8, axis=1).repeat(8, axis=2), jnp.float32)
  posterior, _ = vae.encode_first(frame)
  assert np.abs(vae.decode_first(posterior.mean)[0] - frame).mean() < 0.15


def test_training_lowers_the_loss_and_reaches_every_weight():
  vae, train = NativeVideoCodec(SMALL, rngs=nnx.Rngs(0)), TrainConfig()
  row = np.linspace(-1, 1, WIDTH)[None, None, :, None] * np.ones((5, HEIGHT, 1, 3))
  clip = jnp.asarray(np.sin(3 * row + np.arange(5)[:, None, None, None]), jnp.float32)

  optimizer = optax.adam(1e-2)

  @jax.jit
  def step(vae, state, key):
    (loss, metrics), grads = jax.value_and_grad(video_codec_loss, has_aux=True)(vae, clip, key, train)
    updates, state = optimizer.update(grads, state)
    return loss, metrics, grads, optax.apply_updates(vae, updates), state

  first, metrics, grads, vae, state = step(vae, optimizer.init(vae), jax.random.key(0))
  assert set(metrics) == {"reconstruction", "edge", "kl", "psnr", "loss"}
  still = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)]
  assert still == [".standard.latent_mean.value", ".standard.latent_std.value", ".standard.residual_std.value"]
  kernels = [g for g in jax.tree.leaves(grads) if g.ndim == 5]
  assert all(np.any(tap) for kernel in kernels for tap in kernel)  # a clip of two groups reaches every tap in time
  for i in range(80):  # after 40 the loss swings around half of the first one, differently on every processor
    last, _, _, vae, state = step(vae, state, jax.random.key(i))
  assert last < 0.4 * first


def test_calibration_makes_unit_latents_and_keeps_the_pictures():
  vae = small()
  clips = jnp.stack([video(1 + 12, seed) for seed in range(4)])
  means = calibration_statistics(vae, clips)
  calibrated = calibrate(vae, means, 1)
  again = np.asarray(calibration_statistics(calibrated, clips)).reshape(-1, means.shape[-1])
  np.testing.assert_allclose(again.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(again.std(0), 1, rtol=1e-3)

  def roundtrip(vae):
    posterior, _ = vae.encode_first(clips[0, :1])
    return vae.decode_first(posterior.mean)[0]

  assert_close(roundtrip(calibrated), roundtrip(vae), 1e-4)
