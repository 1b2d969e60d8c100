"""Typed configuration: the only place where sizes, rates and choices are set.

A config file (`configs/*.py`) returns a `Config` from `get_config()`. Fields may be changed (by a later config file or
by `--config.section.field=value`) until `freeze()` checks the whole and locks it. A frozen config is hashable and
is passed to jitted functions as a static argument. Everything that follows from other fields is a property here,
never a second field.

The annotation and the bounds of a field say which values it takes. Rules between several fields are in `check_rules` of
their section, or of `Config` when they are in different sections.
"""

import dataclasses
import difflib
import math
import operator
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar, dataclass_transform

from wanstreamer_jax.errors import ConfigError

LONGEST_WORLD_TEXT = 2048  # tokens; their rotary ids, 4 a token, are below 0, where the tables end at -8 192
POSITIONS_PER_UNIT = 4  # the rotary grid: a unit is 4 steps (40 ms each at 160 ms), and the rotary step is 1/4

MAX_NUMBER = 2**31 - 1  # no number of a config is larger, in either direction
BOUNDS = {  # how a number is compared with a bound of its field, and what an error says was expected
  "ge": (operator.ge, "at least"),
  "gt": (operator.gt, "a number above"),
  "le": (operator.le, "at most"),
  "lt": (operator.lt, "a number below"),
  "multiple_of": (lambda number, factor: number % factor == 0, "a multiple of"),
}

Value = TypeVar("Value")


def field(default: Value, **bounds: float) -> Value:
  """A field whose number (each of them in a tuple, any in an optional field) keeps the bounds named in BOUNDS."""
  return dataclasses.field(default=default, metadata={name: (*BOUNDS[name], bounds[name]) for name in bounds})


class Section:
  """Base of every config dataclass: unknown fields fail with the nearest name, frozen ones refuse to change."""

  def __setattr__(self, name: str, value: Any) -> None:
    if getattr(self, "_frozen", False):
      raise ConfigError(f"config is frozen: cannot set {type(self).__name__}.{name} = {value!r}; use replace()")
    self._require(name)
    object.__setattr__(self, name, value)

  @classmethod
  def field_types(cls) -> dict[str, Any]:
    """{name: type} of all fields."""
    return typing.get_type_hints(cls)

  def fields(self) -> dict[str, Any]:
    """{name: value} of all fields, where the value may be a section again."""
    return {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}  # type: ignore[arg-type]

  def replace(self, **changes: Any) -> Self:
    """A changed, unfrozen copy; sections that are not named are copied too."""
    for name in changes:
      self._require(name)
    copies = {name: value.replace() if isinstance(value, Section) else value for name, value in self.fields().items()}
    return type(self)(**copies | changes)

  def freeze(self) -> Self:
    """Checks this section and those below it, then locks them. Returns itself.

    Raises ConfigError with the name of the field, its value and what was expected.
    """
    self._check("")
    self._lock()
    return self

  def check_rules(self) -> None:
    """Raises ConfigError unless several fields, each of them valid, fit together."""

  def _require(self, name: str) -> None:
    names = [spec.name for spec in dataclasses.fields(self)]  # type: ignore[arg-type]
    if name not in names:
      raise ConfigError(unknown_name(name, names, f"field of {type(self).__name__}"))

  def _check(self, prefix: str) -> None:
    """Gives every field its declared type. Raises ConfigError, with `prefix` before the field's name."""
    kinds = self.field_types()
    for spec in dataclasses.fields(self):  # type: ignore[arg-type]
      name, value = prefix + spec.name, getattr(self, spec.name)
      if isinstance(kinds[spec.name], type) and issubclass(kinds[spec.name], Section):
        if type(value) is not kinds[spec.name]:
          raise ConfigError(f"{name} is {value!r:.60}: expected {kinds[spec.name].__name__}")
        value._check(f"{name}.")
      else:
        object.__setattr__(self, spec.name, checked(name, value, kinds[spec.name], spec.metadata))
    self.check_rules()

  def _lock(self) -> None:
    for value in self.fields().values():
      if isinstance(value, Section):
        value._lock()
    object.__setattr__(self, "_frozen", True)


