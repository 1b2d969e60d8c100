"""The training stages by name. Each is imported only when it is asked for, so that listing them costs nothing."""

from collections.abc import Callable

from wanstreamer_jax.config import unknown_name
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.train.stage import Stage


def _audio_codec() -> Stage:
  from wanstreamer_jax.train.codecs import audio_codec_stage

  return audio_codec_stage()


def _video_codec() -> Stage:
  from wanstreamer_jax.train.codecs import video_codec_stage

  return video_codec_stage()


def _duplex() -> Stage:
  from wanstreamer_jax.train.duplex import duplex_stage

  return duplex_stage()


STAGES: dict[str, Callable[[], Stage]] = {"audio_codec": _audio_codec, "video_codec": _video_codec, "duplex": _duplex}


def get_stage(name: str) -> Stage:
  """The stage of `config.train.stage`. Raises ConfigError with the nearest name."""
  if name not in STAGES:
    raise ConfigError(unknown_name(name, list(STAGES), "train.stage"))
  return STAGES[name]()
