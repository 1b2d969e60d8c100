"""Kinds and sizes of what hears and sees the user."""

import dataclasses
import math
from typing import Literal

from wanstreamer_jax.config.section import Section, field, section, whole
from wanstreamer_jax.errors import ConfigError


@section
class MoonshineConfig(Section):
  """A pretrained streaming speech encoder of Moonshine's kind. A window of (16, 4) sees 16 steps of 20 ms, the current
  one included, and the 3 steps after it."""

  width: int = field(320, ge=1)
  heads: int = field(8, ge=1)
  kv_heads: int = field(8, ge=1)
  head_dim: int | None = field(None, ge=1)  # None: width / heads
  mlp: int = field(1280, ge=1)
  past: tuple[int, ...] = field((16, 16, 16, 16, 16, 16), ge=1)  # of every layer
  future: tuple[int, ...] = field((4, 4, 0, 0, 4, 4), ge=0)  # of every layer, one more than the steps that it sees
  look_ahead: Literal["none", "delay"] = "none"  # "delay": layers wait for the future that they see

  @property
  def size_of_head(self) -> int:
    return self.head_dim or whole(self.width, self.heads, "head size = perception.moonshine.width / heads")

  @property
  def ahead(self) -> tuple[int, ...]:
    """Steps that every layer waits for."""
    waits = self.look_ahead == "delay"
    return tuple(max(0, steps - 1) if waits else 0 for steps in self.future)

  def check_rules(self) -> None:
    whole(self.heads, self.kv_heads, "query heads per key head = perception.moonshine.heads / kv_heads")
    if len(self.past) != len(self.future):
      raise ConfigError(
        f"perception.moonshine has {len(self.past)} entries of past and {len(self.future)} of future: expected one of "
        "each a layer"
      )


@section
class Siglip2Config(Section):
  """A pretrained vision Transformer of SigLIP's kind. The defaults are the base model's."""

  width: int = field(768, ge=1)
  layers: int = field(12, ge=1)
  heads: int = field(12, ge=1)
  mlp: int = field(3072, ge=1)
  patch: int = field(16, ge=1)  # pixels
  places: int = field(256, ge=1)  # learnt places, a square grid
  patches: int = field(256, ge=1)  # a picture is resized to at most so many, in its own aspect
  epsilon: float = field(1e-6, gt=0)

  def check_rules(self) -> None:
    whole(self.width, self.heads, "head size = perception.siglip2.width / heads")
    if math.isqrt(self.places) ** 2 != self.places:
      raise ConfigError(f"perception.siglip2.places is {self.places}: expected a square, such as 256")


@section
class PerceptionConfig(Section):
  """Encoders of what the user shows and says, trained with the Transformer."""

  audio: Literal["native", "pocket", "moonshine"] = "native"  # "pocket" has the sizes of audio_codec.pocket
  video: Literal["native", "siglip2"] = "native"
  moonshine: MoonshineConfig = dataclasses.field(default_factory=MoonshineConfig)
  siglip2: Siglip2Config = dataclasses.field(default_factory=Siglip2Config)
  video_every: int | None = field(None, ge=1)  # siglip2 looks at every n-th frame; None: at a unit's last
  mel_bins: int = field(64, ge=1)
  mel_hop: int = field(240, ge=1)  # samples, 10 ms
  mel_window: int = field(512, ge=1)  # samples, all of them in the past of the frame's end
  audio_tokens: int = field(4, ge=1)  # per unit
  audio_channels: int = field(128, ge=1)
  audio_layers: int = field(1, ge=0)  # causal attention layers
  audio_window: int = field(8, ge=1)  # units that the audio encoder's attention sees, including the current one
  video_patch: int = field(16, ge=1, multiple_of=4)  # pixels; the first layer merges 4 by 4
  video_merge: int = field(2, ge=1)  # neighbouring patches merged (per side) into one token of the unit
  video_channels: int = field(128, ge=4)  # of a patch; a quarter at 1/4 of the resolution
  video_blocks: tuple[int, ...] = field((1, 0), ge=0)  # 3x3 convolutions there, and between patches

  def check_rules(self) -> None:
    if len(self.video_blocks) != 2 or not self.video_blocks[0]:
      raise ConfigError(f"perception.video_blocks is {self.video_blocks}: expected two numbers, the first at least 1")
    if self.mel_window < self.mel_hop:
      raise ConfigError(f"perception.mel_window is {self.mel_window} samples: less than mel_hop {self.mel_hop}")
