"""Typed configuration: the only place where sizes, rates and choices are set.

A config file (`configs/*.py`) returns a `Config` from `get_config()`. Fields may be changed (by a later config file or
by `--config.section.field=value`) until `freeze()` checks the whole and locks it. A frozen config is hashable and
is passed to jitted functions as a static argument. Everything that follows from other fields is a property here,
never a second field.

The annotation and the bounds of a field say which values it takes. Rules between several fields are in `check_rules` of
their section, or of `Config` when they are in different sections.

Modules:
    codecs.py       Kinds and sizes of the codecs of sound and pictures
    experiment.py   `Config`, one experiment whole, and the rules between its sections
    model.py        The layout of a unit, the Transformer and flow matching
    perception.py   Kinds and sizes of what hears and sees the user
    section.py      What a config is made of: sections whose fields check, bound and spell their values
    training.py     Data, augmentation, optimisation and evaluation
"""

from wanstreamer_jax.config.codecs import (
  AudioCodecConfig,
  NativeVideoConfig,
  NeuralCodecConfig,
  PocketConfig,
  SourceFilterConfig,
  TaeConfig,
  VideoCodecConfig,
  Wan2p2Config,
  WanConfig,
)
from wanstreamer_jax.config.experiment import Config, MediaConfig
from wanstreamer_jax.config.model import LONGEST_WORLD_TEXT, POSITIONS_PER_UNIT, FlowConfig, LayoutConfig, ModelConfig
from wanstreamer_jax.config.perception import MoonshineConfig, PerceptionConfig, Siglip2Config
from wanstreamer_jax.config.section import Section, checked, convert, field, section, spelled, unknown_name, whole
from wanstreamer_jax.config.training import (
  AugmentConfig,
  DataConfig,
  EvalConfig,
  ReadoutsConfig,
  TrainConfig,
  group_rates,
)

__all__ = [
  "LONGEST_WORLD_TEXT",
  "POSITIONS_PER_UNIT",
  "AudioCodecConfig",
  "AugmentConfig",
  "Config",
  "DataConfig",
  "EvalConfig",
  "FlowConfig",
  "LayoutConfig",
  "MediaConfig",
  "ModelConfig",
  "MoonshineConfig",
  "NativeVideoConfig",
  "NeuralCodecConfig",
  "PerceptionConfig",
  "PocketConfig",
  "ReadoutsConfig",
  "Section",
  "Siglip2Config",
  "SourceFilterConfig",
  "TaeConfig",
  "TrainConfig",
  "VideoCodecConfig",
  "Wan2p2Config",
  "WanConfig",
  "checked",
  "convert",
  "field",
  "group_rates",
  "section",
  "spelled",
  "unknown_name",
  "whole",
]
