"""Stage 2: duplex interaction with teacher forcing; text and flow losses. Each crop takes one pass over [clean |
noisy].

A batch is what `data.loader.CropLoader` reads from a folder of cached latents: a `Crop` of arrays [B, ...].
"""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanstreamer_jax.config import Config
from wanstreamer_jax.data import labels
from wanstreamer_jax.data.loader import Crop
from wanstreamer_jax.data.mixture import Mixture
from wanstreamer_jax.data.rendered import RenderedLoader, is_rendered
from wanstreamer_jax.data.rendered import manifest as rendered_manifest
from wanstreamer_jax.errors import CheckpointError, ConfigError, DataError
from wanstreamer_jax.files import Path
from wanstreamer_jax.flow import interpolate, sample_time, velocity
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.model.tokens import Latents, Past
from wanstreamer_jax.model.ulysses import check_devices
from wanstreamer_jax.parallel.mesh import BATCH_AXES, make_mesh
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.teacher_forcing import (
  Inputs,
  Shown,
  TextScores,
  crop_conditions,
  crop_past,
  known_slots,
  last_units,
  mask_inputs,
  onsets,
  pick_units,
  squared_errors,
  teacher_forced,
  text_scores,
)
from wanstreamer_jax.train.flops import duplex_attention_flops
from wanstreamer_jax.train.readouts import PERCEPTION, perception_loss, readout_losses, weight_constants
from wanstreamer_jax.train.stage import Metrics, Ratio, Stage
from wanstreamer_jax.units import CLEAN_PHASES, NOISY_PHASES, build_layout
from wanstreamer_jax.weights.agent import READOUTS
from wanstreamer_jax.weights.store import fit_weights, part_of, read_weights

# Parameters of `flow.carry` and `flow.anchor`; zeros have no effect.
REFERENCES = {name: (f"heads.{name}.w", f"heads.{name}.b", f"tokens.{name}_in.w") for name in ("carry", "anchor")}
FLOW_TIME_BINS = 4  # of equal width, for the losses that are only reported
MOST_CHANGE = 20.0  # of a place in a unit, relative to the crop's mean
FIRST_UNITS, FIRST_TEXT_TOKENS = 22_500, 8_192  # crops start anywhere in the first hour of the clock and of the text


class Draws(NamedTuple):
  """Everything random in the loss of one crop. I units have a noisy copy (train.noisy_units)."""

  picked: jax.Array  # int32 [I], ascending: which ones
  tau: jax.Array  # [I] flow time of the noisy copy
  noise: Latents  # [I, ...]
  history_level: jax.Array  # [K + previous] flow time of the committed copy
  history_noise: Latents  # [K + previous, ...]
  history_drift: jax.Array  # [2, Z]: gain and offset of each channel of the committed video
  keep_audio: jax.Array  # bool [K + previous]: whether the committed audio of a unit is shown
  shown: Shown  # what this session has of its user and its world
  first_unit: jax.Array  # int32, added to the crop's place in its session
  first_text_token: jax.Array  # int32


def draw(key: jax.Array, crop: Crop, config: Config) -> Draws:
  """The draws of one crop."""
  keys = jax.random.split(key, 11)
  train, flow, latents = config.train, config.flow, crop_past(crop).latents
  units, total = crop.agent_text.shape[0], latents.audio.shape[0]
  noisy = noisy_units(config, units)

  def normal(key: jax.Array, units: int) -> Latents:
    return Latents(*(jax.random.normal(k, (units, *x.shape[1:])) for k, x in zip(jax.random.split(key), latents)))

  moved = jax.random.bernoulli(keys[6])
  end = jnp.array([FIRST_UNITS if train.shift_clock else 1, FIRST_TEXT_TOKENS])
  all_shown, *each = jax.random.uniform(keys[5], (4,)) >= jnp.array([train.condition_drop] + 3 * [train.stream_drop])
  portrait, audio, video = (all_shown & one for one in each)
  place = jax.random.randint(keys[7], (2,), 0, end) * moved
  drift = jax.random.normal(keys[9], (3, latents.video.shape[-1]))
  drift *= train.history_drift * jax.random.uniform(keys[10]) * (portrait & crop.portrait_valid)
  return Draws(
    picked=one_of_each(keys[8], units, noisy),
    tau=sample_time(keys[0], (noisy,), mean=flow.train_mean, std=flow.train_std, shift=flow.train_shift),
    noise=normal(keys[1], noisy),
    history_level=train.history_noise * jax.random.uniform(keys[2], (total,)),
    history_noise=normal(keys[3], total),
    history_drift=jnp.stack([(drift[0] + drift[2, 0]) * 0.5**0.5, drift[1]]),
    keep_audio=jax.random.uniform(keys[4], (total,)) >= train.history_drop,
    shown=Shown(world=all_shown, portrait=portrait, user_text=all_shown, user_audio=audio, user_video=video),
    first_unit=place[0],
    first_text_token=place[1],
  )


