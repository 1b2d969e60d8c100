"""Kinds and sizes of the codecs of sound and pictures."""

import dataclasses
import math
from typing import Literal

from wanstreamer_jax.config.section import Section, field, section, whole
from wanstreamer_jax.errors import ConfigError


@section
class SourceFilterConfig(Section):
  """The codec of one voice, an oscillator with filters: `prod(strides)` samples become one latent frame."""

  # In encoder order: 10 ms frames of spectra, then convolutions; 12.5 Hz at 24 kHz.
  strides: tuple[int, ...] = field((240, 2, 4), ge=1)
  channels: int = field(64, ge=1)  # at the frame rate; doubled at every further stride
  max_channels: int = field(128, ge=1)
  latent_dim: int = field(32, ge=1)
  kernel: int = field(3, ge=1)  # of residual blocks
  residual_blocks: int = field(1, ge=0)  # per stage
  cepstrum: int = field(64, ge=1)  # coefficients of each of the decoder's two filters
  attention_layers: int = field(0, ge=0)  # optional causal attention at the latent rate
  attention_heads: int = field(4, ge=1)
  attention_window: int = field(64, ge=1)  # latent frames, including the current one

  @property
  def sample_rate(self) -> int:
    """What its first stride, 10 ms, implies."""
    return 100 * self.strides[0]

  @property
  def hop(self) -> int:
    """Samples per latent frame."""
    return math.prod(self.strides)

  @property
  def delay(self) -> int:
    return 0


@section
class NeuralCodecConfig(Section):
  """The native codec of any sound: causal ConvNeXt blocks over spectra, and an inverse STFT."""

  sample_rate: int = field(24_000, ge=1)
  rate: int = field(25, ge=1)  # latent frames a second
  frames: int = field(4, ge=1)  # spectral frames per latent frame; 10 ms each
  window: int = field(3, ge=3)  # spectral frames of a synthesis window, which is a Hann window; the delay is one less
  latent_dim: int = field(32, ge=1)
  channels: int = field(128, ge=1)  # at the frame rate
  latent_channels: int = field(192, ge=1)  # at the latent rate
  kernel: int = field(5, ge=1)  # spectral frames that a block sees
  latent_kernel: int = field(3, ge=1)  # latent frames that a block sees
  expansion: int = field(3, ge=1)  # of channels inside a block
  encoder_blocks: tuple[int, ...] = field((2, 2), ge=0)  # at the frame rate, at the latent rate
  decoder_blocks: tuple[int, ...] = field((2, 4), ge=0)  # at the latent rate, at the frame rate

  @property
  def hop(self) -> int:
    """Samples per latent frame."""
    return whole(self.sample_rate, self.rate, "samples per latent = audio_codec.neural.sample_rate / rate")

  @property
  def frame(self) -> int:
    """Samples per spectral frame (240 at 24 kHz)."""
    return whole(self.hop, self.frames, "samples per spectral frame = samples per latent / audio_codec.neural.frames")

  @property
  def bins(self) -> int:
    """Frequencies of a synthesis window."""
    return self.window * self.frame // 2 + 1

  @property
  def delay(self) -> int:
    """Samples: a sample is finished when the last window that covers it has come (20 ms at three frames of 10 ms)."""
    return (self.window - 1) * self.frame

  def check_rules(self) -> None:
    """A latent frame holds whole spectral frames, and both networks have two resolutions."""
    _ = self.frame
    for name in ("encoder_blocks", "decoder_blocks"):
      if len(getattr(self, name)) != 2:
        raise ConfigError(f"audio_codec.neural.{name} is {getattr(self, name)}: expected 2 numbers, one a resolution")


