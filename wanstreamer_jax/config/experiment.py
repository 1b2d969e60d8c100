"""`Config`, one experiment whole, and the rules between its sections."""

import dataclasses
import math

from wanstreamer_jax.config.codecs import AudioCodecConfig, VideoCodecConfig
from wanstreamer_jax.config.model import FlowConfig, LayoutConfig, ModelConfig
from wanstreamer_jax.config.perception import PerceptionConfig
from wanstreamer_jax.config.section import Section, field, section, whole
from wanstreamer_jax.config.training import AugmentConfig, DataConfig, EvalConfig, ReadoutsConfig, TrainConfig
from wanstreamer_jax.errors import ConfigError

SHORTEST_PHASE = 360  # samples of one phase of a period that a discriminator of sound needs for a score


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
  readouts: ReadoutsConfig = dataclasses.field(default_factory=ReadoutsConfig)
  eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

  @property
  def audio_latents(self) -> int:
    """Agent audio latents per unit."""
    samples, hop = self.media.samples, self.audio_codec.hop
    what = f"audio latents per unit = samples per unit / audio_codec hop, here {samples / max(hop, 1):.4g}"
    return whole(samples, hop, what)

  @property
  def latent_height(self) -> int:
    return whole(
      self.media.height, self.video_codec.space_stride, "video latent rows = height / the codec's space stride"
    )

  @property
  def latent_width(self) -> int:
    return whole(
      self.media.width, self.video_codec.space_stride, "video latent columns = width / the codec's space stride"
    )

  @property
  def video_groups(self) -> int:
    """Video latent frames per unit; one, unless the unit is a multiple of the codec's group."""
    return whole(
      self.media.frames,
      self.video_codec.time_stride,
      "video latent frames per unit = frames per unit / the codec's time stride",
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
    if self.flow.carry and not self.layout.committed_history:
      raise ConfigError(
        "flow.carry shows the agent its past, but layout.committed_history is False: set flow.carry=False"
      )
    if self.flow.anchor and not self.layout.portrait:
      raise ConfigError(
        "flow.anchor shows the portrait beside a unit's picture, but layout.portrait is False: set flow.anchor=False"
      )
    if self.train.history_drift and not self.flow.anchor:
      raise ConfigError(
        f"train.history_drift is {self.train.history_drift}, but without flow.anchor nothing tells which colours are "
        "right: set it to 0, or flow.anchor=True"
      )
    if self.train.first_steps and not (self.readouts.of("seen") or self.readouts.of("heard")):
      raise ConfigError(
        f"train.readout_warmup is {self.train.readout_warmup}, but nothing trains perception: give readouts.seen or "
        "readouts.heard a weight, or set train.readout_warmup to 0"
      )

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
    if self.train.stage == "audio_codec" and self.train.adversarial_weight:
      self._check_critic()
    if self.train.stage == "video_codec" and 1 + self.data.units < memory:
      raise ConfigError(
        f"data.units is {self.data.units}, but the video codec's decoder remembers {memory} latents: clips of "
        f"1 + {self.data.units} never fill that memory; set data.units to at least {memory - 1}"
      )

  def _check_critic(self) -> None:
    """Clips of sound are long enough for every discriminator (train/critic.py) to give a score."""
    samples = self.data.units * self.media.samples - self.audio_codec.delay
    needed = max(*self.train.critic_windows, *(SHORTEST_PHASE * period for period in self.train.critic_periods))
    if samples < needed:
      raise ConfigError(
        f"data.units is {self.data.units}: clips of {samples} samples are shorter than the {needed} that "
        "train.critic_windows and train.critic_periods need; set data.units higher"
      )