def noisy_units(config: Config, units: int) -> int:
  """How many of a crop's units have a noisy copy: `train.noisy_units`, or all. Raises ConfigError unless it divides."""
  noisy = config.train.noisy_units or units
  if units % noisy:
    raise ConfigError(
      f"train.noisy_units is {noisy}, which does not divide data.units {units}: one unit of every data.units / "
      "train.noisy_units consecutive ones gets a noisy copy"
    )
  return noisy


def one_of_each(key: jax.Array, units: int, picked: int) -> jax.Array:
  """One random unit of every units / picked consecutive ones: int32 [picked]. Each is as likely as the others, so
  units / picked times the sum over them is an unbiased sum over all; spread out, it varies less than subsets do."""
  stride = units // picked
  return stride * jnp.arange(picked) + jax.random.randint(key, (picked,), 0, stride)


def keeps_all(config: Config) -> bool:
  """Whether no unit of a training crop is so late that its session's past would have been evicted."""
  layout = config.layout
  fits = layout.window is None or config.data.session_units <= layout.window + layout.sinks
  return fits and not config.train.shift_clock


def stage_inputs(crop: Crop, draws: Draws) -> tuple[Inputs, Latents]:
  """The stage's four inputs: history is data, noised; a noisy copy is data and noise. -> (inputs, targets [I, ...])."""
  past, units, copies = crop_past(crop), crop.agent_text.shape[0], draws.tau.shape[0]
  clean = pick_units(last_units(past.latents, units), draws.picked, copies)
  gain, offset = draws.history_drift
  drifted = past.latents._replace(video=past.latents.video * (1 + gain) + offset)
  history = Past(
    latents=jax.tree.map(lambda x, e: interpolate(x, e, draws.history_level), drifted, draws.history_noise),
    flow_time=draws.history_level,
    valid=past.valid.at[:, 1].set(past.valid[:, 1] & draws.keep_audio),
  )
  noisy = jax.tree.map(lambda x, e: interpolate(x, e, draws.tau), clean, draws.noise)
  return Inputs(history, noisy, draws.tau, draws.picked), jax.tree.map(velocity, clean, draws.noise)


def crop_loss(streamer: WanStreamer, crop: Crop, key: jax.Array) -> tuple[jax.Array, Metrics]:
  """The loss of one crop: text cross-entropy per unit, mean squared velocity errors of audio and video."""
  return drawn_loss(streamer, crop, draw(key, crop, streamer.config))


