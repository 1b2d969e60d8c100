"""Typed configuration: the only place where sizes, rates and choices are set.

A config file (`configs/*.py`) returns a `Config` from `get_config()`. Fields may be changed (by a later config file or
by `--config.section.field=value`) until `freeze()` validates the whole and locks it. A frozen config is hashable and
is passed to jitted functions as a static argument. Everything that follows from other fields is a property here,
never a second field.
"""

import dataclasses
import difflib
import math
import re
from typing import Any, Self, TypeVar, dataclass_transform

from wanstreamer_jax.errors import ConfigError

PAD = 0  # the token that ends a unit's text and fills its slots; `record_folder` and `engine` refuse other tokenizers
LONGEST_WORLD_TEXT = 2048  # tokens; their rotary ids, 4 a token, are below 0, where the tables end at -8 192
POSITIONS_PER_UNIT = 4  # the rotary grid: a unit is 4 steps (40 ms each at 160 ms), and the rotary step is 1/4


class Section:
  """Base of every config dataclass: unknown fields fail with the nearest name, frozen ones refuse to change."""

  def __setattr__(self, name: str, value: Any) -> None:
    if getattr(self, "_frozen", False):
      raise ConfigError(f"config is frozen: cannot set {type(self).__name__}.{name} = {value!r}; use replace()")
    names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
    if name not in names:
      raise ConfigError(unknown_name(name, names, f"field of {type(self).__name__}"))
    object.__setattr__(self, name, value)

  def freeze(self) -> Self:
    """Locks this section and those below it. Returns itself."""
    for field in dataclasses.fields(self):  # type: ignore[arg-type]
      value = getattr(self, field.name)
      if isinstance(value, Section):
        value.freeze()
      elif isinstance(value, list):
        object.__setattr__(self, field.name, tuple(value))
    object.__setattr__(self, "_frozen", True)
    return self

  def replace(self, **changes: Any) -> Self:
    """A changed, unfrozen copy; sections that are not named are copied too."""
    values = {}
    for field in dataclasses.fields(self):  # type: ignore[arg-type]
      value = getattr(self, field.name)
      values[field.name] = value.replace() if isinstance(value, Section) else value
    for name, value in changes.items():
      if name not in values:
        raise ConfigError(unknown_name(name, list(values), f"field of {type(self).__name__}"))
      values[name] = value
    return type(self)(**values)


AnySection = TypeVar("AnySection", bound=Section)


@dataclass_transform(kw_only_default=True)
def section(cls: type[AnySection]) -> type[AnySection]:
  """Class decorator: a mutable-until-frozen dataclass with structural hash and equality."""
  return dataclasses.dataclass(unsafe_hash=True, kw_only=True)(cls)


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

  unit_ms: int = 160
  fps: int = 25
  sample_rate: int = 24_000
  height: int = 64
  width: int = 64

  @property
  def frames(self) -> int:
    """Video frames per unit (4 at 160 ms and 25 fps)."""
    return whole(self.unit_ms * self.fps, 1000, f"frames per unit = unit_ms {self.unit_ms} x fps {self.fps} / 1000")

  @property
  def samples(self) -> int:
    """Audio samples per unit (3 840 at 160 ms and 24 kHz)."""
    return whole(
      self.unit_ms * self.sample_rate, 1000,
      f"samples per unit = unit_ms {self.unit_ms} x sample_rate {self.sample_rate} / 1000",
    )  # fmt: skip


@section
class AudioVAEConfig(Section):
  """Causal audio VAE: `prod(strides)` samples become one latent frame of `latent_dim` numbers."""

  strides: tuple[int, ...] = (240, 2, 4)  # encoder order: 10 ms frames of spectra, then convolutions; 12.5 Hz at 24 kHz
  channels: int = 64  # at the frame rate; doubled at every further stride
  max_channels: int = 128
  latent_dim: int = 32
  kernel: int = 3  # of residual blocks
  residual_blocks: int = 1  # per stage
  cepstrum: int = 64  # coefficients of each of the decoder's two filters
  attention_layers: int = 0  # optional causal attention at the latent rate
  attention_heads: int = 4
  attention_window: int = 64  # latent frames, including the current one

  @property
  def sample_rate(self) -> int:
    """What its first stride, 10 ms, implies."""
    return 100 * self.strides[0]

  @property
  def hop(self) -> int:
    """Samples per latent frame."""
    hop = 1
    for stride in self.strides:
      hop *= stride
    return hop