@section
class PocketConfig(Section):
  """The tokenizer of Pocket TTS: continuous latents at 12.5 Hz. `wanstreamer codec import` writes its sizes."""

  sample_rate: int = field(24_000, ge=1)
  latent_dim: int = field(32, ge=1)
  strides: tuple[int, ...] = field((4, 5, 6), ge=1)  # in encoder order, from samples to the Transformers' 200 Hz
  latent_stride: int = field(16, ge=2)  # from there to latents
  filters: int = field(64, ge=1)  # channels at the samples' rate; doubled at every stride
  kernel: int = field(7, ge=1)  # of the first convolution
  last_kernel: int = field(3, ge=1)
  residual_kernel: int = field(3, ge=1)
  residual_blocks: int = field(1, ge=0)  # per stride
  dilation_growth: int = field(2, ge=1)  # from one residual block to the next
  compress: int = field(2, ge=1)  # channels inside residual blocks are fewer by this factor
  width: int = field(512, ge=1)  # of the Transformers
  layers: int = field(2, ge=0)
  heads: int = field(8, ge=1)
  kv_heads: int = field(8, ge=1)
  head_dim: int = field(64, ge=1, multiple_of=2)
  mlp: int = field(2048, ge=1)
  activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh"
  window: int = field(250, ge=2)  # steps of the Transformers, 1.25 s
  rope_theta: float = field(10_000.0, ge=1)
  norm_eps: float = field(1e-5, gt=0)

  @property
  def hop(self) -> int:
    """Samples per latent frame."""
    return math.prod(self.strides) * self.latent_stride

  @property
  def delay(self) -> int:
    return 0

  def check_rules(self) -> None:
    whole(self.heads, self.kv_heads, "query heads per key head = audio_codec.pocket.heads / kv_heads")


@section
class AudioCodecConfig(Section):
  """What turns the agent's voice into latents and back, and the sizes of each kind that can do it."""

  kind: Literal["source_filter", "neural", "pocket"] = "source_filter"
  source_filter: SourceFilterConfig = dataclasses.field(default_factory=SourceFilterConfig)
  neural: NeuralCodecConfig = dataclasses.field(default_factory=NeuralCodecConfig)
  pocket: PocketConfig = dataclasses.field(default_factory=PocketConfig)

  @property
  def chosen(self) -> SourceFilterConfig | NeuralCodecConfig | PocketConfig:
    return getattr(self, self.kind)

  @property
  def latent_dim(self) -> int:
    """Numbers per latent frame."""
    return self.chosen.latent_dim

  @property
  def sample_rate(self) -> int:
    return self.chosen.sample_rate

  @property
  def hop(self) -> int:
    """Samples per latent frame."""
    return self.chosen.hop

  @property
  def delay(self) -> int:
    """Samples by which decoded sound is later than what was encoded."""
    return self.chosen.delay


@section
class NativeVideoConfig(Section):
  """Causal video VAE: the first frame alone, then groups of `time_stride` frames. Squares of `fold` pixels become
  channels, and each entry of `channels` after the first halves the picture: with fold 2, three entries give latents of
  8x8 pixels and four of 16x16."""

  fold: int = field(2, ge=1)  # pixels along the squares; 4 computes nothing at half of the resolution
  channels: tuple[int, ...] = field((16, 32, 64), ge=1)  # at 1/2, 1/4, 1/8, ... of the resolution (fold 2)
  encoder_blocks: tuple[int, ...] = field((1, 1), ge=0)  # residual blocks, at 1/4, 1/8, ...
  decoder_blocks: tuple[int, ...] = field((2, 1, 1), ge=1)  # from the latents' resolution up to 1/2
  time_kernel: int = field(2, ge=1)  # latent frames that a convolution at the latents' resolution sees
  latent_dim: int = field(8, ge=1)
  time_stride: int = field(4, ge=1)

  @property
  def space_stride(self) -> int:
    """Pixels per latent, along rows and columns."""
    return self.fold * 2 ** (len(self.channels) - 1)

  @property
  def memory(self) -> int:
    """Latents, itself included, on which a decoded group depends; training clips must be as long."""
    return 1 + (self.time_kernel - 1) * (1 + self.decoder_blocks[0])

  def check_rules(self) -> None:
    """Every resolution has its blocks, and the shortcuts between them merge and repeat whole channels."""
    count = len(self.channels)
    if count < 2:
      raise ConfigError(f"video_codec.native.channels {self.channels}: expected at least 2, for two resolutions")
    for name, blocks, wanted in (
      ("encoder_blocks", self.encoder_blocks, count - 1),
      ("decoder_blocks", self.decoder_blocks, count),
    ):
      if len(blocks) != wanted:
        raise ConfigError(
          f"video_codec.native.{name} {blocks}: expected {wanted} for the {count} resolutions of channels"
        )
    for i, (outer, inner) in enumerate(zip(self.channels, self.channels[1:]), 2):
      folded = 4 * (self.time_stride if i == count else 1) * outer
      if folded % inner:
        raise ConfigError(
          f"video_codec.native.channels {self.channels}: number {i}, {inner}, must divide {folded}, what one step "
          "folds together"
        )