AnySection = TypeVar("AnySection", bound=Section)


@dataclass_transform(kw_only_default=True)
def section(cls: type[AnySection]) -> type[AnySection]:
  """Class decorator: a mutable-until-frozen dataclass with structural hash and equality."""
  return dataclasses.dataclass(unsafe_hash=True, kw_only=True)(cls)


def checked(name: str, value: Any, kind: Any, bounds: Mapping[str, Any]) -> Any:
  """The value of a field as its type. Raises ConfigError if it is of another one, or a number out of bounds."""
  try:
    value = convert(value, kind)
  except (ValueError, OverflowError):
    raise ConfigError(f"{name} is {value!r}: expected {spelled(kind)}") from None
  if value == ():
    raise ConfigError(f"{name} is empty: expected at least one number")
  for number in value if isinstance(value, tuple) else (value,):
    if type(number) not in (int, float):
      continue
    if not abs(number) <= MAX_NUMBER:  # nor is NaN
      raise ConfigError(f"{name} is {value}: expected a finite number up to {MAX_NUMBER}")
    for holds, words, bound in bounds.values():
      if not holds(number, bound):
        raise ConfigError(f"{name} is {value}: expected {words} {bound}")
  return value


def convert(value: Any, kind: Any) -> Any:
  """`value` (of a Python file, of a literal or of JSON) as `kind`. Raises ValueError when it is something else.

  kind: bool, int, float, str, a Literal of choices, tuple[T, ...], or `T | None` of one of these.
  """
  options = typing.get_args(kind)
  if isinstance(kind, types.UnionType):
    return None if value is None else convert(value, options[0])
  if typing.get_origin(kind) is tuple:
    return tuple(convert(item, options[0]) for item in (value if isinstance(value, list | tuple) else (value,)))
  if kind is float and type(value) is not bool and isinstance(value, int | float):
    return float(value)
  fits = (type(value), value) in [(type(option), option) for option in options] if options else type(value) is kind
  if not fits:
    raise ValueError(f"{value!r} is not {spelled(kind)}")
  return value


def spelled(kind: Any) -> str:
  """A type as a user would write it: "int", "tuple[int, ...]", "one of adamw, muon"."""
  if typing.get_origin(kind) is Literal:
    return f"one of {', '.join(map(str, typing.get_args(kind)))}"
  return str(kind) if typing.get_args(kind) else kind.__name__


def unknown_name(name: str, names: list[str], what: str) -> str:
  """An error message for a misspelt name, with the nearest known one."""
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(names))}"
  return f"unknown {what}: {name!r}{hint}"


def whole(numerator: int, denominator: int, what: str) -> int:
  """numerator / denominator, which must be a whole number. Raises ConfigError with the numbers otherwise."""
  if denominator <= 0 or numerator % denominator:
    raise ConfigError(f"{what}: {numerator} / {denominator} is not a whole number")
  return numerator // denominator


@section
class MediaConfig(Section):
  """The clock and the picture size that both sides share."""

  unit_ms: int = field(160, ge=1)
  fps: int = field(25, ge=1)
  sample_rate: int = field(24_000, ge=1)
  height: int = field(64, ge=1)
  width: int = field(64, ge=1)

  @property
  def frames(self) -> int:
    """Video frames per unit (4 at 160 ms and 25 fps)."""
    return whole(self.unit_ms * self.fps, 1000, f"frames per unit = unit_ms {self.unit_ms} x fps {self.fps} / 1000")

  @property
  def samples(self) -> int:
    """Audio samples per unit (3 840 at 160 ms and 24 kHz)."""
    what = f"samples per unit = unit_ms {self.unit_ms} x sample_rate {self.sample_rate} / 1000"
    return whole(self.unit_ms * self.sample_rate, 1000, what)


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
  """Causal video VAE: the first frame alone, then groups of `time_stride` frames. Each entry of `channels` halves the
  picture, so that three entries give latents of 8x8 pixels and four of 16x16."""

  channels: tuple[int, ...] = field((16, 32, 64), ge=1)  # at 1/2, 1/4, 1/8, ... of the resolution
  encoder_blocks: tuple[int, ...] = field((1, 1), ge=0)  # residual blocks, at 1/4, 1/8, ...
  decoder_blocks: tuple[int, ...] = field((2, 1, 1), ge=1)  # from the latents' resolution up to 1/2
  time_kernel: int = field(2, ge=1)  # latent frames that a convolution at the latents' resolution sees
  latent_dim: int = field(8, ge=1)
  time_stride: int = field(4, ge=1)

  @property
  def space_stride(self) -> int:
    """Pixels per latent, along rows and columns."""
    return 2 ** len(self.channels)

  @property
  def memory(self) -> int:
    """Latents, itself included, on which a decoded group depends; training clips must be as long."""
    return 1 + (self.time_kernel - 1) * (1 + self.decoder_blocks[0])

  def check_rules(self) -> None:
    """Every resolution has its blocks, and the shortcuts between them merge and repeat whole channels."""
    count = len(self.channels)
    if count < 2:
      raise ConfigError(f"video_codec.native.channels {self.channels}: expected at least 2 (at 1/2 and 1/4)")
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


