"""Stage 0: trains the audio and the video codec on clips of media records. Clips come from both sides of a
conversation.

At the end of a run the latents of its averaged weights are standardised (`posterior.calibrate`), and the weights are
written to RUN/weights, which `data encode` and `export` read. With `train.groups=encoder=0` the decoder alone learns:
the latents stay as they were, and agents that were trained on them can have the new decoder.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanstreamer_jax.codecs.interface import AudioCodec, VideoCodec
from wanstreamer_jax.codecs.make import make_audio_codec, make_video_codec
from wanstreamer_jax.codecs.posterior import calibrate
from wanstreamer_jax.config import Config, group_rates
from wanstreamer_jax.data.mixture import Mixture, Order, SharedOrder
from wanstreamer_jax.data.records import SessionRecord, audio_to_float, video_to_float, video_to_uint8
from wanstreamer_jax.data.rendered import Kept, Limits, Reservoir, check_length, is_rendered, random_of, recorder_of
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.files import Path, replacing, save_figure
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.train.codec_losses import (
  adversarial_codec_loss,
  audio_codec_loss,
  calibration_statistics,
  video_codec_loss,
)
from wanstreamer_jax.train.critic import CodecWithCritic, Critic
from wanstreamer_jax.train.picture_critic import PictureCritic
from wanstreamer_jax.train.prefetch import host_rows
from wanstreamer_jax.train.stage import Loss, Metrics, Stage
from wanstreamer_jax.weights.store import EXPORTED, export_weights, fit_weights, load_weights, read_weights

CALIBRATION_BATCHES = 16
# Clips of a batch, and units of a clip, over which an imported codec is measured: a CPU encodes them in minutes.
IMPORTED_CLIPS = {"audio": (8, 32), "video": (1, 8)}
EVALUATION_STEP = 1_000_000_000  # number of the evaluation's batch, which training never reaches
TRIES = 100  # clips that are drawn in search of one that has the stream
SIDES = ("agent", "user")
AGENT_SHARE = 0.7  # of the clips: the codec renders the agent, but must know other faces and voices too


@dataclasses.dataclass(frozen=True)
class ClipLoader:
  """Clips of one medium: `batch_at(step)` -> {name: [rows, ...]}, in the order of `data/mixture.py`."""

  mixture: Mixture
  config: Config
  name: str  # "audio" or "video"
  rows: Sequence[int] | None = None  # of every global batch; all by default

  def __post_init__(self) -> None:
    """Raises DataError for records of another kind, size or rate, and for clips longer than a session."""
    for folder in self.mixture.folders:
      if folder.kind != "media":
        raise DataError(f"{folder.path} holds {folder.kind}: codecs are trained on media records (`data make`)")
      folder.check_media(self.config)
    _ = self._order

  @functools.cached_property
  def _order(self) -> Order | SharedOrder:
    return self.mixture.order(self.config)

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    rows = range(self.config.data.batch) if self.rows is None else self.rows
    return {self.name: np.stack([self.clip(step, row) for row in rows])}

  def clip(self, step: int, row: int) -> np.ndarray:
    """Audio int16 [units * samples], or video uint8 [1 + units * frames, H, W, 3] (a still, then the clip)."""
    data = self.config.data
    number, session, start = self._order.place(step * data.batch + row)
    folder, rng = self.mixture.folders[number], np.random.default_rng([data.seed, step, row])
    for _ in range(TRIES):
      units = folder.read_units(session, start, data.units, [f"{side}_{self.name}" for side in SIDES])
      found = clip_of(units, self.name, rng)
      if found is not None:
        return found
      session, start = int(rng.integers(folder.sessions)), int(rng.integers(folder.units - data.units + 1))
    raise DataError(f"{folder.path}: {TRIES} random clips of {data.units} units had no {self.name} on either side")


def clip_of(units: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray | None:
  """The clip of a medium from one side of media records, mostly the agent's; None where neither has it throughout."""
  first = int(rng.random() >= AGENT_SHARE)
  for side in (SIDES[first], SIDES[1 - first]):  # where this side lacks the stream, the other may have it
    if units[f"{side}_{name}_valid"].all():
      media = units[f"{side}_{name}"]
      media = media.reshape(-1, *media.shape[2:])
      return media if name == "audio" else np.concatenate([media[:1], media])
  return None


