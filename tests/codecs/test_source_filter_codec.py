"""The audio codec: laws 1, 2, 5, 6 and 9, its pitch and phase, calibration, and that its losses can be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.streaming import check_causality, check_chunking
from wanstreamer_jax.codecs import losses, pitch, source_filter
from wanstreamer_jax.codecs.posterior import calibrate
from wanstreamer_jax.codecs.source_filter_codec import SourceFilterCodec
from wanstreamer_jax.config import SourceFilterConfig, TrainConfig
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.nn.mel import mel_filterbank
from wanstreamer_jax.train.codec_losses import audio_codec_loss, calibration_statistics

HOP = 48  # samples per frame of the small codec; 384 per latent frame
SMALL = {"strides": (HOP, 2, 4), "channels": 8, "max_channels": 16, "latent_dim": 4, "cepstrum": 12}


def small(seed=0, **changes):
  """A small codec whose decoder is loud and whose latents matter, so that no error hides in silence."""
  vae = SourceFilterCodec(SourceFilterConfig(**(SMALL | changes)), rngs=nnx.Rngs(seed))
  vae.head.w = nnx.Param(10 * vae.head.w[...])
  vae.head.b = nnx.Param(vae.head.b[...].at[jnp.array([1, 13])].add(3.0))
  vae.standard.latent_mean = nnx.Param(jnp.array([0.5, -1.0, 0.0, 2.0]))
  vae.standard.latent_std = nnx.Param(jnp.array([0.5, 2.0, 1.0, 3.0]))
  return vae


def voice(samples, hertz_per_frame=1.5, hop=HOP):
  """Something periodic with a little noise."""
  t = np.arange(samples) / hop * hertz_per_frame
  tone = sum(np.cos(2 * np.pi * k * t) / k for k in range(1, 8))
  return jnp.asarray(0.1 * tone + 0.01 * np.random.default_rng(0).normal(size=samples), jnp.float32)


def encode(vae, samples, state):
  posterior, state = vae.encode(samples, state)
  return tuple(posterior), state


def decode_signal(vae, latents, state):
  """`decode` with time on axis 0 in latent frames."""
  samples, state = vae.decode(latents, state)
  return samples.reshape(latents.shape[0], -1), state


def latents(count, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 4)), jnp.float32)


ATTENTION = [0, pytest.param(1, marks=pytest.mark.slow)]  # layers; no shipped config has any


@pytest.mark.parametrize("attention", ATTENTION)
def test_encoding_in_chunks_equals_the_whole(attention):
  vae = small(attention_layers=attention, attention_window=3, attention_heads=2)
  samples = voice(9 * vae.cfg.hop)
  splits = [[vae.cfg.hop * n for n in sizes] for sizes in ([1] * 9, [2, 4, 3])]
  check_chunking(encode, vae, samples, vae.encoder_state(), splits)


@pytest.mark.parametrize("attention", ATTENTION)
def test_decoding_in_chunks_equals_the_whole(attention):
  vae = small(attention_layers=attention, attention_window=3, attention_heads=2)
  check_chunking(decode_signal, vae, latents(9), vae.decoder_state(), [[1] * 9, [2, 4, 3]])


def test_encoding_never_sees_the_future():
  vae = small()
  check_causality(encode, vae, voice(6 * vae.cfg.hop), vae.encoder_state(), 3 * vae.cfg.hop, 3)


def test_decoding_never_sees_the_future():
  vae = small()
  check_causality(decode_signal, vae, latents(6), vae.decoder_state(), 3, 3)


@pytest.mark.parametrize("poison", [1e30, -1e30])
def test_attention_never_sees_the_future(poison):
  vae = small(attention_layers=1, attention_window=3, attention_heads=2)
  check_causality(encode, vae, voice(6 * vae.cfg.hop), vae.encoder_state(), 3 * vae.cfg.hop, 3, poison)
  check_causality(decode_signal, vae, latents(6), vae.decoder_state(), 3, 3, poison)


def test_a_session_does_not_see_its_neighbour():
  vae = small()

  @jax.jit
  def run(batch):
    return jax.vmap(lambda z: vae.decode(z, vae.decoder_state())[0])(batch)

  clean, poisoned = run(jnp.stack([latents(3), latents(3, 1)])), run(jnp.stack([latents(3), jnp.full((3, 4), jnp.nan)]))
  np.testing.assert_array_equal(clean[0], poisoned[0])
  assert np.isfinite(clean).all()


def test_lengths_are_exact():
  for strides in ((HOP, 2, 4), (40, 4)):
    vae = small(strides=strides)
    posterior, _ = vae.encode(jnp.zeros(5 * vae.cfg.hop), vae.encoder_state())
    assert posterior.mean.shape == posterior.logvar.shape == (5, 4)
    assert vae.decode(posterior.mean, vae.decoder_state())[0].shape == (5 * vae.cfg.hop,)
  with pytest.raises(ValueError, match="100 samples are not a whole number of latent frames of 160"):
    vae.encode(jnp.zeros(100), vae.encoder_state())
  with pytest.raises(ConfigError, match="16 channels do not divide into 3 attention heads"):
    small(attention_layers=1, attention_heads=3)


def test_the_default_codec_is_small_and_pure():
  vae = jax.eval_shape(lambda: SourceFilterCodec(SourceFilterConfig(), rngs=nnx.Rngs(0)))
  assert sum(leaf.size for leaf in jax.tree.leaves(vae)) < 800_000
  params = jax.tree.leaves(vae, is_leaf=lambda x: isinstance(x, nnx.Variable))
  assert all(isinstance(leaf, nnx.Param) for leaf in params)
  vae = small()
  before = jax.tree.map(np.array, vae)
  encode(vae, voice(vae.cfg.hop), vae.encoder_state())
  vae.decode(latents(1), vae.decoder_state())
  jax.tree.map(np.testing.assert_array_equal, before, vae)


def sawtooth(index, frames, hop=240):
  """The pulse source at one grid pitch."""
  state = source_filter.initial_state(hop, 8)._replace(pitch=jnp.int32(index))
  return source_filter.pulse_source(jnp.full(frames, index, jnp.int32), state, hop)


def test_the_pulse_source_has_its_pitch_and_unit_power():
  source, _ = sawtooth(48, 100)  # one octave above 0.55 cycles per frame
  source = np.asarray(source).reshape(-1)
  np.testing.assert_allclose(np.mean(source**2), 1.0, atol=0.03)
  spectrum = np.abs(np.fft.rfft(source * np.hanning(len(source))))
  peaks = np.flatnonzero(spectrum > 0.5 * spectrum.max()) / 100  # in cycles per frame
  np.testing.assert_allclose(np.unique(np.round(peaks / 1.1)), np.arange(1, 110))
  assert np.abs(peaks / 1.1 - np.round(peaks / 1.1)).max() < 0.03


def test_the_phase_is_exact_after_an_hour():
  _, after_second = sawtooth(60, 100)
  state = source_filter.initial_state(240, 8)._replace(pitch=jnp.int32(60))
  end = jnp.uint32(0)
  for _ in range(4):
    source, end = source_filter.pulse_source(jnp.full(90_000, 60, jnp.int32), state._replace(phase=end), 240)
  expected = (int(source_filter.phase_increments(240)[60]) * 240 * 360_000) % 2**32
  assert int(end) == expected != int(after_second)
  assert np.abs(source).max() < 40


def test_a_glide_arrives_where_it_should():
  state = source_filter.initial_state(240, 8)._replace(pitch=jnp.int32(100))
  for target in (0, 156):
    _, end = source_filter.pulse_source(jnp.array([target], jnp.int32), state, 240)
    table = source_filter.phase_increments(240).astype(np.int64)
    middle = (table[100] + table[target]) / 2
    assert abs(int(end) - (240 * middle - (table[target] - table[100]) // 480 * 0) % 2**32) < 2**32 / 100


def test_the_filters_are_minimum_phase():
  """The impulse response of a causal cepstrum starts at once, with exp(c_0), and does not wrap around."""
  cepstrum = jnp.asarray(np.random.default_rng(0).normal(size=12) * 0.4 / np.arange(1, 13), jnp.float32)
  real, imaginary = source_filter.filter_spectrum(cepstrum, 256)
  response = np.fft.irfft(np.asarray(real) + 1j * np.asarray(imaginary))
  np.testing.assert_allclose(response[0], np.exp(cepstrum[0] + source_filter.REST_LEVEL), rtol=1e-4)
  assert np.abs(response[128:]).max() < 1e-3 * np.abs(response).max()


def test_silence_in_silence_out():
  vae = SourceFilterCodec(SourceFilterConfig(**SMALL), rngs=nnx.Rngs(0))
  samples, _ = vae.decode(jnp.zeros((4, 4)), vae.decoder_state())
  assert np.sqrt(np.mean(np.square(samples))) < 2e-3


@pytest.mark.parametrize("cycles", [0.8, 1.3, 2.4])
def test_pitch_is_found(cycles):
  samples = voice(240 * 60, cycles, 240)
  found, voiced = pitch.track(samples, 240)
  assert voiced[5:-5].all()
  np.testing.assert_allclose(found[5:-5], cycles, rtol=0.01)
  frames = samples[: 240 * 55].reshape(11, 1200)
  soft = pitch.soft_pitch(frames, np.hanning(1202)[1:-1].astype(np.float32), 240)
  np.testing.assert_allclose(soft[:, 0], np.log2(cycles), atol=0.08)
  noise = jnp.asarray(np.random.default_rng(0).normal(size=240 * 60) * 0.1, jnp.float32)
  assert pitch.track(noise, 240)[1].mean() < 0.1
  assert not pitch.track(jnp.zeros(2400), 240)[1].any()


def test_spectral_losses_know_equal_from_different():
  x = voice(9600, 1.5, 240)
  for loss in (losses.stft_loss, lambda a, b: losses.mel_distance(a, b, 24_000)):
    assert loss(x, x) < 1e-6
    assert 0.05 < loss(x, 0.5 * x) < loss(x, 0.1 * x) < loss(x, 0 * x)
    assert np.isfinite(jax.grad(loss, 1)(x, 0 * x)).all()
  assert np.abs(mel_filterbank(1024, 80, 24_000).sum(0) - 1).max() < 1e-5
  t = np.arange(4096) / 24_000
  sine = jnp.asarray(0.5 * np.sin(2 * np.pi * 1500 * t), jnp.float32)
  np.testing.assert_allclose(losses.magnitudes(sine, 1024).max(), 0.5, rtol=1e-3)


def test_training_lowers_the_loss_and_reaches_every_weight():
  vae, train = SourceFilterCodec(SourceFilterConfig(**SMALL), rngs=nnx.Rngs(0)), TrainConfig()
  audio = voice(8 * 384)

  @jax.jit
  def step(vae, key):
    (loss, metrics), grads = jax.value_and_grad(audio_codec_loss, has_aux=True)(vae, audio, key, train)
    return loss, metrics, grads, jax.tree.map(lambda p, g: p - 3e-3 * jnp.sign(g), vae, grads)

  first, metrics, grads, vae = step(vae, jax.random.key(0))
  assert set(metrics) == {"stft", "mel", "pitch", "kl", "loss"}
  silent = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)]
  assert silent == [".standard.latent_mean.value", ".standard.latent_std.value", ".standard.residual_std.value"]
  for i in range(60):
    last, _, _, vae = step(vae, jax.random.key(i))
  assert last < 0.8 * first


def test_calibration_makes_unit_latents_and_keeps_the_sound():
  vae = small()
  clips = jnp.stack([voice(8 * 384, 1 + 0.3 * i) for i in range(4)])
  means = calibration_statistics(vae, clips)
  assert means.shape == (4, 6, 4)
  calibrated = calibrate(vae, means, 1)
  again = np.asarray(calibration_statistics(calibrated, clips)).reshape(-1, means.shape[-1])
  np.testing.assert_allclose(again.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(again.std(0), 1, rtol=1e-3)

  def roundtrip(vae):
    posterior, _ = vae.encode(clips[0], vae.encoder_state())
    return vae.decode(posterior.mean, vae.decoder_state())[0], posterior.logvar - 2 * jnp.log(posterior.mean.std())

  assert_close(roundtrip(calibrated)[0], roundtrip(vae)[0], 1e-4)
  assert not np.array_equal(vae.standard.latent_mean[...], calibrated.standard.latent_mean[...])