@section
class WanConfig(Section):
  """The video VAE of Wan2.1; Wan2.2's has the same parts in other sizes (`Wan2p2Config`). `wanstreamer codec import`
  writes them."""

  base_dim: int = field(96, ge=1)  # channels of the encoder at full resolution
  decoder_base_dim: int = field(0, ge=0)  # of the decoder; 0: as the encoder
  latent_dim: int = field(16, ge=1)
  multiples: tuple[int, ...] = field((1, 2, 4, 4), ge=1)  # of base_dim, per resolution
  blocks: int = field(2, ge=1)  # per resolution; the decoder has one more
  time_down: tuple[bool, ...] = (False, True, True)  # which of the encoder's steps halve the frames
  patch: int = field(1, ge=1)  # side of the squares of pixels that are folded into channels
  shortcuts: bool = False  # past every resolution

  @property
  def decoder_width(self) -> int:
    """Channels of the decoder at full resolution."""
    return self.decoder_base_dim or self.base_dim

  @property
  def space_stride(self) -> int:
    """Pixels per latent, along rows and columns."""
    return self.patch * 2 ** (len(self.multiples) - 1)

  @property
  def time_stride(self) -> int:
    return 2 ** sum(self.time_down)

  @property
  def memory(self) -> int:
    return 1

  def check_rules(self) -> None:
    if len(self.time_down) != len(self.multiples) - 1:
      raise ConfigError(
        f"time_down has {len(self.time_down)} entries: expected {len(self.multiples) - 1}, one per step between the "
        f"{len(self.multiples)} resolutions of multiples"
      )


@section
class Wan2p2Config(WanConfig):
  """The video VAE of Wan2.2 TI2V: squares of 2x2 pixels are folded into channels before the same network."""

  base_dim: int = field(160, ge=1)
  decoder_base_dim: int = field(256, ge=0)
  latent_dim: int = field(48, ge=1)
  patch: int = field(2, ge=1)
  shortcuts: bool = True


@section
class TaeConfig(Section):
  """The small decoder for Wan's latents."""

  channels: tuple[int, ...] = field((256, 128, 64, 64), ge=1)  # at the latents' resolution, at twice it, ...
  blocks: int = field(3, ge=1)  # with memory, per resolution but the last

  def check_rules(self) -> None:
    if len(self.channels) != 4:
      raise ConfigError(f"video_codec.tae.channels is {self.channels}: expected 4 numbers, one a resolution")


@section
class VideoCodecConfig(Section):
  """What turns the agent's pictures into latents and back, and the sizes of each kind that can do it."""

  kind: Literal["native", "wan2p1", "wan2p2"] = "native"
  decoder: Literal["own", "tae"] = "own"  # "tae": the small decoder for latents of Wan
  native: NativeVideoConfig = dataclasses.field(default_factory=NativeVideoConfig)
  wan2p1: WanConfig = dataclasses.field(default_factory=WanConfig)
  wan2p2: Wan2p2Config = dataclasses.field(default_factory=Wan2p2Config)
  tae: TaeConfig = dataclasses.field(default_factory=TaeConfig)

  @property
  def chosen(self) -> NativeVideoConfig | WanConfig:
    return getattr(self, self.kind)

  @property
  def wan(self) -> WanConfig:
    """The sizes of Wan's codec, of whichever kind it is."""
    return self.wan2p2 if self.kind == "wan2p2" else self.wan2p1

  @property
  def latent_dim(self) -> int:
    """Numbers per latent."""
    return self.chosen.latent_dim

  @property
  def space_stride(self) -> int:
    """Pixels per latent, along rows and columns."""
    return self.chosen.space_stride

  @property
  def time_stride(self) -> int:
    """Frames per latent frame, after the first."""
    return self.chosen.time_stride

  @property
  def memory(self) -> int:
    """Latents, itself included, on which a decoded group depends; training clips must be as long."""
    return self.chosen.memory

  def check_rules(self) -> None:
    if self.decoder == "tae" and self.kind == "native":
      raise ConfigError("video_codec.decoder is tae, which decodes latents of wan2p1 and wan2p2, not of native")
    if self.decoder == "tae" and (self.space_stride, self.time_stride) != (8 * self.wan.patch, 4):
      raise ConfigError(
        f"video_codec.decoder is tae, which makes 4 frames and {8 * self.wan.patch} pixels of a latent, but "
        f"video_codec.{self.kind} has {self.time_stride} and {self.space_stride}"
      )
