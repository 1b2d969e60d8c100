"""WanStreamer: perception, tokens, Transformer and heads, composed; and the teacher-forced pass that trains them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from wanstreamer_jax.config import POSITIONS_PER_UNIT, Config
from wanstreamer_jax.model.attention import AttentionFn, cached_attention
from wanstreamer_jax.model.heads import Heads
from wanstreamer_jax.model.tokens import PAD, Content, Latents, Tokens, pack, pack_world, text_valid
from wanstreamer_jax.model.transformer import Transformer
from wanstreamer_jax.model.ulysses import CONTEXT, Shares, check_devices, locally, training_mixer
from wanstreamer_jax.parallel.mesh import axis_size, constrain
from wanstreamer_jax.perception.audio import AudioEncoder, AudioState
from wanstreamer_jax.perception.video import VideoEncoder
from wanstreamer_jax.units import (
  CLEAN_PHASES,
  EPHEMERAL_PHASES,
  NO_FLOW_TIME,
  PERFORM,
  STATE,
  TEXT,
  Coords,
  Dynamic,
  build_layout,
)


class WorldArrays(NamedTuple):
  """WORLD of one session. text: int32 [world_text], PAD-filled; portrait: [h, w, Z]; voice: [voice_units * A, Z]."""

  text: jax.Array
  portrait: jax.Array
  portrait_valid: jax.Array  # bool
  voice: jax.Array
  voice_valid: jax.Array  # bool

  @classmethod
  def empty(cls, config: Config) -> "WorldArrays":
    """No persona, no portrait, no voice: everything invalid."""
    no = jnp.zeros((), bool)
    portrait = jnp.zeros((config.latent_height, config.latent_width, config.video_vae.latent_dim))
    voice = jnp.zeros((config.layout.voice_units * config.audio_latents, config.audio_vae.latent_dim))
    return cls(jnp.full(config.layout.world_text, PAD, jnp.int32), portrait, no, voice, no)


class UserTokens(NamedTuple):
  """What the user did in one unit, perceived: tokens audio [Ta, D], video [Tv, D]; text ids [m]; which exist."""

  audio: jax.Array
  video: jax.Array
  text: jax.Array
  audio_valid: jax.Array  # bool
  video_valid: jax.Array  # bool


class History(NamedTuple):
  """The agent's own past, as a unit is shown it. flow_time: scalars; valid: bool [2] (video, audio)."""

  commit: Latents  # of unit k - commit_delay
  commit_flow_time: jax.Array
  commit_valid: jax.Array
  previous: Latents  # of unit k - 1, for REFEED
  previous_flow_time: jax.Array
  previous_valid: jax.Array


class Predictions(NamedTuple):
  """Teacher-forced outputs. text: hidden states [K, n, D] whose `logits` predict the n text slots; velocity: Latents of
  the units with a noisy copy."""

  text: jax.Array
  velocity: Latents


