"""The model over a whole crop in one pass: [WORLD | clean units | noisy copies]. Every training stage uses it.

    predictions = teacher_forced(streamer, crop_conditions(streamer, crop), inputs)
    errors = squared_errors(predictions.velocity, targets)

`rollout.py` is the same model unit by unit, and both give the same numbers (law 3). A stage has no forward pass of its
own: it chooses four inputs; the pass takes three of them and the loss takes the fourth.

    stage                    history             noisy, tau                           targets
    duplex                   data, noised a bit  data + noise, tau drawn              noise - data
    consistency              as duplex           data + noise, tau of the schedule    the target network's
    self-forcing, gradient   recorded rollout    recorded solver inputs, exit step    from teacher and critic
    self-forcing, anchor     recorded rollout    data + noise, tau drawn              noise - data

A crop has K units, and the agent's latents of the P units before them (`data.loader.PREVIOUS`). The I noisy copies are
of some units, of all, or of each several times. Everything is unbatched: `jax.vmap` makes the batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.loader import Crop
from wanstreamer_jax.data.records import audio_to_float, video_to_float
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import AttentionFn, teacher_forced_attention
from wanstreamer_jax.model.attention_gpu import teacher_forced_attention_gpu
from wanstreamer_jax.model.streamer import UnitHistory, UserTokens, WanStreamer, WorldArrays
from wanstreamer_jax.model.tokens import Latents, Past, Reference, pack, text_valid
from wanstreamer_jax.model.ulysses import CONTEXT, ContextSharding, check_devices, ulysses
from wanstreamer_jax.nn.attention_merge import CuDNN
from wanstreamer_jax.parallel.mesh import axis_size, constrain
from wanstreamer_jax.units import CLEAN_PHASES, NOISY_PHASES, PERFORM, STATE, TEXT, Coords, build_layout

FIRST: Any = 0
OF_COPIES = Reference(previous=FIRST, portrait=None)  # which axes the copies' references have for `vmap`


class Conditions(NamedTuple):
  """The agent's inputs in a crop: its world, its user, its own words, and where its clocks start."""

  world: WorldArrays
  user: UserTokens  # [K, ...]
  text: Int[Array, "K n"]  # PAD-filled
  first_unit: Int[Array, ""]  # the unit that the crop starts with; of earlier ones only `Inputs.history` is known
  first_text_token: Int[Array, ""]  # the ordinal to start from
  text_valid: Bool[Array, "K"] | None = None  # units whose words are known (None: all); the others have no TEXT tokens


class Inputs(NamedTuple):
  """The inputs that a stage chooses for the pass: three of the four, and the units of the noisy copies. The fourth
  input, the targets, belongs to the loss."""

  history: Past  # [P + K, ...]: what COMMIT, REFEED and `flow.carry` show of every unit
  noisy: Latents  # [I, ...]: what PERFORM starts from
  tau: Float[Array, "I"]  # its flow time
  picked: Int[Array, "I"] | None = None  # which units the copies are of; see `pick_units`


class Predictions(NamedTuple):
  """The results of the pass."""

  text: Float[Array, "K n D"]  # hidden states, whose `logits` predict the n text slots
  velocity: Latents  # [I, ...] of the noisy copies