def drawn_loss(streamer: WanStreamer, crop: Crop, draws: Draws) -> tuple[jax.Array, Metrics]:
  """`crop_loss` of given draws."""
  train = streamer.config.train
  inputs, targets = stage_inputs(crop, draws)
  seen_crop = mask_inputs(crop, draws.shown, streamer.config.model.pad)
  told = crop_conditions(streamer, seen_crop)
  told = told._replace(first_unit=crop.start + draws.first_unit, first_text_token=draws.first_text_token)
  predictions = teacher_forced(streamer, told, inputs, evicts=not keeps_all(streamer.config))
  errors = squared_errors(predictions.velocity, targets)
  if train.video_motion:
    weights = motion_weights(crop_past(crop), crop.agent_text.shape[0], train.video_motion)
    moving = pick_units(weights, draws.picked, draws.tau.shape[0])
    weighed = moving * jnp.square(predictions.velocity.video - targets.video)
    errors = errors._replace(video=jnp.mean(weighed.reshape(weighed.shape[0], -1), axis=1))
  exists = last_units(crop_past(crop).valid, crop.agent_text.shape[0])
  text, metrics = text_losses(streamer, predictions.text, crop.agent_text, crop.agent_text_valid)
  video, video_bins = _flow_loss(errors.video, exists[:, 0], inputs)
  audio, audio_bins = _flow_loss(errors.audio, exists[:, 1], inputs)
  for name, bins in (("audio", audio_bins), ("video", video_bins)):
    metrics |= {f"{name}_tau_{i}": ratio for i, ratio in enumerate(bins)}
  loss = train.text_weight * text + train.audio_weight * audio + train.video_weight * video
  read, accuracies = readout_losses(streamer, seen_crop, told.user, predictions.text[:, 0])  # STATE predicts slot 0
  loss, metrics = loss + read, metrics | accuracies
  loss *= share_of_session(crop)  # the losses are means over what exists: a unit of a shorter session weighs no more
  seen, heard = jnp.any(exists, axis=0).astype(jnp.float32)  # rows without a stream count nowhere in its mean
  return loss, metrics | {"audio": Ratio(audio, heard), "video": Ratio(video, seen)}


@jax.jit
def held_out_metrics(streamer: WanStreamer, batch: Crop) -> dict[str, Ratio]:
  """Accuracies of words and readouts over a batch of crops [B, ...], shown whole, with a clean history."""
  config = streamer.config
  clean = config.train.replace(noisy_units=1, history_noise=0.0, history_drift=0.0, history_drop=0.0)
  own = config.replace(train=clean).freeze()

  def row(crop: Crop, key: jax.Array) -> Metrics:
    draws, yes = draw(key, crop, own), jnp.ones((), bool)
    zero = jnp.zeros((), jnp.int32)
    draws = draws._replace(shown=Shown(yes, yes, yes, yes, yes), first_unit=zero, first_text_token=zero)
    return drawn_loss(streamer, crop, draws)[1]

  metrics = jax.vmap(row)(batch, jax.random.split(jax.random.key(0), batch.start.shape[0]))
  named = lambda name: name == "token_accuracy" or name.startswith(("state_", "seen_", "heard_"))
  return {name: jax.tree.map(jnp.mean, ratio) for name, ratio in metrics.items() if named(name)}


def motion_weights(past: Past, units: int, weight: float) -> jax.Array:
  """1 + weight * change, with mean 1, of every place of the last `units` units: [K, h, w, 1]. The change is the mean
  square of what a place's latents differ from those of the unit before, relative to that of the whole crop, at most
  MOST_CHANGE times it; 0 where the unit or the one before does not exist."""
  video, exists = past.latents.video, past.valid[:, 0]
  change = jnp.mean(jnp.square(jnp.diff(video, axis=0)), axis=-1, keepdims=True)
  change = last_units(change * (exists[1:] & exists[:-1])[:, None, None, None], units)
  weights = 1 + weight * jnp.minimum(change / jnp.maximum(jnp.mean(change), 1e-6), MOST_CHANGE)
  return weights / jnp.mean(weights)


def share_of_session(crop: Crop) -> jax.Array:
  """The share of a crop's units that its session has: in those past its end nobody shows, sounds or writes anything."""
  agent = last_units(crop_past(crop).valid, crop.agent_text.shape[0])  # bool [K, 2]
  return jnp.mean(crop.user_video_valid | crop.user_audio_valid | crop.agent_text_valid | jnp.any(agent, axis=1))


