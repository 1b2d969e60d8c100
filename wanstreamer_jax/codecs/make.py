"""Makes the codecs that a config names. Each kind's module is imported only when it is asked for."""

from flax import nnx

from wanstreamer_jax.codecs.interface import AudioCodec, VideoCodec
from wanstreamer_jax.config import AudioCodecConfig, VideoCodecConfig


def make_audio_codec(config: AudioCodecConfig, *, rngs: nnx.Rngs) -> AudioCodec:
  """The audio codec of `config.kind`, with random weights. Raises ConfigError for sizes that do not fit together."""
  if config.kind == "pocket":
    from wanstreamer_jax.codecs.pocket import PocketCodec

    return PocketCodec(config.pocket, rngs=rngs)
  if config.kind == "neural":
    from wanstreamer_jax.codecs.neural_codec import NeuralCodec

    return NeuralCodec(config.neural, rngs=rngs)
  from wanstreamer_jax.codecs.source_filter_codec import SourceFilterCodec

  return SourceFilterCodec(config.source_filter, rngs=rngs)


def make_video_codec(config: VideoCodecConfig, *, rngs: nnx.Rngs) -> VideoCodec:
  """The video codec of `config.kind`, with random weights. Raises ConfigError for sizes that do not fit together."""
  if config.kind == "native":
    from wanstreamer_jax.codecs.native_video_codec import NativeVideoCodec

    return NativeVideoCodec(config.native, rngs=rngs)
  from wanstreamer_jax.codecs.wan import WanCodec

  return WanCodec(config.wan, config.tae if config.decoder == "tae" else None, rngs=rngs)