@section
class LayoutConfig(Section):
  """Who is in a unit, in which order, and who sees whom (`units.py` turns this into blocks and coordinates)."""

  commit_delay: Literal[1, 2] = 1  # d: COMMIT_k holds the agent's latents of unit k - d; the paper has 1
  refeed: bool = False  # also show the previous unit's latents at the noisy patch size
  commit_patch: int = field(2, ge=1)  # the committed copy's patch side, in noisy patches
  patch: int = field(2, ge=1)  # the noisy copy's patch side, in video latents
  text_slots: int = field(3, ge=1)  # n, agent text tokens per unit
  user_text_slots: int = field(4, ge=0)
  window: int | None = field(62, ge=1)  # units of history including the current one; None is full history
  sinks: int = field(0, ge=0)  # first units of a session that stay pinned
  world_text: int = field(32, ge=0, le=LONGEST_WORLD_TEXT)  # capacity, in tokens, of the pinned persona/world text
  portrait: bool = True  # pinned first-frame latent of the agent's face
  voice_units: int = field(0, ge=0)  # pinned voice sample, in units
  user_video: bool = True
  committed_history: bool = True  # False: an ablation, the agent does not see its own past latents
  split_modalities: bool = False  # True: user audio and user video (and the agent's) are separate blocks
  token_causal_hear: bool = False  # True: every HEAR token is its own block
  rope: Literal["grid", "ordinal"] = "grid"  # (t, h, w) on the 40 ms grid, or all axes count tokens

  @property
  def needs_refeed(self) -> bool:
    """d = 2 hides y_{k-1} from the performer of unit k, since COMMIT_k holds y_{k-2}: REFEED is implied."""
    return self.committed_history and (self.refeed or self.commit_delay == 2)

  def check_rules(self) -> None:
    if self.refeed and not self.committed_history:
      raise ConfigError("layout.refeed shows the agent its past, but layout.committed_history is False")


@section
class ModelConfig(Section):
  """Decoder-only Transformer of Qwen geometry."""

  width: int = field(256, ge=1)
  layers: int = field(6, ge=1)
  heads: int = field(4, ge=1)
  kv_heads: int = field(2, ge=1)
  head_dim: int = field(64, ge=1, multiple_of=2)  # rotary embedding turns pairs
  mlp: int = field(704, ge=1)
  vocab: int = field(1024, ge=1)  # rows of the embedding
  tokens: int = field(0, ge=0)  # ids of the tokenizer; rows from there on only fill up and are never written; 0: all
  pad: int = field(0, ge=0)  # the token that ends a unit's text and fills its slots; the tokenizer's (`tokenizer_of`)
  qk_norm: bool = True
  qkv_bias: bool = False
  tied_embedding: bool = True
  rope_theta: float = field(10_000.0, ge=1)
  norm_eps: float = field(1e-6, gt=0)
  modulation: Literal["shared", "layer"] = "shared"  # flow time enters by one projection plus a bias per layer
  experts: Literal["shared", "latent"] = "shared"  # "latent": agent-latent tokens have their own MLPs
  remat: Literal["none", "full", "dots"] = "none"  # what the backward pass computes again
  dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters are float32
  attention: Literal["xla", "splash", "cudnn"] = "xla"  # in training; splash: TPU; cudnn: NVIDIA, bfloat16
  kv_cache: Literal["plain", "int8"] = "plain"  # int8 has a scale per token and head; whoever serves may choose

  def check_rules(self) -> None:
    whole(self.heads, self.kv_heads, "query heads per key head = heads / kv_heads")
    if self.tokens > self.vocab:
      raise ConfigError(f"model.tokens is {self.tokens}: expected at most model.vocab {self.vocab}")
    if self.pad >= self.token_ids:
      raise ConfigError(f"model.pad is {self.pad}: expected the id of a token, below {self.token_ids}")

  @property
  def token_ids(self) -> int:
    """How many token ids the model may write."""
    return self.tokens or self.vocab