def text_losses(
  streamer: WanStreamer, hidden: jax.Array, text: jax.Array, known: jax.Array | None = None
) -> tuple[jax.Array, Metrics]:
  """Cross-entropy of the slots that exist (`known_slots`), per unit whose words are known; 0 if there is none.

  hidden: [K, n, D]; text: [K, n]; known: bool [K], by default all.
  """
  train, pad = streamer.config.train, streamer.config.model.pad
  known = jnp.ones(text.shape[0], bool) if known is None else known
  valid, token = known_slots(text, known, pad), (text != pad) & known[:, None]
  scores = text_scores(streamer, hidden, text)
  weight = valid * jnp.where(token, 1.0, train.pad_weight)
  tokens = jnp.maximum(jnp.sum(token), 1)
  onset, slots, any_known = (
    onsets(text, pad) & known,
    jnp.maximum(jnp.sum(valid), 1),
    jnp.any(known).astype(jnp.float32),
  )
  metrics: Metrics = {  # over the rows whose words are known in some unit
    "text": Ratio(jnp.sum(scores.nll * valid) / slots, any_known),
    "token_nll": Ratio(jnp.sum(scores.nll * token) / tokens, any_known),
    "onset_nll": Ratio(jnp.sum(scores.nll[:, 0] * onset) / jnp.maximum(jnp.sum(onset), 1), any_known),
    "token_accuracy": Ratio(jnp.sum(scores.correct & token) / tokens, any_known),
  }
  loss = jnp.sum(scores.nll * weight + token * _extra_of_words(streamer, scores, text))
  if train.z_loss:
    metrics["z_squared"] = jnp.sum(scores.log_z**2 * valid) / slots
    loss += train.z_loss * jnp.sum(scores.log_z**2 * valid)
  return loss / jnp.maximum(jnp.sum(known), 1), metrics


def _extra_of_words(streamer: WanStreamer, scores: TextScores, text: jax.Array) -> jax.Array:
  """What is added to the loss of written tokens [K, n] where the choice of the word weighs more than 1.

  -log p(token) = -log p(some word) - log p(this word, if any). The second part gets a weight; the first, which decides
  when the agent speaks, keeps 1, so that weights do not make it speak more often than it should.
  """
  if scores.log_words is None:
    return jnp.zeros_like(scores.nll)
  weight, heads = jnp.float32(streamer.config.train.word_weight), streamer.readouts
  if heads is not None and heads.word_weight is not None:
    weight *= jax.lax.stop_gradient(heads.word_weight[...])[text]
  return (weight - 1.0) * (scores.nll - scores.log_z + scores.log_words)


def _flow_loss(errors: jax.Array, valid: jax.Array, inputs: Inputs) -> tuple[jax.Array, list[Ratio]]:
  """Mean squared error over the units that exist, and the same by flow time: bin i is [i/4, (i+1)/4).

  Only the picked units were tried: an unbiased estimate, as the divisor does not depend on the draw. errors: [I];
  valid: bool [K].
  """
  tried = pick_units(valid, inputs.picked, errors.shape[0])
  share = valid.shape[0] / tried.shape[0]
  bins = jax.nn.one_hot((inputs.tau * FLOW_TIME_BINS).astype(jnp.int32), FLOW_TIME_BINS) * tried[:, None]  # [I, bins]
  loss = share * jnp.sum(errors * tried) / jnp.maximum(jnp.sum(valid), 1)
  return loss, list(map(Ratio, share * jnp.sum(errors[:, None] * bins, axis=0), share * jnp.sum(bins, axis=0)))


def duplex_loss(streamer: WanStreamer, batch: Crop, keys: jax.Array) -> tuple[jax.Array, Metrics]:
  """Mean over the rows of a batch of crops [B, ...], which have a key each."""
  # On a mesh, shard_map inside (the splash kernel) must know that rows are split; elsewhere the name says nothing.
  over_rows = jax.vmap(crop_loss, in_axes=(None, 0, 0), spmd_axis_name=BATCH_AXES)
  loss, metrics = over_rows(streamer, batch, keys)
  return jnp.mean(loss), jax.tree.map(jnp.mean, metrics)


def _init(config: Config, key: jax.Array) -> WanStreamer:
  return WanStreamer(config, rngs=nnx.Rngs(key))


def _loader(config: Config) -> Any:
  from wanstreamer_jax.data.loader import CropLoader
  from wanstreamer_jax.train import duplex_validation
  from wanstreamer_jax.train.prefetch import host_rows

  duplex_validation.check(config)
  labels.check_sizes(config)
  mesh = make_mesh(config.train.mesh)
  with jax.set_mesh(mesh):  # before anything is compiled
    check_devices(config.model.heads, config.data.units, noisy_units(config, config.data.units))
  rows = host_rows(config.data.batch, mesh)
  if is_rendered(config):
    return RenderedLoader(config, *duplex_validation.codecs(config), rows, config.augment.on)
  loader = CropLoader(config.data.path, config, rows, config.augment.on, rename=config.augment.on)
  longest = max(folder.units for folder in loader.folders)
  if keeps_all(config) and longest > config.data.session_units:
    raise ConfigError(
      f"{config.data.path}: sessions of {longest} units, but data.session_units is {config.data.session_units}, and "
      "with train.shift_clock off nothing may be evicted: set data.session_units"
    )
  return loader