class WanStreamer(nnx.Module):
  """One Transformer that hears, sees, reads, and answers with text, speech and video (arXiv 2606.25041)."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    self.hear = AudioEncoder(config, rngs=rngs)
    self.see = VideoEncoder(config, rngs=rngs)
    self.tokens = Tokens(config, rngs=rngs)
    self.transformer = Transformer(config, rngs=rngs)
    self.heads = Heads(config, rngs=rngs)
    self.config = config

  def perceive(self, audio: jax.Array, video: jax.Array, state: AudioState) -> tuple[jax.Array, jax.Array, AudioState]:
    """audio [K * samples], video [K, frames, H, W, 3] -> tokens [K, Ta, D], [K, Tv, D], and the state after them."""

    def local(modules, audio, video, state):
      hear, see = modules
      heard, state = hear(audio, state)
      return heard, jax.vmap(see)(video), state

    whole, units = PartitionSpec(), PartitionSpec(CONTEXT if video.shape[0] % axis_size(CONTEXT) == 0 else None)
    with jax.named_scope("perceive"):
      return locally(local, whole, units, whole)((self.hear, self.see), audio, video, state)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Hidden states [..., D] of STATE and TEXT tokens -> float32 [..., V]."""
    return self.heads.logits(self.transformer.final_norm(hidden), self.tokens.embedding[...])

  def world(self, world: WorldArrays) -> tuple[jax.Array, Coords]:
    """WORLD as tokens [T, D] and coordinates; its words have the ordinals below 0."""
    valid = world.text != PAD
    ordinal = jnp.cumsum(valid) - 1 - jnp.sum(valid)
    content = {
      "world_text": self.tokens.text("world_text", world.text, valid, ordinal),
      "portrait": self.tokens.portrait(world.portrait, world.portrait_valid),
      "voice": self.tokens.voice(world.voice, world.voice_valid),
    }
    return pack_world(build_layout(self.config), content, self.config.model.width)

  def committing(self, history: History) -> dict[str, Content]:
    """Content of COMMIT."""
    return self.tokens.history("commit", history.commit, history.commit_flow_time, history.commit_valid)

  def hearing(self, heard: UserTokens, words: jax.Array) -> tuple[dict[str, Content], jax.Array]:
    """Content of HEAR and STATE. words: how many words the session had. -> (content, words after them)."""
    t, content = self.tokens, {}
    typed = heard.text != PAD
    ordinal = words + jnp.cumsum(typed) - 1
    words = words + jnp.sum(typed)
    content["user_text"] = t.text("user_text", heard.text, typed, ordinal)
    content["user_video"] = t.kind("user_video", heard.video, Dynamic(heard.video_valid))
    content["user_audio"] = t.kind("user_audio", heard.audio, Dynamic(heard.audio_valid))
    content["state"] = t.state_token(words - 1)
    return content, words

  def speaking(self, ids: jax.Array, valid: jax.Array, words: jax.Array) -> tuple[Content, jax.Array]:
    """Content of TEXT slots. ids, valid: [slots]; PAD repeats the last word's ordinal. -> (content, words after)."""
    spoken = valid & (ids != PAD)
    return self.tokens.text("text", ids, valid, words + jnp.cumsum(spoken) - 1), words + jnp.sum(spoken)

  def teacher_forced(
    self, world: WorldArrays, heard: UserTokens, history: History, text: jax.Array, noisy: Latents, tau: jax.Array,
    first_unit: jax.Array, first_word: jax.Array, picked: jax.Array | None = None, evicts: bool = True,
  ) -> Predictions:  # fmt: skip
    """One pass over [WORLD | clean units | ephemeral units] (the training path).

    heard, history have a leading K axis; text: int32 [K, n]; noisy, tau: [I, ...] of the units with a noisy copy;
    first_unit: the unit that the crop starts with (its past is unseen); first_word: the ordinal to start from; picked:
    int32 [I], ascending, which units have a noisy copy, one of each K / I consecutive ones, default all; evicts: False
    if the caller knows that no unit is so late that its session's past would have been evicted.
    """
    layout = build_layout(self.config)
    units, noisy_units = text.shape[0], tau.shape[0]
    check_devices(self.config.model.heads, units, noisy_units)
    clean, ephemeral = layout.phase(*CLEAN_PHASES), layout.phase(*EPHEMERAL_PHASES)

    def listening(words, inputs):
      k, heard, history, text = inputs
      content, words = self.hearing(heard, words)
      content |= self.committing(history)
      content["text"], words = self.speaking(text, text_valid(text), words)
      return pack(layout, clean, k, content)

    def performing(inputs):
      k, history, noisy, tau = inputs
      content = self.tokens.history("refeed", history.previous, history.previous_flow_time, history.previous_valid)
      return pack(layout, ephemeral, k, content | self.tokens.noisy(noisy, tau))

    numbers = first_unit + jnp.arange(units)
    counts = jnp.sum(heard.text != PAD, axis=1) + jnp.sum(text_valid(text) & (text != PAD), axis=1)
    before = first_word + jnp.cumsum(counts) - counts
    split = lambda tree: jax.tree.map(lambda x: constrain(x, CONTEXT), tree)
    x, coords = jax.vmap(listening)(before, split((numbers, heard, history, text)))
    late, late_coords = jax.vmap(performing)(split((*pick_units((numbers, history), picked), noisy, tau)))
    world_x, world_coords = self.world(world)
    world_x = constrain(world_x, None)  # it need not divide, and XLA breaks on lookups that do not
    flat = lambda tree: jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)
    parts, all_coords = (world_x, flat(x), flat(late)), (world_coords, flat(coords), flat(late_coords))
    shares = Shares(axis_size(CONTEXT), tuple(part.shape[0] for part in parts))
    clean_coords = Coords.concatenate(*all_coords[:2])
    mixer = training_mixer(self.config, clean_coords, all_coords[2], shares, evicts)
    hidden, _ = self.transformer(shares.deal(*parts), shares.deal(*all_coords), mixer)
    _, hidden, late_hidden = shares.collect(hidden)
    by_unit, late_by_unit = hidden.reshape(units, layout.clean_tokens, -1), late_hidden.reshape(*late.shape)
    return self._predictions(by_unit, late_by_unit, noisy, tau)

  def _predictions(self, clean: jax.Array, late: jax.Array, noisy: Latents, tau: jax.Array) -> Predictions:
    """Hidden states of clean [K, T, D] and of ephemeral units -> those of the text slots, and velocities."""
    layout = build_layout(self.config)
    speaking = clean[:, layout.clean_tokens - layout.tokens(STATE, TEXT) : -1]  # the last slot predicts nothing
    performing = late[:, layout.tokens(*EPHEMERAL_PHASES) - layout.tokens(PERFORM) :]
    velocity = jax.vmap(self.heads.velocity)(performing, noisy, tau)
    return Predictions(constrain(speaking, CONTEXT), velocity)


def pick_units(tree: Any, picked: jax.Array | None) -> Any:
  """Rows `picked` (int32 [I]) of arrays [K, ...]: one of each K / I consecutive ones, so that on a mesh none moves."""
  if picked is None or all(x.shape[0] == picked.shape[0] for x in jax.tree.leaves(tree)):
    return tree
  strides = lambda x: x.reshape(picked.shape[0], -1, *x.shape[1:])
  return jax.tree.map(lambda x: jax.vmap(lambda rows, i: rows[i % rows.shape[0]])(strides(x), picked), tree)


def text_only_logits(streamer: WanStreamer, ids: jax.Array, mixer: AttentionFn | None = None) -> jax.Array:
  """The streamer as the language model that it was initialised from: int32 [T] -> float32 [T, V].

  Text alone, one block per token, t = h = w = the token's index: ordinary causal attention and ordinary RoPE.
  mixer: any causal attention, where that of a unit's step is too slow.
  """
  tokens = ids.shape[0]
  index, exists = jnp.arange(tokens), jnp.ones(tokens, bool)
  coords = dataclasses.replace(
    Coords.empty(tokens),
    block=index,
    valid=exists,
    flow_time=jnp.full(tokens, NO_FLOW_TIME),
    position=jnp.repeat(POSITIONS_PER_UNIT * index[:, None], 3, axis=1),
  )
  x = streamer.tokens.text("text", ids, exists, index).tokens
  if mixer is None:
    hidden, _ = streamer.transformer(x, coords, cached_attention(coords, [], [], None, 0))
  else:
    hidden, _ = streamer.transformer(x, coords, mixer)
  return streamer.logits(hidden)