@section
class VideoVAEConfig(Section):
  """Causal 3-D video VAE, 8x8 in space and 4x in time: the first frame alone, then groups of 4 frames."""

  channels: tuple[int, ...] = (16, 32, 64)  # at 1/2, 1/4 and 1/8 resolution
  residual_blocks: int = 1  # of the encoder, at 1/4 and at 1/8
  decoder_blocks: tuple[int, ...] = (2, 1, 1)  # of the decoder, at 1/8, 1/4 and 1/2
  time_kernel: int = 2  # latent frames that a convolution at 1/8 sees
  latent_dim: int = 8
  time_stride: int = 4

  @property
  def space_stride(self) -> int:
    """Pixels per latent, along rows and columns."""
    return 2 ** len(self.channels)

  @property
  def memory(self) -> int:
    """Latents, itself included, on which a decoded group depends; training clips must be as long."""
    return 1 + (self.time_kernel - 1) * (1 + self.decoder_blocks[0])

  def check_channels(self) -> None:
    """Raises ConfigError unless there are three resolutions whose shortcuts can merge and repeat whole channels."""
    if len(self.channels) != 3:
      raise ConfigError(f"video_vae.channels has {len(self.channels)} entries: expected 3 (at 1/2, 1/4 and 1/8)")
    half, quarter, eighth = self.channels
    if 4 * half % quarter or 4 * self.time_stride * quarter % eighth:
      raise ConfigError(
        f"video_vae.channels {self.channels}: the second must divide 4 x the first, "
        f"and the third {4 * self.time_stride} x the second"
      )


@section
class PerceptionConfig(Section):
  """Encoders of what the user shows and says, trained with the Transformer."""

  mel_bins: int = 64
  mel_hop: int = 240  # samples, 10 ms
  mel_window: int = 512  # samples, all of them in the past of the frame's end
  audio_tokens: int = 4  # per unit
  audio_channels: int = 128
  audio_layers: int = 1  # causal attention layers
  audio_window: int = 8  # units that the audio encoder's attention sees, including the current one
  video_patch: int = 16  # pixels
  video_merge: int = 2  # neighbouring patches merged (per side) into one token of the unit
  video_channels: int = 128


@section
class LayoutConfig(Section):
  """Who is in a unit, in which order, and who sees whom (`units.py` turns this into blocks and coordinates)."""

  commit_delay: int = 1  # d: COMMIT_k holds the agent's latents of unit k - d
  refeed: bool = False  # also show the previous unit's latents at the noisy patch size
  commit_patch: int = 2  # the committed copy's patch side, in noisy patches
  patch: int = 2  # the noisy copy's patch side, in video latents
  text_slots: int = 3  # n, agent text tokens per unit
  user_text_slots: int = 4
  window: int | None = 62  # units of history including the current one; None is full history
  sinks: int = 0  # first units of a session that stay pinned
  world_text: int = 32  # capacity, in tokens, of the pinned persona/world text
  portrait: bool = True  # pinned first-frame latent of the agent's face
  voice_units: int = 0  # pinned voice sample, in units
  user_video: bool = True
  committed_history: bool = True  # False: an ablation, the agent does not see its own past latents
  split_modalities: bool = False  # True: user audio and user video (and the agent's) are separate blocks
  token_causal_hear: bool = False  # True: every HEAR token is its own block
  rope: str = "grid"  # "grid" (t, h, w on the 40 ms grid) or "ordinal" (all axes count tokens)

  @property
  def needs_refeed(self) -> bool:
    """d = 2 hides y_{k-1} from the performer of unit k, since COMMIT_k holds y_{k-2}: REFEED is implied."""
    return self.committed_history and (self.refeed or self.commit_delay == 2)


@section
class ModelConfig(Section):
  """Decoder-only Transformer of Qwen geometry."""

  width: int = 256
  layers: int = 6
  heads: int = 4
  kv_heads: int = 2
  head_dim: int = 64
  mlp: int = 704
  vocab: int = 1024
  qk_norm: bool = True
  qkv_bias: bool = False
  tied_embedding: bool = True
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6
  modulation: str = "shared"  # flow time enters by one shared projection plus a per-layer bias, or "layer"
  experts: str = "shared"  # or "latent": agent-latent tokens have their own MLPs
  remat: str = "none"  # "none", "full" or "dots"
  dtype: str = "float32"  # of activations; parameters are float32
  attention: str = "xla"  # of the training pass; or "splash" (TPU), or "cudnn" (NVIDIA GPU, bfloat16)
  kv_cache: str = "plain"  # as activations; or "int8", with a scale per token and head: a choice of who serves