def _evaluate(streamer: WanStreamer, config: Config, run: pathlib.Path, step: int) -> Metrics:
  from wanstreamer_jax.train.duplex_validation import validate

  return validate(streamer, config, run, step)


def _constants(config: Config) -> dict[str, np.ndarray]:
  """Variances of the latents given the past, by parameter, as the codecs of the records measured them; {} where the
  records are older. Raises DataError for another number of channels."""
  manifests = _manifests(config)
  found = weight_constants(config, manifests)
  for name, codec in (("audio", config.audio_codec), ("video", config.video_codec)):
    stated = manifests[0].get("residual_std", {}).get(name)  # the others were made by the same codecs
    if stated is None:
      continue
    if len(stated) != codec.latent_dim:
      raise DataError(
        f"{config.data.path} states residual_std of {len(stated)} {name} channels, not of {codec.latent_dim}"
      )
    found[f"heads.{name}_variance"] = np.square(np.asarray(stated, np.float32))
  return found


def _manifests(config: Config) -> list[dict[str, Any]]:
  """What is known of the training data before they are read."""
  if not is_rendered(config):
    return [folder.manifest for folder in Mixture(config.data.path).folders]
  from wanstreamer_jax.train import duplex_validation

  return [rendered_manifest(config, *duplex_validation.codecs(config))]


def _load(path: Path, abstract: WanStreamer, config: Config) -> WanStreamer:
  """Weights of `train.init`. Readouts that they lack, as exports do, begin as in a new run; those that this run does
  not have are left out. What `flow.carry` and `flow.anchor` add begins without effect where they lack it, but for units
  without a previous one, which with `flow.anchor` carry the portrait."""
  wanted, given = named_leaves(abstract), read_weights(path)[1]
  new: tuple[str, ...] = ()
  for name, parameters in REFERENCES.items():
    if not any(given_name.endswith(parameters) for given_name in given):
      new += parameters
    elif not getattr(config.flow, name):
      raise CheckpointError(f"{path} was trained with flow.{name}: set it, since its video head predicts changes")
  body = {name: leaf for name, leaf in wanted.items() if not name.startswith((READOUTS, *new))}
  found = part_of(given, body)
  own = {name: value for name, value in found.items() if name in wanted or not name.startswith(READOUTS)}
  own |= {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in wanted.items() if name in new}
  missing = [name for name in wanted if name.startswith(READOUTS) and name not in own]
  if missing:
    fresh = named_leaves(jax.jit(functools.partial(_init, config))(jax.random.key(config.train.seed)))
    own |= {name: np.asarray(fresh[name]) for name in missing}
  return fit_weights(own, abstract, path)


def duplex_stage() -> Stage:
  """Teacher-forced duplex training of the WanStreamer; the codecs were trained before and do not appear."""
  stage = Stage(
    name="duplex", init=_init, make_loss=lambda config: duplex_loss, make_loader=_loader, evaluate=_evaluate,
    attention_flops=duplex_attention_flops, constants=_constants, load=_load,
    frozen=(r"heads\.(audio|video)_variance", r"readouts\.\w+_weight"),
  )  # fmt: skip
  perception = dataclasses.replace(
    stage, name="perception", make_loss=lambda config: perception_loss, only=PERCEPTION, attention_flops=lambda _: 0.0
  )
  return dataclasses.replace(stage, first=perception)


def crop_tokens(config: Config) -> int:
  """Tokens of one crop in the training pass."""
  layout, units = build_layout(config), config.data.units
  noisy = noisy_units(config, units) * layout.tokens(*NOISY_PHASES)
  return layout.world_tokens + units * layout.tokens(*CLEAN_PHASES) + noisy
