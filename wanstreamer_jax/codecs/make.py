"""Makes the codecs that a config names. Each kind's module is imported only when it is asked for."""

from flax import nnx

from wanstreamer_jax.codecs.interface import AudioCodec, VideoCodec
from wanstreamer_jax.config import AudioCodecConfig, VideoCodecConfig
from wanstreamer_jax.errors import ConfigError


def make_audio_codec(config: AudioCodecConfig, *, rngs: nnx.Rngs) -> AudioCodec:
  """The audio codec of `config.kind`, with random weights. Raises ConfigError."""
  if config.kind == "source_filter":
    from wanstreamer_jax.codecs.source_filter_codec import SourceFilterCodec

    return SourceFilterCodec(config.source_filter, rngs=rngs)
  raise ConfigError(f"audio_codec.kind {config.kind} is not built yet")


def make_video_codec(config: VideoCodecConfig, *, rngs: nnx.Rngs) -> VideoCodec:
  """The video codec of `config.kind`, with random weights. Raises ConfigError."""
  if config.kind == "native":
    from wanstreamer_jax.codecs.native_video_codec import NativeVideoCodec

    return NativeVideoCodec(config.native, rngs=rngs)
  raise ConfigError(f"video_codec.kind {config.kind} is not built yet")