@section
class FlowConfig(Section):
  """Flow matching: z_tau = (1 - tau) z0 + tau eps."""

  steps: int = field(4, ge=1)  # of the solver; a request may ask for fewer
  shift: float = field(2.0, gt=0)  # of the sampling schedule, towards noise
  guidance: float | None = field(None, ge=0)  # a scale compiles the unconditional branch in; a request may set its own
  train_shift: float = field(3.0, gt=0)  # towards noise: what the past implies is learned where little else is known
  train_mean: float = 0.0  # of the logit-normal law of tau
  train_std: float = field(1.0, gt=0)
  # Deviation of latents given the past, for the velocity heads (flow.py), where the records state none per channel.
  video_std: float = field(0.2, gt=0)
  audio_std: float = field(0.6, gt=0)


@section
class DataConfig(Section):
  """Where records come from. `path` holds a records folder made by `wanstreamer data make` (or `encode`), or several
  that are mixed by weights: "world-latents:3,calls-latents:1" (data/mixture.py)."""

  path: str = "data_cache/world"
  units: int = field(40, ge=1)  # length of a training crop
  heldout: str = ""  # records of held-out sessions, for what is watched during training
  world: Literal["small", "full"] = "small"  # vocabulary and cast of duplex_world
  session_units: int = field(125, ge=1)  # length of a stored session (20 s)
  min_session_units: int = field(12, ge=1)  # what is left at a recording's end is a session if it is as long
  batch: int = field(8, ge=1)  # sessions per step, over all devices
  # The sessions are divided into this many equal shares, and the rows of a batch among them, so that a host reads (and
  # fetches from an object store) the shares of its rows only. 1: every row may be any session.
  shares: int = field(1, ge=1)
  seed: int = field(0, ge=0)
  shuffle: bool = True
  voices: Literal["formant", "mixed"] = "formant"  # "mixed": half of the users speak with espeak-ng (extra `espeak`)
  by_speaker: bool = False  # speakers take turns, however many sessions each has
  own_portrait: bool = True  # a recording without a portrait gives a frame of its agent
  own_voice: bool = True  # and a stretch of its agent's voice, where the layout has a voice sample
  # How `data make` and `data encode` store pictures (data/video_pieces.py). Raw ones are 0.77 MB a unit at 192x336.
  user_video: Literal["raw", "h264"] = "raw"
  agent_video: Literal["raw", "h264"] = "raw"  # of media records; codecs are trained on what is left of them
  user_video_crf: int = field(20, ge=0, le=51)  # x264's quality: lower is better; 18 to 20 is 6 to 13 kB a unit there
  agent_video_crf: int = field(14, ge=0, le=51)
  video_piece: int = field(4, ge=1, le=64)  # units that are compressed together
  text_lead: int = field(1, ge=0)  # units between the writing and the sounding of a word
  # Recordings draw one of these each, and the agent is told which: by its records, and text_lead when it is served.
  text_leads: tuple[int, ...] | None = field(None, ge=0)
  tokenizer: str = "default"  # the shipped one, or the path of a tokenizer.json
  tokenizer_sha256: str = ""  # of that file; any other is refused. Empty: not checked; training fills it in

  def check_rules(self) -> None:
    if self.text_leads is not None and self.text_lead not in self.text_leads:
      raise ConfigError(
        f"data.text_lead is {self.text_lead}, which the agent is told when it is served, but data.text_leads is "
        f"{self.text_leads}: add it there"
      )