class RenderedClips:
  """The same of sessions that are rendered meanwhile (data/rendered.py); a `with` block ends the rendering."""

  def __init__(self, config: Config, name: str, rows: Sequence[int] | None = None, limits: Limits | None = None):
    check_length(config)
    fields = tuple(f"{side}_{name}{valid}" for side in SIDES for valid in ("", "_valid"))
    limits, recorder = limits or Limits.of_machine(), recorder_of(config, fields=fields)
    if name == "video" and not recorder.source.tracks:
      raise DataError(f"data.path {config.data.path} has no pictures: expected world://SEED")
    self.config, self.name, self.rows = config, name, len(range(config.data.batch) if rows is None else rows)
    keep = lambda made: [Kept(one.number, one.units, SessionRecord(one.fixed, {}), {}) for one in made]
    self.reservoir = Reservoir(config.data.path, recorder, limits, 1, keep)

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    rng, units = random_of(self.config.data.seed, step), self.config.data.units
    chosen = self.reservoir.choose(rng, self.rows, units)
    clips = [clip_of(kept.read_units(0, start, units), self.name, rng) for kept, start in chosen]
    return {self.name: np.stack([clip for clip in clips if clip is not None])}  # rendered sessions have all throughout

  def __enter__(self) -> "RenderedClips":
    _open[self.config] = self
    return self

  def __exit__(self, *_: Any) -> None:
    del _open[self.config]
    self.reservoir.close()


_open: dict[Config, RenderedClips] = {}  # those of the run that goes on


def _clips(config: Config, name: str, rows: Sequence[int] | None = None) -> ClipLoader | RenderedClips:
  """The clips of `data.path`; while a run renders, those of the run."""
  if config in _open:
    return _open[config]
  if is_rendered(config):
    return RenderedClips(config, name, rows)
  return ClipLoader(Mixture(config.data.path), config, name, rows)


def audio_codec_stage() -> Stage:
  """The audio codec."""
  make = lambda config, rngs: make_audio_codec(config.audio_codec, rngs=rngs)
  loss = _loss(audio_codec_loss, lambda batch: audio_to_float(batch["audio"]))
  return _stage("audio_codec", "audio", _init(make, Critic), loss, _draw_audio)


def video_codec_stage() -> Stage:
  """The video codec."""
  make = lambda config, rngs: make_video_codec(config.video_codec, rngs=rngs)
  loss = _loss(video_codec_loss, lambda batch: video_to_float(batch["video"]))
  return _stage("video_codec", "video", _init(make, PictureCritic), loss, _draw_video)


def _init(make: Callable[[Config, nnx.Rngs], Any], critic: Callable[..., Any]) -> Callable[[Config, jax.Array], Any]:
  """A codec, with `train.adversarial_weight` joined with its critic."""

  def init(config: Config, key: jax.Array) -> Any:
    codec = make(config, nnx.Rngs(key))
    if not config.train.adversarial_weight:
      return codec
    return CodecWithCritic(codec, critic(config.train, rngs=nnx.Rngs(jax.random.fold_in(key, 1))))

  return init


def _loss(alone: Any, clips: Callable[[Any], jax.Array]) -> Callable[[Config], Loss]:
  """alone: the loss of a clip for a codec that no critic judges. clips: of a batch, as floats."""

  def make_loss(config: Config) -> Loss:
    def loss(params: Any, batch: Any, keys: jax.Array) -> tuple[jax.Array, Metrics]:
      one = adversarial_codec_loss if isinstance(params, CodecWithCritic) else alone
      return _mean_loss(one, params, clips(batch), keys, config)

    return loss

  return make_loss


def codec_of(params: Any) -> Any:
  """The codec among the parameters of stage 0, without what only trains it."""
  return params.codec if isinstance(params, CodecWithCritic) else params


def _mean_loss(loss: Any, vae: Any, clips: jax.Array, keys: jax.Array, config: Config) -> tuple[jax.Array, Metrics]:
  values, metrics = jax.vmap(lambda clip, k: loss(vae, clip, k, config.train))(clips, keys)
  metrics.pop("loss")
  return values.mean(), jax.tree.map(lambda x: x.mean(), metrics)


def _stage(name: str, medium: str, init: Any, make_loss: Callable[[Config], Loss], draw: Any) -> Stage:
  loader = lambda config, rows=None: _clips(config, medium, rows)
  own_rows = lambda config: host_rows(config.data.batch, make_mesh(config.train.mesh))
  evaluation_loss = jax.jit(lambda vae, batch, keys, config: make_loss(config)(vae, batch, keys), static_argnums=3)

  def evaluate(params: Any, config: Config, run: pathlib.Path, step: int) -> Metrics:
    """Losses of one batch (of `data.heldout` where it is set); draws originals above their reconstructions."""
    codec = codec_of(params)
    own = config.replace(data=config.data.replace(path=config.data.heldout)).freeze() if config.data.heldout else config
    batch = loader(own).batch_at(EVALUATION_STEP)
    keys = jax.random.split(jax.random.key(0), config.data.batch)
    value, metrics = evaluation_loss(codec, batch, keys, config)
    path = run / "pictures" / f"{step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(codec, batch[medium], path)
    return {"loss": float(value)} | {key: float(metric) for key, metric in metrics.items()}

  def finish(params: Any, config: Config, run: pathlib.Path) -> None:
    codec = codec_of(params)
    if dict(group_rates(config.train.groups)).get("encoder") != 0:
      codec = standardised(codec, loader(config), medium)
    export_weights(codec, config, run / EXPORTED, "f32")

  return Stage(
    name=name, init=init, make_loss=make_loss, make_loader=lambda config: loader(config, own_rows(config)),
    evaluate=evaluate, finish=finish, frozen=("standard.*",), load=_load,
  )  # fmt: skip


