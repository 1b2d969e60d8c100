"""The codec of any sound: laws 1, 2 and 9, its delay, and that it learns more than one sound at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.streaming import check_causality, check_chunking
from wanstreamer_jax.codecs import losses
from wanstreamer_jax.codecs.make import make_audio_codec
from wanstreamer_jax.codecs.neural_codec import NeuralCodec, overlap_add
from wanstreamer_jax.config import AudioCodecConfig, NeuralCodecConfig, TrainConfig
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.train.codec_losses import audio_codec_loss

SMALL = {"sample_rate": 1200, "channels": 8, "latent_channels": 12, "latent_dim": 4}
BLOCKS = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
HOP = 48  # samples per latent frame of the small codec: 4 frames of 12


def small(seed=0, **changes):
  codec = NeuralCodec(NeuralCodecConfig(**(SMALL | BLOCKS | changes)), rngs=nnx.Rngs(seed))
  codec.standard.latent_mean = nnx.Param(jnp.array([0.5, -1.0, 0.0, 2.0]))
  codec.standard.latent_std = nnx.Param(jnp.array([0.5, 2.0, 1.0, 3.0]))
  return codec


def sound(samples, seed=0):
  t = np.arange(samples)
  tones = sum(np.cos(2 * np.pi * t / period) for period in (9.3, 14.1, 17.7))
  return jnp.asarray(0.1 * tones + 0.02 * np.random.default_rng(seed).normal(size=samples), jnp.float32)


def latents(count, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 4)), jnp.float32)


def encode(codec, samples, state):
  posterior, state = codec.encode(samples, state)
  return tuple(posterior), state


def decode(codec, latents, state):
  """`decode` with time on axis 0 in latent frames."""
  samples, state = codec.decode(latents, state)
  return samples.reshape(latents.shape[0], -1), state


def test_encoding_in_chunks_equals_the_whole():
  codec = small()
  splits = [[HOP * n for n in sizes] for sizes in ([1] * 5, [2, 3])]
  check_chunking(encode, codec, sound(5 * HOP), codec.encoder_state(), splits)


def test_decoding_in_chunks_equals_the_whole():
  codec = small()
  check_chunking(decode, codec, latents(5), codec.decoder_state(), [[1] * 5, [2, 3]])


def test_neither_way_sees_the_future():
  codec = small()
  check_causality(encode, codec, sound(6 * HOP), codec.encoder_state(), 3 * HOP, 3)
  check_causality(decode, codec, latents(6), codec.decoder_state(), 3, 3)


def test_windows_add_up_to_the_sound_that_they_were_cut_from_one_delay_later():
  frame, window = 20, 60
  samples = np.random.default_rng(0).normal(size=30 * frame).astype(np.float32)
  padded = np.concatenate([np.zeros(window - frame), samples])
  cut = np.stack([padded[i : i + window] for i in range(0, len(samples), frame)]) * np.hanning(window + 1)[:-1]
  found, tail = overlap_add(jnp.fft.rfft(cut), jnp.zeros((2, frame)))
  delay = NeuralCodecConfig(sample_rate=2000).delay
  assert delay == 2 * frame
  assert_close(found[delay:], jnp.asarray(samples[:-delay]), 1e-5)
  assert np.abs(found[:delay]).max() < 1e-5
  assert tail.shape == (2, frame)


@pytest.mark.parametrize(("rate", "hop", "delay"), [(24_000, 960, 480), (16_000, 640, 320)])
def test_sizes_at_both_rates(rate, hop, delay):
  config = AudioCodecConfig(kind="neural", neural=NeuralCodecConfig(sample_rate=rate))
  assert (config.hop, config.delay, config.sample_rate, config.latent_dim) == (hop, delay, rate, 32)
  codec = jax.eval_shape(lambda: make_audio_codec(config, rngs=nnx.Rngs(0)))
  assert sum(leaf.size for leaf in jax.tree.leaves(codec)) < 2_200_000
  variables = jax.tree.leaves(codec, is_leaf=lambda x: isinstance(x, nnx.Variable))
  assert all(isinstance(leaf, nnx.Param) for leaf in variables)
  encoded = jax.eval_shape(lambda codec: codec.encode(jnp.zeros(4 * hop), codec.encoder_state())[0].mean, codec)
  assert encoded.shape == (4, 32)
  decoded = jax.eval_shape(lambda codec: codec.decode(jnp.zeros((4, 32)), codec.decoder_state())[0], codec)
  assert decoded.shape == (4 * hop,)


def test_bad_sizes_are_named():
  with pytest.raises(ValueError, match="100 samples are not a whole number of latent frames of 48"):
    small().encode(jnp.zeros(100), small().encoder_state())
  with pytest.raises(ConfigError, match=r"encoder_blocks is \(2,\): expected 2 numbers"):
    NeuralCodecConfig(encoder_blocks=(2,)).freeze()
  with pytest.raises(ConfigError, match="samples per spectral frame"):
    NeuralCodecConfig(frames=7).freeze()


def test_the_loss_compares_with_the_sound_of_one_delay_before():
  """A codec that only delays would be perfect: the same sound, `delay` later, has no distance."""
  original = sound(20 * HOP)
  delay = small().cfg.delay
  late = jnp.concatenate([jnp.zeros(delay), original[:-delay]])
  assert losses.stft_loss(*losses.in_step(original, late, delay), (256,)) < 1e-6
  assert losses.stft_loss(original, late, (256,)) > 0.1


def test_training_lowers_the_loss_and_reaches_every_weight():
  codec, train = small(), TrainConfig()
  codec.standard.latent_std = nnx.Param(jnp.ones(4))
  audio = sound(40 * HOP)  # long enough for windows of 1024 samples

  @jax.jit
  def step(codec, key):
    (loss, metrics), grads = jax.value_and_grad(audio_codec_loss, has_aux=True)(codec, audio, key, train)
    return loss, metrics, grads, jax.tree.map(lambda p, g: p - 3e-3 * jnp.sign(g), codec, grads)

  first, metrics, grads, codec = step(codec, jax.random.key(0))
  assert set(metrics) == {"stft", "mel", "kl", "loss"}
  silent = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)]
  assert silent == [f".standard.{name}.value" for name in ("latent_mean", "latent_std", "residual_std")]
  for i in range(60):
    last, _, _, codec = step(codec, jax.random.key(i))
  assert last < 0.7 * first