@section
class AugmentConfig(Section):
  """What training changes in the user's stream (data/augment.py), so that other microphones, rooms and cameras are
  nothing new. A number alone is the probability that a crop has the effect; pairs are what is drawn, from and to."""

  on: bool = True
  gain: float = field(0.8, ge=0, le=1)  # another level of the microphone
  gain_db: tuple[float, ...] = field((-24.0, 6.0), ge=-96, le=48)
  noise: float = field(0.4, ge=0, le=1)  # white or pink
  noise_snr_db: tuple[float, ...] = field((5.0, 40.0), ge=-20, le=96)  # speech above noise
  room: float = field(0.3, ge=0, le=1)
  room_seconds: tuple[float, ...] = field((0.1, 0.6), gt=0, le=5)  # until the sound has decayed by 60 dB
  codec: float = field(0.15, ge=0, le=1)  # a telephone, or no high frequencies
  codec_hz: tuple[float, ...] = field((3400.0, 8000.0), gt=0)  # what is above is lost
  loss: float = field(0.1, ge=0, le=1)  # packets of 20 ms, in bursts
  loss_share: tuple[float, ...] = field((0.01, 0.1), ge=0, le=1)
  light: float = field(0.3, ge=0, le=1)  # exposure, contrast, colour
  light_gain: tuple[float, ...] = field((0.6, 1.4), gt=0)
  blur: float = field(0.15, ge=0, le=1)
  blur_factor: tuple[float, ...] = field((1.5, 3.0), ge=1)  # as sharp as pictures that are this many times smaller
  frame_drop: float = field(0.15, ge=0, le=1)  # the frame before is shown again
  frame_drop_share: tuple[float, ...] = field((0.1, 0.6), ge=0, lt=1)

  def check_rules(self) -> None:
    for name, pair in self.fields().items():
      if isinstance(pair, tuple) and (len(pair) != 2 or pair[0] > pair[1]):
        raise ConfigError(f"augment.{name} is {pair}: expected two numbers, the lower one first")