def teacher_forced(streamer: WanStreamer, conditions: Conditions, inputs: Inputs, evicts: bool = True) -> Predictions:
  """One pass of the Transformer over [WORLD | K clean units | I noisy copies].

  evicts: False if the caller knows that no unit comes late enough for a part of its past to be evicted; this makes
  the TPU kernel cheaper. Raises ConfigError for units or heads that do not divide over the mesh, and for
  crops that `config.model.attention` cannot express.
  """
  config, layout = streamer.config, build_layout(streamer.config)
  units, copies = conditions.text.shape[0], inputs.tau.shape[0]
  check_devices(config.model.heads, units, copies)
  history = unit_history(inputs.history, units, config.layout.commit_delay)
  references = _references(conditions, pick_units(history.previous, inputs.picked, copies), config)
  parts = (
    _world_tokens(streamer, conditions.world),
    _clean_tokens(streamer, conditions, history),
    _noisy_tokens(streamer, conditions, history, references, inputs),
  )
  tokens, coords = [x for x, _ in parts], [x for _, x in parts]  # [T, D] and [T] of each part
  sharding = ContextSharding(axis_size(CONTEXT), tuple(x.shape[0] for x in tokens))
  attention = training_attention(config, Coords.concatenate(*coords[:2]), coords[2], sharding, evicts)
  hidden, _ = streamer.transformer(sharding.scatter(*tokens), sharding.scatter(*coords), attention)
  _, clean, noisy = sharding.gather(hidden)
  clean = clean.reshape(units, layout.clean_tokens, -1)  # [K, Tc, D]
  noisy = noisy.reshape(copies, layout.tokens(*NOISY_PHASES), -1)  # [I, E, D]
  writing = clean[:, layout.clean_tokens - layout.tokens(STATE, TEXT) : -1]  # the last slot's state predicts nothing
  performing = noisy[:, -layout.tokens(PERFORM) :]
  velocity = jax.vmap(streamer.heads.velocity, (0, 0, 0, OF_COPIES))(performing, inputs.noisy, inputs.tau, references)
  return Predictions(constrain(writing, CONTEXT), velocity)


def _world_tokens(streamer: WanStreamer, world: WorldArrays) -> tuple[Float[Array, "T D"], Coords]:
  tokens, coords = streamer.world(world)
  return constrain(tokens, None), coords  # it need not divide over devices, and XLA breaks on lookups that do not


def _clean_tokens(
  streamer: WanStreamer, conditions: Conditions, history: UnitHistory
) -> tuple[Float[Array, "T D"], Coords]:
  """COMMIT, HEAR, STATE and TEXT of all units, one unit after the other: [K * Tc, D]."""
  layout, pad = build_layout(streamer.config), streamer.config.model.pad

  def unit(before: jax.Array, inputs: Any) -> tuple[jax.Array, Coords]:
    number, history, user, text, valid = inputs
    content, text_tokens = streamer.user_content(user, before)
    content |= streamer.commit_content(history)
    content["text"], _ = streamer.text_content(text, valid, text_tokens)
    return pack(layout, layout.phase(*CLEAN_PHASES), number, content)

  text, user = conditions.text, conditions.user
  valid = known_slots(text, conditions.text_valid, pad)
  counts = jnp.sum(user.text != pad, axis=1) + jnp.sum(valid & (text != pad), axis=1)
  before = conditions.first_text_token + jnp.cumsum(counts) - counts  # [K]: text tokens before each unit
  return _in_a_row(jax.vmap(unit)(before, _split((_numbers(conditions), history, user, text, valid))))


def known_slots(text: Int[Array, "K n"], known: Bool[Array, "K"] | None, pad: int) -> Bool[Array, "K n"]:
  """The slots that exist: up to and including the first PAD of a unit whose words are known (None: of every unit)."""
  return text_valid(text, pad) if known is None else text_valid(text, pad) & known[:, None]


def _noisy_tokens(
  streamer: WanStreamer, conditions: Conditions, history: UnitHistory, references: Reference, inputs: Inputs
) -> tuple[Float[Array, "T D"], Coords]:
  """REFEED and PERFORM of all noisy copies, one copy after the other: [I * E, D]."""
  layout = build_layout(streamer.config)

  def copy(inputs: Any) -> tuple[jax.Array, Coords]:
    number, history, seen, noisy, tau = inputs
    content = streamer.refeed_content(history) | streamer.tokens.noisy(noisy, tau, seen)
    return pack(layout, layout.phase(*NOISY_PHASES), number, content)

  of_copies = pick_units((_numbers(conditions), history), inputs.picked, inputs.tau.shape[0])
  seen = jax.vmap(streamer.tokens.reference, (OF_COPIES,))(references)
  return _in_a_row(jax.vmap(copy)(_split((*of_copies, seen, inputs.noisy, inputs.tau))))