@section
class FlowConfig(Section):
  """Flow matching: z_tau = (1 - tau) z0 + tau eps."""

  steps: int = 4  # of the solver; a request may ask for fewer
  shift: float = 2.0  # of the sampling schedule, towards noise
  guidance: float | None = None  # a scale compiles the unconditional branch in; a request may choose its own
  train_shift: float = 3.0  # what the past implies is learned where there is little else to go by
  train_mean: float = 0.0  # of the logit-normal law of tau
  train_std: float = 1.0
  video_std: float = 0.2  # deviation of latents once the past is known, for the velocity heads (flow.py)
  audio_std: float = 0.6


@section
class DataConfig(Section):
  """Where records come from. `path` holds a records folder made by `wanstreamer data make` (or `encode`), or several
  that are mixed by weights: "world-latents:3,calls-latents:1" (data/mixture.py)."""

  path: str = "data_cache/world"
  units: int = 40  # length of a training crop
  heldout: str = ""  # records of held-out sessions, for what is watched during training
  world: str = "small"  # vocabulary and cast of duplex_world: "small" or "full"
  session_units: int = 125  # length of a stored session (20 s)
  batch: int = 8  # sessions per step, over all devices
  seed: int = 0
  shuffle: bool = True
  voices: str = "formant"  # or "mixed": half of the users speak with espeak-ng (extra `espeak`)
  text_lead: int = 1  # units between the writing and the sounding of a word
  tokenizer: str = "default"  # the shipped one, or the path of a tokenizer.json


@section
class TrainConfig(Section):
  """Optimisation, losses, logging. One loop reads this for every stage."""

  stage: str = "duplex"  # or "audio_vae", "video_vae"
  steps: int = 1000
  learning_rate: float = 1e-3
  optimizer: str = "adamw"  # or "muon": orthogonal updates for the matrices of layers and perception, Adam for the rest
  schedule: str = "cosine"  # after a linear warm-up: "cosine", "wsd" (warm-up, stable, decay) or "constant"
  warmup: int = 50
  decay: float = 0.2  # "wsd": share of the steps in the final decay
  final_lr_scale: float = 0.05
  weight_decay: float = 0.01
  beta1: float = 0.9
  beta2: float = 0.98
  groups: str = ""  # rates relative to learning_rate, e.g. "language=0.1,perception=0" (train/optim.py); 0 is frozen
  accumulate: int = 1  # parts of a batch that are computed one after the other, for one update
  clip: float = 1.0
  spike: float = 10.0  # skips updates with so many times the usual gradient norm (train/state.py); 0: none
  ema: float = 0.99  # moving average of parameters, all updates alike at first, then of the last 1/(1-ema); 0: none
  z_loss: float = 0.0  # weight of log(Z)^2 of the text logits, which keeps them small; PaLM (arXiv 2204.02311): 1e-4
  text_weight: float = 1.0
  pad_weight: float = 1.0
  audio_weight: float = 1.0
  video_weight: float = 1.0
  history_noise: float = 0.3  # committed latents get noise U(0, this) of their own deviation, and say so
  history_drop: float = 0.15  # probability that a unit's committed audio is dropped
  condition_drop: float = 0.05  # probability that a crop is shown nothing of its user and its world
  stream_drop: float = 0.1  # probability that it is not shown the user's audio, video, or the portrait; each by itself
  noisy_units: int = 0  # units of a crop that have a noisy copy, evenly spread at random; 0 is all
  shift_clock: bool = True  # half of the crops start anywhere in the first hour; if not, sessions that fit the window
  # never evict anything in training, and splash attention needs half as wide queries and keys
  kl_weight: float = 1e-4  # codecs: per latent number
  latent_noise: float = 0.1  # codecs: decoded latents get noise of U(0, this) of their own deviation
  stft_weight: float = 1.0  # audio codec: multi-resolution STFT
  mel_weight: float = 1.0  # audio codec: log-mel distance
  pitch_weight: float = 1.0  # audio codec: octaves of pitch, on voiced frames
  edge_weight: float = 1.0  # video codec: differences in space and time
  motion_weight: float = 10.0  # video codec: extra weight of a pixel per unit that it changes in the clip
  mesh: str = ""  # e.g. "data=2,fsdp=4"; empty is all devices on `data`
  seed: int = 0
  log_every: int = 10
  eval_every: int = 200
  checkpoint_every: int = 200
  keep: int = 2  # the last so many checkpoints stay
  keep_every: int = 0  # and for good those of every so many steps; 0: none
  run: str = "runs/default"
  init: str = ""  # a checkpoint to start from (weights only); "demo": the shipped ones
  codecs: str = ""  # "AUDIO_RUN,VIDEO_RUN" or an exported agent: the codecs for the rollouts watched in stage "duplex"