@section
class TrainConfig(Section):
  """Optimisation, losses, logging. One loop reads this for every stage."""

  stage: Literal["duplex", "audio_codec", "video_codec"] = "duplex"
  steps: int = field(1000, ge=1)
  learning_rate: float = field(1e-3, ge=0)
  optimizer: Literal["adamw", "muon"] = "adamw"  # "muon" is for matrices of layers and perception, AdamW for the rest
  schedule: Literal["cosine", "wsd", "constant"] = "cosine"  # after the warm-up; "wsd" is stable, then decays
  warmup: int = field(50, ge=0)  # steps in which the rate rises linearly
  decay: float = field(0.2, ge=0, le=1)  # "wsd": share of the steps in the final decay
  final_lr_scale: float = field(0.05, ge=0)  # the rate at the end, relative to learning_rate
  weight_decay: float = field(0.01, ge=0)
  beta1: float = field(0.9, ge=0, lt=1)
  beta2: float = field(0.98, ge=0, lt=1)
  groups: str = ""  # rates relative to learning_rate, e.g. "language=0.1,perception=0" (train/optim.py); 0 is frozen
  accumulate: int = field(1, ge=1)  # parts of a batch that are computed one after the other, for one update
  clip: float = field(1.0, gt=0)  # the largest norm of a gradient
  spike: float = field(10.0, ge=0)  # skips updates with this many times the usual gradient norm; 0 skips none
  ema: float = field(0.99, ge=0, lt=1)  # moving average of parameters over about the last 1/(1-ema) updates; 0: none
  z_loss: float = field(0.0, ge=0)  # weight of log(Z)^2 of the text logits; PaLM (arXiv 2204.02311) has 1e-4
  text_weight: float = field(1.0, ge=0)
  pad_weight: float = field(1.0, ge=0)
  audio_weight: float = field(1.0, ge=0)
  video_weight: float = field(1.0, ge=0)
  history_noise: float = field(0.3, ge=0)  # committed latents get noise U(0, this) of their own deviation, and say so
  history_drop: float = field(0.15, ge=0, le=1)  # probability that a unit's committed audio is dropped
  condition_drop: float = field(0.05, ge=0, le=1)  # probability that a crop is shown nothing of its user and its world
  stream_drop: float = field(0.1, ge=0, le=1)  # the same of the user's audio, video and the portrait, each by itself
  noisy_units: int = field(0, ge=0)  # units of a crop that have a noisy copy, evenly spread at random; 0 is all
  # Half of the crops start anywhere in the first hour. False: sessions that fit the window never evict anything in
  # training, and splash attention needs half as wide queries and keys.
  shift_clock: bool = True
  kl_weight: float = field(1e-4, ge=0)  # codecs: per latent number
  latent_noise: float = field(0.1, ge=0)  # codecs: decoded latents get noise of U(0, this) of their own deviation
  stft_weight: float = field(1.0, ge=0)  # audio codec: multi-resolution STFT
  mel_weight: float = field(1.0, ge=0)  # audio codec: log-mel distance
  pitch_weight: float = field(1.0, ge=0)  # audio codec: octaves of pitch, on voiced frames
  adversarial_weight: float = field(0.0, ge=0)  # audio codec: deceiving discriminators (train/critic.py); 0: none
  feature_weight: float = field(2.0, ge=0)  # audio codec: distance of the discriminators' activations, beside it
  critic_channels: int = field(16, ge=1)
  critic_windows: tuple[int, ...] = field((512, 1024, 2048), ge=64, multiple_of=64)  # samples, of spectra
  critic_periods: tuple[int, ...] = field((2, 3, 5, 7, 11), ge=1)  # samples, of the folded waveform
  edge_weight: float = field(1.0, ge=0)  # video codec: differences in space and time
  motion_weight: float = field(10.0, ge=0)  # video codec: extra weight of a pixel per unit that it changes in the clip
  mesh: str = ""  # e.g. "data=2,fsdp=4"; empty is all devices on `data`
  seed: int = field(0, ge=0)
  log_every: int = field(10, ge=0)
  eval_every: int = field(200, ge=0)
  checkpoint_every: int = field(200, ge=0)
  keep: int = field(2, ge=1)  # the last N checkpoints are kept
  keep_every: int = field(0, ge=0)  # a checkpoint every N steps is kept for good; 0: none
  run: str = "runs/default"
  init: str = ""  # a checkpoint to start from (weights only); "demo": the shipped ones
  language_model: str = ""  # a folder of Qwen2, Qwen2.5 or Qwen3 to start from; `config from-hf` writes its geometry
  hearing: str = ""  # a folder with the pretrained encoder that `perception.audio` names, to start from
  seeing: str = ""  # and with the one that `perception.video` names
  codecs: str = ""  # "AUDIO_RUN,VIDEO_RUN" or an exported agent: the codecs for the rollouts watched in stage "duplex"

  def check_rules(self) -> None:
    group_rates(self.groups)
    if self.init and self.language_model:
      raise ConfigError(
        f"train.init is {self.init!r} and train.language_model {self.language_model!r}: weights come from one of them; "
        "leave the other empty"
      )
    if self.init and (self.hearing or self.seeing):
      raise ConfigError(
        f"train.init is {self.init!r}, which has ears and eyes of its own: leave train.hearing and train.seeing empty"
      )


@section
class EvalConfig(Section):
  """Closed-loop evaluation against the reacting user simulator."""

  sessions: int = field(100, ge=1)
  seconds: float = field(20.0, gt=0)
  batch: int = field(10, ge=1)
  baseline_sessions: int = field(30, ge=1)  # for baselines, ground truth, teacher-forced errors and codecs
  seed: int = field(1_000_000, ge=0)