def _references(conditions: Conditions, previous: Past, config: Config) -> Reference:
  """What the pictures of the noisy copies resemble: [I, ...], and one portrait. previous: [I, ...]."""
  return jax.vmap(Reference.of, (0, None), OF_COPIES)(previous, conditions.world.anchor(config))


def _numbers(conditions: Conditions) -> Int[Array, "K"]:
  """The units' numbers in their session."""
  return conditions.first_unit + jnp.arange(conditions.text.shape[0])


def _split(tree: Any) -> Any:
  """On a mesh, every device has a share of the units: arrays [K, ...] or [I, ...]."""
  return jax.tree.map(lambda x: constrain(x, CONTEXT), tree)


def _in_a_row(tree: Any) -> Any:
  """Arrays [units, tokens, ...] -> [units * tokens, ...]."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def unit_history(past: Past, units: int, delay: int) -> UnitHistory:
  """The past that each of K units sees, out of [P + K, ...]: unit k - delay for COMMIT, unit k - 1 for REFEED."""

  def earlier(age: int) -> Past:
    first = past.flow_time.shape[0] - units - age
    return jax.tree.map(lambda x: x[first : first + units], past)

  return UnitHistory(earlier(delay), earlier(1))


def pick_units(tree: Any, picked: jax.Array | None, copies: int) -> Any:
  """Picks the units of I noisy copies from arrays [K, ...]: [I, ...], ascending, so that on a mesh no unit moves.

  I < K: `picked` names one of each K / I consecutive units. I = K: every unit. I = D * K: every unit D times in a row,
  as D draws on one clean copy (in self-forcing: replay and anchor). Raises ConfigError for any other I.
  """

  def rows(x: jax.Array) -> jax.Array:
    units = x.shape[0]
    if copies % units == 0:
      return x if copies == units else jnp.repeat(x, copies // units, axis=0)
    if units % copies or picked is None:
      raise ConfigError(
        f"{copies} noisy copies of {units} units: expected a multiple of the units, or with `picked` a divisor of them"
      )
    strides = x.reshape(copies, -1, *x.shape[1:])  # [I, K / I, ...]
    return jax.vmap(lambda stride, i: stride[i % stride.shape[0]])(strides, picked)

  return jax.tree.map(rows, tree)


def training_attention(
  config: Config, clean: Coords, noisy: Coords, sharding: ContextSharding, evicts: bool
) -> AttentionFn:
  """The attention that `config.model.attention` names. All give the same numbers; evicts: as in `teacher_forced`.

  Raises ConfigError where a kernel cannot express the crop.
  """
  layout, chosen = build_layout(config), config.model.attention
  units = (clean.unit.shape[0] - layout.world_tokens) // layout.clean_tokens
  copies = noisy.unit.shape[0] // layout.tokens(*NOISY_PHASES)
  if chosen != "xla" and copies > units:
    raise ConfigError(f"{copies} noisy copies of {units} units need model.attention=xla, not {chosen}")

  def whole(clean: Coords, noisy: Coords) -> AttentionFn:
    if chosen == "xla":
      return teacher_forced_attention(clean, noisy, layout)
    if chosen == "cudnn":
      return teacher_forced_attention_gpu(clean, noisy, layout, CuDNN())
    from wanstreamer_jax.model.attention_tpu import teacher_forced_attention_tpu  # Pallas takes a second to import

    return teacher_forced_attention_tpu(clean, noisy, layout, evicts)

  return ulysses(whole, clean, noisy, sharding)


def crop_conditions(streamer: WanStreamer, crop: Crop) -> Conditions:
  """The conditions of a crop: the user's side perceived, and the clock of its session."""
  samples = audio_to_float(crop.user_audio).reshape(-1)  # [K, samples] -> [K * samples]
  audio, video, _ = streamer.perceive(samples, video_to_float(crop.user_video), streamer.hear.initial_state())
  user = UserTokens(audio, video, crop.user_text, crop.user_audio_valid, crop.user_video_valid)
  world, zero = crop_world(crop, streamer.config), jnp.zeros((), jnp.int32)
  return Conditions(world, user, crop.agent_text, crop.start, zero, crop.agent_text_valid)


