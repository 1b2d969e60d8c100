"""Losses of stage 0, for the audio and the video codec, on one unbatched clip. Callers vmap.

The decoder is trained on a sample of the posterior plus some noise, since it will decode latents that a flow model
generates, which are never exactly those of an encoder.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wanstreamer_jax.codecs import losses, pitch
from wanstreamer_jax.codecs.interface import AudioCodec, VideoCodec
from wanstreamer_jax.codecs.native_video_codec import NativeVideoCodec, still_first
from wanstreamer_jax.codecs.posterior import Posterior
from wanstreamer_jax.codecs.source_filter import LOWEST_PITCH, pitch_octaves
from wanstreamer_jax.codecs.source_filter_codec import SourceFilterCodec
from wanstreamer_jax.config import TrainConfig
from wanstreamer_jax.train.critic import CodecWithCritic, adversarial_loss

Metrics = dict[str, Float[Array, ""]]


def noisy_sample(posterior: Posterior, key: jax.Array, noise: float) -> Float[Array, "... Z"]:
  """A posterior sample with extra noise: U(0, noise), one draw per clip, times each channel's deviation in the clip."""
  sample_key, level_key, noise_key = jax.random.split(key, 3)
  latents = posterior.sample(sample_key)
  deviation = jax.lax.stop_gradient(posterior.mean.std(axis=tuple(range(posterior.mean.ndim - 1))))
  level = noise * jax.random.uniform(level_key)
  return latents + level * deviation * jax.random.normal(noise_key, latents.shape)


def pitch_loss(logit: Float[Array, "T"], audio: Float[Array, "S"], hop: int) -> Float[Array, ""]:
  """Mean absolute error in octaves over voiced frames; 0 where none is voiced."""
  cycles, voiced = pitch.track(audio, hop)
  error = jnp.abs(pitch_octaves(logit) - jnp.log2(cycles / LOWEST_PITCH))
  return jnp.sum(voiced * error) / jnp.maximum(jnp.sum(voiced), 1.0)


class Comparison(NamedTuple):
  """What the losses of one clip compare: aligned, both [S] or [F, H, W, 3]."""

  original: Float[Array, "..."]
  decoded: Float[Array, "..."]


def audio_codec_loss(
  codec: AudioCodec, audio: Float[Array, "S"], key: jax.Array, train: TrainConfig
) -> tuple[Float[Array, ""], Metrics]:
  """Spectral distances and KL of one clip of whole latent frames; pitch where there is an oscillator.

  Returns (loss, metrics).
  """
  loss, metrics, _ = reconstruction_loss(codec, audio, key, train)
  return loss, metrics | {"loss": loss}


def adversarial_codec_loss(
  both: CodecWithCritic, audio: Float[Array, "S"], key: jax.Array, train: TrainConfig
) -> tuple[Float[Array, ""], Metrics]:
  """`audio_codec_loss`, and what codec and critic learn from each other. Returns (loss, metrics)."""
  loss, metrics, (original, decoded) = reconstruction_loss(both.codec, audio, key, train)
  contest, more = adversarial_loss(both.critic, original, decoded, train)
  return loss + contest, metrics | more | {"loss": loss + contest}


def reconstruction_loss(
  codec: AudioCodec, audio: Float[Array, "S"], key: jax.Array, train: TrainConfig
) -> tuple[Float[Array, ""], Metrics, Comparison]:
  """Compares decoded sound with sound `codec.cfg.delay` samples earlier, which is what the codec gives then."""
  posterior, _ = codec.encode(audio, codec.encoder_state())
  latents, state, metrics = noisy_sample(posterior, key, train.latent_noise), codec.decoder_state(), {}
  if isinstance(codec, SourceFilterCodec):
    frames, _ = codec.voice_frames(latents, state["decoder"])
    decoded, _ = codec.synthesise(frames, state["voice"])
    metrics["pitch"] = pitch_loss(frames.pitch_logit, audio, codec.cfg.strides[0])
  else:
    decoded, _ = codec.decode(latents, state)
  heard = Comparison(*losses.in_step(audio, decoded, codec.cfg.delay))
  metrics |= {
    "stft": losses.stft_loss(*heard),
    "mel": losses.mel_distance(*heard, codec.cfg.sample_rate),
    "kl": losses.kl(posterior),
  }
  loss = train.stft_weight * metrics["stft"] + train.mel_weight * metrics["mel"] + train.kl_weight * metrics["kl"]
  if "pitch" in metrics:
    loss += train.pitch_weight * metrics["pitch"]
  return loss, metrics, heard


def video_codec_loss(
  vae: NativeVideoCodec, video: Float[Array, "F H W 3"], key: jax.Array, train: TrainConfig
) -> tuple[Float[Array, ""], Metrics]:
  """Reconstruction, edges, structure and KL of one clip of a frame and n groups. Returns (loss, metrics)."""
  loss, metrics, _ = picture_loss(vae, video, key, train)
  return loss, metrics | {"loss": loss}


def adversarial_video_loss(
  both: CodecWithCritic, video: Float[Array, "F H W 3"], key: jax.Array, train: TrainConfig
) -> tuple[Float[Array, ""], Metrics]:
  """`video_codec_loss`, and what codec and critic learn from each other. Returns (loss, metrics)."""
  loss, metrics, (original, decoded) = picture_loss(both.codec, video, key, train)
  contest, more = adversarial_loss(both.critic, original, decoded, train)
  return loss + contest, metrics | more | {"loss": loss + contest}


def picture_loss(
  vae: NativeVideoCodec, video: Float[Array, "F H W 3"], key: jax.Array, train: TrainConfig
) -> tuple[Float[Array, ""], Metrics, Comparison]:
  """(loss, metrics, what was compared) of a clip, which begins with a still."""
  height, width = video.shape[1:3]
  target = still_first(video, vae.cfg.time_stride)
  posterior, _ = vae.encode(target, vae.encoder_state(height, width))
  latents = noisy_sample(posterior, key, train.latent_noise)
  decoded, _ = vae.decode(latents, vae.decoder_state(height, width))
  mse = jnp.mean(jnp.square(jnp.clip(decoded, -1, 1) - target))
  metrics = {
    "reconstruction": losses.charbonnier(decoded - target, losses.motion_weights(target, train.motion_weight)),
    "edge": losses.edge_loss(decoded, target),
    "kl": losses.kl(posterior),
    "psnr": 10 * jnp.log10(4.0 / jnp.maximum(mse, 1e-10)),
  }
  loss = metrics["reconstruction"] + train.edge_weight * metrics["edge"] + train.kl_weight * metrics["kl"]
  if train.structure_weight:
    metrics["structure"] = losses.structure_loss(decoded, target)
    loss += train.structure_weight * metrics["structure"]
  return loss, metrics, Comparison(target, decoded)


def calibration_statistics(vae: AudioCodec | VideoCodec, clips: Float[Array, "B ..."]) -> Float[Array, "B T ... Z"]:
  """Posterior means of a batch of clips (audio [B, S] or video [B, 1 + 4n, H, W, 3]), for `posterior.calibrate`.

  The first two latent frames of each clip are left out if there are more, since they see the empty past. One clip is
  encoded after the other: pretrained encoders of pictures need much memory.
  """

  def means(clip: Array) -> Array:
    posterior = vae.encode(clip, vae.encoder_state())[0] if isinstance(vae, AudioCodec) else vae.encode_clip(clip)
    return posterior.mean[min(2, posterior.mean.shape[0] - 1) :]

  return jax.lax.map(means, clips)