def _load(path: Path, abstract: Any, config: Config) -> Any:
  """`train.init`: a codec, or what an adversarial run trains; a codec alone is joined with a new critic."""
  if not isinstance(abstract, CodecWithCritic):
    return load_weights(path, abstract)
  _, values = read_weights(path)
  if any(name.startswith("critic.") for name in values):
    return fit_weights(values, abstract, path)
  critic = type(abstract.critic)(config.train, rngs=nnx.Rngs(config.train.seed))
  return CodecWithCritic(load_weights(path, abstract.codec), critic)


_measure = jax.jit(calibration_statistics)


def standardised(vae: Any, loader: ClipLoader | RenderedClips, medium: str) -> Any:
  """The codec with its latents' mean, deviation and what the past leaves unknown, measured over some batches."""
  to_float = audio_to_float if medium == "audio" else video_to_float
  lag = loader.config.audio_latents if medium == "audio" else loader.config.video_groups
  means = [_measure(vae, to_float(loader.batch_at(EVALUATION_STEP + i)[medium])) for i in range(CALIBRATION_BATCHES)]
  return calibrate(vae, jnp.concatenate(means), lag)


def standardised_over(codec: Any, records: Path, config: Config, medium: str) -> Any:
  """An imported codec, standardised over the media records of a folder (or a mixture of them).

  Clips are IMPORTED_CLIPS or as long as a session, whatever the config trains on. Those of video are short and few: a
  pretrained encoder takes seconds of a CPU for each unit, and a unit has as many latents as its picture has places.
  Raises DataError for records of another kind, size or rate.
  """
  mixture, data, train = Mixture(str(records)), config.data.replace(shares=1), config.train.replace(accumulate=1)
  data.batch, units = IMPORTED_CLIPS[medium]
  data.units = min(units, *(folder.units for folder in mixture.folders))
  return standardised(codec, ClipLoader(mixture, config.replace(data=data, train=train).freeze(), medium), medium)


@jax.jit
def _reconstruct_video(vae: VideoCodec, clip: jax.Array) -> jax.Array:
  """The last frame of a clip [1 + F, H, W, 3], encoded and decoded: [H, W, 3]."""
  return vae.decode_clip(vae.encode_clip(clip).mean)[-1]


@jax.jit
def _reconstruct_audio(vae: AudioCodec, clip: jax.Array) -> jax.Array:
  """A clip [S], encoded and decoded."""
  posterior, _ = vae.encode(clip, vae.encoder_state())
  return vae.decode(posterior.mean, vae.decoder_state())[0]


def _draw_video(vae: VideoCodec, clips: np.ndarray, path: pathlib.Path) -> None:
  """Last frames of up to 8 clips above their reconstructions, enlarged."""
  from PIL import Image

  shown = clips[:8]
  decoded = [video_to_uint8(np.asarray(_reconstruct_video(vae, video_to_float(clip)))) for clip in shown]
  rows = [np.concatenate([clip[-1] for clip in shown], axis=1), np.concatenate(decoded, axis=1)]
  picture = Image.fromarray(np.concatenate(rows))
  scale = max(1, 192 // shown.shape[2])
  enlarged = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
  with replacing(path) as temporary:
    enlarged.save(temporary, format="png")


def _draw_audio(vae: AudioCodec, clips: np.ndarray, path: pathlib.Path) -> None:
  """Spectrograms of up to 4 clips above those of their reconstructions."""
  from matplotlib.figure import Figure

  shown = [np.asarray(audio_to_float(clip)) for clip in clips[:4]]
  floor = 1e-6 * np.random.default_rng(0).standard_normal(len(shown[0]))  # avoids the logarithm of zero
  rate = vae.cfg.sample_rate
  figure = Figure(figsize=(4 * len(shown), 6))
  axes = figure.subplots(2, len(shown), squeeze=False)
  for column, clip in enumerate(shown):
    for row, samples in enumerate((clip, np.asarray(_reconstruct_audio(vae, clip)))):
      axes[row][column].specgram(samples + floor[: len(samples)], NFFT=512, noverlap=384, Fs=rate, vmin=-140, vmax=-40)
      axes[row][column].set_title(("original", "reconstruction")[row])
  figure.tight_layout()
  save_figure(path, figure, dpi=70)