def crop_world(crop: Crop, config: Config) -> WorldArrays:
  """WORLD of the crop's session."""
  empty = WorldArrays.empty(config)
  return WorldArrays(
    text=crop.world_text,
    portrait=crop.portrait_latent.astype(jnp.float32) if config.layout.portrait else empty.portrait,
    portrait_valid=crop.portrait_valid,
    voice=crop.voice_latent.astype(jnp.float32) if config.layout.voice_units else empty.voice,
    voice_valid=crop.voice_valid,
  )


def crop_past(crop: Crop) -> Past:
  """The agent's true latents, clean: [P + K, ...]. The last K are those of the crop itself."""
  latents = Latents(crop.agent_video_latent.astype(jnp.float32), crop.agent_audio_latent.astype(jnp.float32))
  return Past.clean(latents, jnp.stack([crop.agent_video_valid, crop.agent_audio_valid], axis=1))


def last_units(tree: Any, units: int) -> Any:
  """The last units of arrays [P + K, ...]."""
  return jax.tree.map(lambda x: x[-units:], tree)


class Shown(NamedTuple):
  """Which inputs of a session the model sees, as bools. Training hides some, so that it relies on none of them."""

  world: jax.Array  # text and voice
  portrait: jax.Array
  user_text: jax.Array
  user_audio: jax.Array
  user_video: jax.Array


def mask_inputs(crop: Crop, shown: Shown, pad: int) -> Crop:
  """Hides the inputs that are not shown: text becomes PAD, whose id is `pad`, and media become invalid."""
  return crop._replace(
    world_text=jnp.where(shown.world, crop.world_text, pad),
    voice_valid=crop.voice_valid & shown.world,
    portrait_valid=crop.portrait_valid & shown.portrait,
    user_text=jnp.where(shown.user_text, crop.user_text, pad),
    user_audio_valid=crop.user_audio_valid & shown.user_audio,
    user_video_valid=crop.user_video_valid & shown.user_video,
  )


def squared_errors(found: Latents, expected: Latents) -> Latents:
  """Mean squared error of every unit: video and audio [I, ...] -> [I]."""

  def error(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(a - b).reshape(a.shape[0], -1), axis=1)

  return jax.tree.map(error, found, expected)


class TextScores(NamedTuple):
  """Scores of a crop's text slots. Slots that do not exist have scores too, which are not used."""

  nll: Float32[Array, "K n"]  # negative log-likelihood in nats
  correct: Bool[Array, "K n"]  # whether the token is the most likely one
  log_z: Float32[Array, "K n"]  # log of the logits' normaliser
  log_words: Float32[Array, "K n"] | None  # the same over all tokens but PAD; None unless `train` weighs words


def text_scores(streamer: WanStreamer, hidden: Float[Array, "K n D"], text: Int[Array, "K n"]) -> TextScores:
  """hidden: as in `Predictions.text`.

  Slots are computed one after the other, and again for the gradient: the logits of a minute's slots over 152k tokens
  take 0.7 GB per copy.
  """
  train, pad = streamer.config.train, streamer.config.model.pad

  def slot(inputs: tuple[jax.Array, jax.Array]) -> TextScores:
    logits = constrain(streamer.logits(constrain(inputs[0], CONTEXT)), CONTEXT)  # [K, V]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, inputs[1][:, None], axis=-1)[:, 0]
    log_words = jax.nn.logsumexp(logits.at[:, pad].set(-jnp.inf), axis=-1) if train.weighs_words else None
    return TextScores(log_z - chosen, jnp.argmax(logits, axis=-1) == inputs[1], log_z, log_words)

  by_slot = jax.lax.map(jax.checkpoint(slot), (hidden.swapaxes(0, 1), text.T))  # [n, K]
  return jax.tree.map(jnp.transpose, by_slot)


def onsets(text: Int[Array, "K n"], pad: int) -> Bool[Array, "K"]:
  """Units with text that follow a unit without text. pad: the id of PAD."""
  written = text[:, 0] != pad
  return written & ~jnp.concatenate([jnp.zeros(1, bool), written[:-1]])
