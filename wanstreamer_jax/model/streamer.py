"""WanStreamer joins perception, tokens, Transformer and heads. `rollout.py` and `teacher_forcing.py` run it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int

from wanstreamer_jax.config import POSITIONS_PER_UNIT, Config
from wanstreamer_jax.model.attention import AttentionFn, cached_attention
from wanstreamer_jax.model.heads import Heads
from wanstreamer_jax.model.readouts import make_readouts
from wanstreamer_jax.model.tokens import Content, Past, Tokens, pack_world
from wanstreamer_jax.model.transformer import Transformer
from wanstreamer_jax.model.ulysses import CONTEXT, locally
from wanstreamer_jax.parallel.mesh import axis_size
from wanstreamer_jax.perception.make import make_hearing, make_seeing
from wanstreamer_jax.units import NO_FLOW_TIME, Coords, Dynamic, build_layout


class WorldArrays(NamedTuple):
  """WORLD of one session. text: int32 [world_text], PAD-filled; portrait: [h, w, Z]; voice: [voice_units * A, Z]."""

  text: jax.Array
  portrait: jax.Array
  portrait_valid: jax.Array  # bool
  voice: jax.Array
  voice_valid: jax.Array  # bool

  def anchor(self, config: Config) -> Float[Array, "h w Z"] | None:
    """The portrait's latents for `tokens.Reference`; zeros where there is none, None without `flow.anchor`."""
    return jnp.where(self.portrait_valid, self.portrait, 0.0) if config.flow.anchor else None

  @classmethod
  def empty(cls, config: Config) -> "WorldArrays":
    """A world without persona, portrait and voice: everything is invalid."""
    no = jnp.zeros((), bool)
    portrait = jnp.zeros((config.latent_height, config.latent_width, config.video_codec.latent_dim))
    voice = jnp.zeros((config.layout.voice_units * config.audio_latents, config.audio_codec.latent_dim))
    return cls(jnp.full(config.layout.world_text, config.model.pad, jnp.int32), portrait, no, voice, no)


class UserTokens(NamedTuple):
  """The perceived unit of a user: tokens audio [Ta, D], video [Tv, D]; text ids [m]; and which of them exist."""

  audio: jax.Array
  video: jax.Array
  text: jax.Array
  audio_valid: jax.Array  # bool
  video_valid: jax.Array  # bool


class UnitHistory(NamedTuple):
  """The agent's own past that one unit sees."""

  commit: Past  # unit k - commit_delay
  previous: Past  # unit k - 1, for REFEED and `flow.carry`


class WanStreamer(nnx.Module):
  """One Transformer that hears, sees, reads, and answers with text, speech and video (arXiv 2606.25041)."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    self.hear = make_hearing(config, rngs=rngs)
    self.see = make_seeing(config, rngs=rngs)
    self.tokens = Tokens(config, rngs=rngs)
    self.transformer = Transformer(config, rngs=rngs)
    self.heads = Heads(config, rngs=rngs)
    self.readouts = make_readouts(config, rngs=rngs)  # of training; the last, so that the others begin as without them
    self.config = config

  def perceive(
    self, audio: Float[Array, "S"], video: Float[Array, "K frames H W 3"], state: Any
  ) -> tuple[Float[Array, "K Ta D"], Float[Array, "K Tv D"], Any]:
    """Audio [K * samples] and video of K units -> their tokens, and the state after them."""

    def local(encoders, audio, video, state):
      hear, see = encoders
      audio, state = hear(audio, state)
      return audio, jax.vmap(see)(video), state

    # On a mesh every device encodes all of the audio, which is one stream, and the video of its share of the units.
    whole, units = PartitionSpec(), PartitionSpec(CONTEXT if video.shape[0] % axis_size(CONTEXT) == 0 else None)
    with jax.named_scope("perceive"):
      return locally(local, whole, units, whole)((self.hear, self.see), audio, video, state)

  def logits(self, hidden: Float[Array, "*T D"]) -> Float32[Array, "*T V"]:
    """Hidden states of STATE and TEXT tokens -> logits of the token that follows each."""
    return self.heads.logits(self.transformer.final_norm(hidden), self.tokens.embedding[...])

  def world(self, world: WorldArrays) -> tuple[Float[Array, "T D"], Coords]:
    """WORLD as tokens and coordinates; the ordinals of its text are below 0."""
    valid = world.text != self.config.model.pad
    ordinal = jnp.cumsum(valid) - 1 - jnp.sum(valid)  # -n, ..., -1 for n tokens
    content = {
      "world_text": self.tokens.text("world_text", world.text, valid, ordinal),
      "portrait": self.tokens.portrait(world.portrait, world.portrait_valid),
      "voice": self.tokens.voice(world.voice, world.voice_valid),
    }
    return pack_world(build_layout(self.config), content, self.config.model.width)

  def commit_content(self, history: UnitHistory) -> dict[str, Content]:
    """Content of COMMIT."""
    return self.tokens.history("commit", history.commit)

  def refeed_content(self, history: UnitHistory) -> dict[str, Content]:
    """Content of REFEED."""
    return self.tokens.history("refeed", history.previous)

  def user_content(self, user: UserTokens, text_tokens: Int[Array, ""]) -> tuple[dict[str, Content], Int[Array, ""]]:
    """Content of HEAR and STATE. text_tokens: text tokens of the session so far. -> (content, text tokens after it)."""
    typed = user.text != self.config.model.pad
    ordinal = text_tokens + jnp.cumsum(typed) - 1
    text_tokens = text_tokens + jnp.sum(typed)
    content = {
      "user_text": self.tokens.text("user_text", user.text, typed, ordinal),
      "user_video": self.tokens.kind("user_video", user.video, Dynamic(user.video_valid)),
      "user_audio": self.tokens.kind("user_audio", user.audio, Dynamic(user.audio_valid)),
      "state": self.tokens.state_token(text_tokens - 1),
    }
    return content, text_tokens

  def text_content(
    self, ids: Int[Array, "slots"], valid: Bool[Array, "slots"], text_tokens: Int[Array, ""]
  ) -> tuple[Content, Int[Array, ""]]:
    """Content of TEXT slots; PAD repeats the last ordinal. text_tokens: as for `user_content`."""
    written = valid & (ids != self.config.model.pad)
    content = self.tokens.text("text", ids, valid, text_tokens + jnp.cumsum(written) - 1)
    return content, text_tokens + jnp.sum(written)


def text_only_logits(
  streamer: WanStreamer, ids: Int[Array, "T"], attention: AttentionFn | None = None
) -> Float32[Array, "T V"]:
  """The streamer as the language model that it was initialised from.

  Text alone, one block per token, t = h = w = the token's index: ordinary causal attention and ordinary RoPE.
  attention: any causal attention, for cases where that of a unit's step is too slow.
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
  hidden, _ = streamer.transformer(x, coords, attention or cached_attention(coords, [], [], None, 0))
  return streamer.logits(hidden)