@section
class EvalConfig(Section):
  """Closed-loop evaluation against the reacting user simulator."""

  sessions: int = 100
  seconds: float = 20.0
  batch: int = 10
  baseline_sessions: int = 30  # for baselines, ground truth, teacher-forced errors and codecs
  seed: int = 1_000_000


@section
class Config(Section):
  """One experiment, whole. See `configs/base.py`."""

  name: str = "demo"
  media: MediaConfig = dataclasses.field(default_factory=MediaConfig)
  layout: LayoutConfig = dataclasses.field(default_factory=LayoutConfig)
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  perception: PerceptionConfig = dataclasses.field(default_factory=PerceptionConfig)
  audio_vae: AudioVAEConfig = dataclasses.field(default_factory=AudioVAEConfig)
  video_vae: VideoVAEConfig = dataclasses.field(default_factory=VideoVAEConfig)
  flow: FlowConfig = dataclasses.field(default_factory=FlowConfig)
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

  @property
  def audio_latents(self) -> int:
    """Agent audio latents per unit."""
    return whole(self.media.samples, self.audio_vae.hop, "audio latents per unit = samples per unit / audio VAE hop")

  @property
  def latent_height(self) -> int:
    return whole(self.media.height, self.video_vae.space_stride, "video latent rows = height / VAE space stride")

  @property
  def latent_width(self) -> int:
    return whole(self.media.width, self.video_vae.space_stride, "video latent columns = width / VAE space stride")

  @property
  def video_groups(self) -> int:
    """Video latent frames per unit; one, unless the unit is a multiple of the codec's group."""
    return whole(
      self.media.frames, self.video_vae.time_stride, "video latent frames per unit = frames per unit / VAE time stride"
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
    return self.video_vae.space_stride * self.layout.patch

  @property
  def user_video_side(self) -> int:
    """Pixels along a user video token."""
    return self.perception.video_patch * self.perception.video_merge

  @property
  def user_video_grid(self) -> tuple[int, int]:
    """Rows and columns of user video tokens; borders are padded to whole tokens."""
    side = self.user_video_side
    return -(-self.media.height // side), -(-self.media.width // side)

  def freeze(self) -> Self:
    """Validates the whole and locks it. Raises ConfigError with the numbers that do not fit."""
    validate(self)
    return super().freeze()


LEAST = (  # section, the least that these fields may be (each item of a tuple; None always may)
  ("media", 1, "unit_ms fps sample_rate height width"),
  ("layout", 0, "user_text_slots sinks world_text voice_units"),
  ("layout", 1, "commit_patch patch text_slots window"),
  ("model", 1, "width layers heads kv_heads head_dim mlp vocab rope_theta"),
  ("perception", 0, "audio_layers"),
  ("perception", 1, "mel_bins mel_hop mel_window audio_tokens audio_channels audio_window"),
  ("perception", 1, "video_patch video_merge video_channels"),
  ("audio_vae", 0, "residual_blocks attention_layers"),
  ("audio_vae", 1, "strides channels max_channels latent_dim kernel cepstrum attention_heads attention_window"),
  ("video_vae", 0, "residual_blocks"),
  ("video_vae", 1, "channels decoder_blocks time_kernel latent_dim time_stride"),
  ("flow", 0, "guidance"),
  ("flow", 1, "steps"),
  ("data", 0, "seed text_lead"),
  ("data", 1, "units session_units batch"),
  ("train", 0, "noisy_units warmup log_every eval_every checkpoint_every learning_rate weight_decay ema seed"),
  ("train", 0, "spike z_loss keep_every"),
  ("train", 1, "steps keep accumulate"),
  ("eval", 0, "seed"),
  ("eval", 1, "sessions batch baseline_sessions"),
)
ABOVE_ZERO = (
  "model.norm_eps", "flow.shift", "flow.train_shift", "flow.train_std", "flow.video_std", "flow.audio_std",
  "train.clip", "eval.seconds",
)  # fmt: skip
LARGEST = 2**31 - 1  # of any whole number


def check_numbers(config: Config) -> None:
  """Raises ConfigError for the first number that is not finite, or out of the range of its field."""
  least = {f"{section}.{field}": low for section, low, fields in LEAST for field in fields.split()}
  for section_field in dataclasses.fields(config):
    section = getattr(config, section_field.name)
    if not isinstance(section, Section):
      continue
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
      name, value = f"{section_field.name}.{field.name}", getattr(section, field.name)
      if isinstance(value, tuple) and not value:
        raise ConfigError(f"{name} is empty: expected at least one number")
      for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
          continue
        if not math.isfinite(number) or abs(number) > LARGEST:
          raise ConfigError(f"{name} is {value}: expected a finite number up to {LARGEST}")
        if number < least.get(name, -math.inf):
          raise ConfigError(f"{name} is {value}: expected at least {least[name]}")
        if name in ABOVE_ZERO and number <= 0:
          raise ConfigError(f"{name} is {value}: expected a number above 0")


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


def validate(config: Config) -> None:
  """Checks what follows from several fields at once; see `Config.freeze`."""
  check_numbers(config)
  layout, model, perception = config.layout, config.model, config.perception
  groups = config.video_groups
  if groups != 1:
    raise ConfigError(
      f"a unit must hold one group of the video codec: {config.media.frames} frames per unit, "
      f"time_stride {config.video_vae.time_stride}; set media.unit_ms or video_vae.time_stride"
    )
  _ = config.audio_latents, config.noisy_grid
  hops = whole(config.media.samples, perception.mel_hop, "mel frames per unit = samples per unit / mel_hop")
  whole(hops, perception.audio_tokens, "mel frames per audio token = mel frames per unit / audio_tokens")
  config.video_vae.check_channels()
  if config.train.stage == "video_vae" and 1 + config.data.units < config.video_vae.memory:
    raise ConfigError(
      f"data.units is {config.data.units}, but the video codec's decoder remembers {config.video_vae.memory} latents: "
      f"clips of 1 + {config.data.units} never train it as it is used; set data.units to at least "
      f"{config.video_vae.memory - 1}"
    )
  if config.audio_vae.sample_rate != config.media.sample_rate:
    raise ConfigError(
      f"audio_vae.strides[0] is {config.audio_vae.strides[0]}: expected 10 ms of samples, "
      f"{config.media.sample_rate // 100} at media.sample_rate {config.media.sample_rate}"
    )
  whole(config.data.batch, config.train.accumulate, "sessions at a time = data.batch / train.accumulate")
  group_rates(config.train.groups)
  whole(model.heads, model.kv_heads, "query heads per key head = heads / kv_heads")
  if layout.commit_delay not in (1, 2):
    raise ConfigError(f"layout.commit_delay is {layout.commit_delay}: expected 1 (the paper) or 2")
  if layout.world_text > LONGEST_WORLD_TEXT:
    raise ConfigError(f"layout.world_text is {layout.world_text} tokens: expected at most {LONGEST_WORLD_TEXT}")
  if layout.refeed and not layout.committed_history:
    raise ConfigError("layout.refeed shows the agent its past, but layout.committed_history is False")
  if model.head_dim % 2:
    raise ConfigError(f"model.head_dim is {model.head_dim}: rotary embedding needs an even number")
  if perception.mel_window < perception.mel_hop:
    raise ConfigError(
      f"perception.mel_window is {perception.mel_window} samples: less than mel_hop {perception.mel_hop}"
    )
  if perception.mel_window > config.media.sample_rate:
    raise ConfigError(f"perception.mel_window is {perception.mel_window} samples: more than a second")
  if len(config.video_vae.decoder_blocks) != 3:
    raise ConfigError(f"video_vae.decoder_blocks {config.video_vae.decoder_blocks}: expected 3 (at 1/8, 1/4 and 1/2)")
  whole(perception.video_patch, 4, "pixels of a user video patch in its first layer = perception.video_patch / 4")
  for name, choice, choices in (
    ("layout.rope", layout.rope, ("grid", "ordinal")),
    ("model.modulation", model.modulation, ("shared", "layer")),
    ("model.experts", model.experts, ("shared", "latent")),
    ("model.remat", model.remat, ("none", "full", "dots")),
    ("model.dtype", model.dtype, ("float32", "bfloat16")),
    ("model.attention", model.attention, ("xla", "splash", "cudnn")),
    ("model.kv_cache", model.kv_cache, ("plain", "int8")),
    ("data.voices", config.data.voices, ("formant", "mixed")),
    ("train.stage", config.train.stage, ("duplex", "audio_vae", "video_vae")),
    ("train.optimizer", config.train.optimizer, ("adamw", "muon")),
    ("train.schedule", config.train.schedule, ("cosine", "wsd", "constant")),
  ):
    if choice not in choices:
      raise ConfigError(f"{name} is {choice!r}: expected one of {', '.join(choices)}")
