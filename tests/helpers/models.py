"""Models of all sizes as trees of shapes, and noise in the shape of what trains them."""

import functools

import jax
import numpy as np
from flax import nnx

from tests import CONFIGS
from tests.helpers.agents import random_sound
from wanstreamer_jax.codecs.native_video_codec import NativeVideoCodec
from wanstreamer_jax.codecs.source_filter_codec import SourceFilterCodec
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data import labels
from wanstreamer_jax.data.loader import PREVIOUS, Crop
from wanstreamer_jax.model.streamer import WanStreamer, WorldArrays

SIZES = (
  "tiny.py", "demo.py", "qwen2p5_1p5b.py:192x336", "qwen3_0p6b.py:192x336", "qwen3_1p7b.py:640x368",
  "qwen3_8b.py:640x368",
)  # fmt: skip


@functools.cache
def abstract_duplex(size: str):
  config = load_config(CONFIGS / size)
  return jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))


def abstract_codecs(size: str):
  config = load_config(CONFIGS / size, ["audio_codec.source_filter.attention_layers=1"])
  return {
    "audio": jax.eval_shape(lambda: SourceFilterCodec(config.audio_codec.source_filter, rngs=nnx.Rngs(0))),
    "video": jax.eval_shape(lambda: NativeVideoCodec(config.video_codec.native, rngs=nnx.Rngs(0))),
  }


def duplex_batch(config: Config, rows: int) -> Crop:
  """Noise in the shape of what the loader reads from a folder of latents."""
  r = np.random.default_rng(0)
  units, media, layout = config.data.units, config.media, config.layout
  empty = WorldArrays.empty(config)
  normal = lambda *shape: r.standard_normal((rows, *shape)).astype(np.float16)
  words = lambda *shape: (r.integers(2, config.model.vocab, (rows, *shape)) * (r.random((rows, *shape)) < 0.5)).astype(
    np.int32
  )
  video = (config.latent_height, config.latent_width, config.video_codec.latent_dim)
  audio = (config.audio_latents, config.audio_codec.latent_dim)
  sound = (32767 * random_sound(r, rows * units, media.samples)).astype(np.int16).reshape(rows, units, -1)
  picture = r.integers(0, 255, (rows, units, media.frames, media.height, media.width, 3)).astype(np.uint8)
  yes = lambda *shape: np.ones((rows, *shape), bool)
  return Crop(
    session=np.arange(rows, dtype=np.int32), start=np.arange(rows, dtype=np.int32),
    world_text=words(layout.world_text), portrait_latent=normal(*empty.portrait.shape), portrait_valid=yes(),
    voice_latent=normal(*empty.voice.shape), voice_valid=yes(),
    user_video=picture, user_video_valid=yes(units), user_audio=sound, user_audio_valid=yes(units),
    user_text=words(units, layout.user_text_slots), user_labels=no_labels(rows, units),
    agent_text=words(units, layout.text_slots),
    agent_text_valid=yes(units),
    agent_video_latent=normal(PREVIOUS + units, *video), agent_video_valid=yes(PREVIOUS + units),
    agent_audio_latent=normal(PREVIOUS + units, *audio), agent_audio_valid=yes(PREVIOUS + units),
  )  # fmt: skip


def no_labels(rows: int, units: int) -> np.ndarray:
  """Labels of crops of whose users nothing is known: int32 [rows, units, L]."""
  return np.full((rows, units, len(labels.KINDS)), labels.UNKNOWN, np.int32)