@section
class Config(Section):
  """One experiment, whole. See `configs/base.py`."""

  name: str = "demo"
  media: MediaConfig = dataclasses.field(default_factory=MediaConfig)
  layout: LayoutConfig = dataclasses.field(default_factory=LayoutConfig)
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  perception: PerceptionConfig = dataclasses.field(default_factory=PerceptionConfig)
  audio_codec: AudioCodecConfig = dataclasses.field(default_factory=AudioCodecConfig)
  video_codec: VideoCodecConfig = dataclasses.field(default_factory=VideoCodecConfig)
  flow: FlowConfig = dataclasses.field(default_factory=FlowConfig)
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

  @property
  def audio_latents(self) -> int:
    """Agent audio latents per unit."""
    samples, hop = self.media.samples, self.audio_codec.hop
    what = f"audio latents per unit = samples per unit / audio_codec hop, here {samples / max(hop, 1):.4g}"
    return whole(samples, hop, what)

  @property
  def latent_height(self) -> int:
    return whole(self.media.height, self.video_codec.space_stride, "video latent rows = height / VAE space stride")

  @property
  def latent_width(self) -> int:
    return whole(self.media.width, self.video_codec.space_stride, "video latent columns = width / VAE space stride")

  @property
  def video_groups(self) -> int:
    """Video latent frames per unit; one, unless the unit is a multiple of the codec's group."""
    return whole(
      self.media.frames,
      self.video_codec.time_stride,
      "video latent frames per unit = frames per unit / VAE time stride",
    )

  @property
  def noisy_grid(self) -> tuple[int, int]:
    """Rows and columns of noisy video tokens."""
    patch = self.layout.patch
    return (
      whole(self.latent_height, patch, "noisy video rows = video latent rows / layout.patch"),
      whole(self.latent_width, patch, "noisy video columns = video latent columns / layout.patch"),
    )

  @property
  def commit_grid(self) -> tuple[int, int]:
    """Rows and columns of committed video tokens; an odd grid is padded to a whole number of coarse patches."""
    rows, columns = self.noisy_grid
    side = self.layout.commit_patch
    return -(-rows // side), -(-columns // side)

  @property
  def noisy_side(self) -> int:
    """Pixels along a noisy video token."""
    return self.video_codec.space_stride * self.layout.patch

  @property
  def siglip2_grid(self) -> tuple[int, int]:
    """Rows and columns of patches that a picture is resized to: as many as allowed, in the picture's aspect, which may
    gain a part of a patch at the end of a row or a column (as in SigLIP 2's NaFlex)."""
    height, width, most = self.media.height, self.media.width, self.perception.siglip2.patches
    grids = [(n, -(-n * width // height)) for n in range(1, most + 1)]
    grids += [(-(-n * height // width), n) for n in range(1, most + 1)]
    fitting = [grid for grid in grids if math.prod(grid) <= most]
    return max(fitting, key=math.prod, default=(1, 1))

  @property
  def pictures_per_unit(self) -> int:
    """Frames of a unit that siglip2 looks at."""
    every, frames = self.perception.video_every, self.media.frames
    what = f"frames seen in a unit = frames per unit {frames} / perception.video_every {every}"
    return 1 if every is None else whole(frames, every, what)

  @property
  def features_per_audio_token(self) -> int:
    """Features of Moonshine, 20 ms each, that become one token."""
    features = whole(self.media.unit_ms, 20, "features per unit = unit_ms / 20")
    return whole(features, self.perception.audio_tokens, "features per audio token = features per unit / audio_tokens")

  @property
  def user_video_sides(self) -> tuple[float, float]:
    """Pixels along the rows and the columns of a user video token."""
    perception, media = self.perception, self.media
    if perception.video == "native":
      return (perception.video_patch * perception.video_merge,) * 2
    rows, columns = self.siglip2_grid
    return perception.video_merge * media.height / rows, perception.video_merge * media.width / columns

  @property
  def user_video_grid(self) -> tuple[int, int]:
    """Rows and columns of user video tokens; borders are padded to whole tokens."""
    perception, media = self.perception, self.media
    side, (rows, columns) = perception.video_merge, self.siglip2_grid
    if perception.video == "native":
      side, rows, columns = side * perception.video_patch, media.height, media.width
    return -(-rows // side), -(-columns // side)

  def check_rules(self) -> None:
    self._check_unit()
    self._check_hearing()
    self._check_codecs()
    whole(self.data.batch, self.train.accumulate, "sessions at a time = data.batch / train.accumulate")
    whole(self.data.batch, self.data.shares, "rows of a share = data.batch / data.shares")

  def _check_unit(self) -> None:
    """A unit holds one group of the video codec, and whole numbers of audio latents and noisy video tokens."""
    if self.video_groups != 1:
      raise ConfigError(
        f"a unit must hold one group of the video codec: {self.media.frames} frames per unit, "
        f"time_stride {self.video_codec.time_stride}; set media.unit_ms or the codec's time stride"
      )
    _ = self.audio_latents, self.noisy_grid

  def _check_hearing(self) -> None:
    """A unit holds whole mel frames (or features), an audio token whole ones of these."""
    perception = self.perception
    _ = self.pictures_per_unit
    if perception.audio == "moonshine":
      self._check_moonshine()
    if perception.audio == "pocket":
      self._check_pocket_hearing()
    if perception.audio != "native":
      return
    hops = whole(self.media.samples, perception.mel_hop, "mel frames per unit = samples per unit / mel_hop")
    whole(hops, perception.audio_tokens, "mel frames per audio token = mel frames per unit / audio_tokens")
    if perception.mel_window > self.media.sample_rate:
      raise ConfigError(f"perception.mel_window is {perception.mel_window} samples: more than a second")

  def _check_moonshine(self) -> None:
    _ = self.features_per_audio_token, self.perception.moonshine.size_of_head
    if self.media.sample_rate not in (16_000, 24_000, 48_000):
      raise ConfigError(
        f"perception.audio is moonshine, which hears 16 kHz: media.sample_rate is {self.media.sample_rate}, expected "
        "16000, 24000 or 48000"
      )

  def _check_pocket_hearing(self) -> None:
    pocket, tokens = self.audio_codec.pocket, self.perception.audio_tokens
    if self.media.sample_rate != pocket.sample_rate:
      raise ConfigError(
        f"perception.audio is pocket, which hears {pocket.sample_rate} Hz: media.sample_rate is "
        f"{self.media.sample_rate}"
      )
    latents = whole(
      self.media.samples, pocket.hop, "latents heard per unit = samples per unit / audio_codec.pocket hop"
    )
    whole(latents, tokens, "latents per audio token = latents heard per unit / perception.audio_tokens")

  def _check_codecs(self) -> None:
    """The audio codec has the sample rate of the media; clips of the video codec fill its decoder's memory."""
    rate, memory = self.media.sample_rate, self.video_codec.memory
    codec = self.audio_codec
    if codec.kind == "source_filter" and codec.sample_rate != rate:
      raise ConfigError(
        f"audio_codec.source_filter.strides[0] is {codec.source_filter.strides[0]}: expected 10 ms of samples, "
        f"{rate // 100} at media.sample_rate {rate}"
      )
    if codec.sample_rate != rate:
      raise ConfigError(
        f"audio_codec.kind {codec.kind} has {codec.sample_rate} samples a second, but media.sample_rate is {rate}"
      )
    for stage, kind, imported in (
      ("audio_codec", codec.kind, codec.kind == "pocket"),
      ("video_codec", self.video_codec.kind, self.video_codec.kind != "native"),
    ):
      if self.train.stage == stage and imported:
        raise ConfigError(
          f"train.stage is {stage}, but {stage}.kind {kind} is imported, not trained: see wanstreamer codec import"
        )
    if self.train.stage == "video_codec" and 1 + self.data.units < memory:
      raise ConfigError(
        f"data.units is {self.data.units}, but the video codec's decoder remembers {memory} latents: clips of "
        f"1 + {self.data.units} never fill that memory; set data.units to at least {memory - 1}"
      )


def group_rates(groups: str) -> list[tuple[str, float]]:
  """[("language", 0.1), ...] of `train.groups`. Raises ConfigError."""
  entries = []
  for entry in filter(None, (piece.strip() for piece in groups.split(","))):
    name, _, text = (piece.strip() for piece in entry.partition("="))
    try:
      re.compile(name)
      rate = float(text)
    except (ValueError, re.error):
      rate = -1.0
    if not name or not 0 <= rate < math.inf:
      raise ConfigError(f"train.groups: {entry!r} is not NAME=RATE with a rate of at least 0, as in language=0.1")
    entries.append((name, rate))
  return entries
