"""Embeds text ids, latents and perceived units as tokens and gives them coordinates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from wanstreamer_jax.config import Config
from wanstreamer_jax.nn.blocks import Linear
from wanstreamer_jax.nn.folding import space_to_depth
from wanstreamer_jax.units import Coords, Dynamic, Layout, Segment, unit_coords, world_coords

LANGUAGE = ("user_text", "state", "text", "world_text")  # kinds whose initial tokens are a language model's inputs
KINDS = (
  "commit_video", "commit_audio", "user_video", "user_audio", "refeed_video", "refeed_audio", "noisy_video",
  "noisy_audio", "portrait", "voice", *LANGUAGE,
)  # fmt: skip


class Content(NamedTuple):
  """The content of a segment: tokens [T, D], and coordinates that are known only at run time."""

  tokens: jax.Array
  dynamic: Dynamic


class Latents(NamedTuple):
  """The agent's latents of one unit. video: [h, w, Z]; audio: [A, Z]."""

  video: jax.Array
  audio: jax.Array


class Past(NamedTuple):
  """Latents of a finished unit, as a later unit sees them. flow_time: scalar, 0 is clean; valid: bool [2]
  (video, audio)."""

  latents: Latents
  flow_time: jax.Array
  valid: jax.Array

  @classmethod
  def clean(cls, latents: Latents, valid: jax.Array) -> "Past":
    """Past with clean latents; any leading axes."""
    return cls(latents, jnp.zeros(valid.shape[:-1]), valid)

  @property
  def carried(self) -> Float[Array, "*U h w Z"]:
    """The video latents, whose mean is the clean ones; zeros where they do not exist. Training's noised history holds
    only (1 - flow_time) of them: a head that learned from that would make its own pictures ever richer in contrast."""
    scale = self.valid[..., 0] / (1 - self.flow_time)
    return self.latents.video * scale[..., None, None, None]


class Reference(NamedTuple):
  """Video latents [h, w, Z] that a unit's picture resembles, at the same places."""

  previous: jax.Array  # of unit k - 1, for `flow.carry`; before the first the portrait's, zeros without `flow.anchor`
  portrait: jax.Array | None  # zeros where there is none; None without `flow.anchor`

  @classmethod
  def of(cls, previous: Past, portrait: Float[Array, "h w Z"] | None) -> "Reference":
    """The references of a unit."""
    known = previous.carried
    return cls(known if portrait is None else jnp.where(previous.valid[0], known, portrait), portrait)


def patchify(latents: Float[Array, "h w Z"], side: int) -> Float[Array, "RQ P"]:
  """[h, w, Z] -> [R * Q, side * side * Z]; borders are padded with zeros to whole patches."""
  patches = space_to_depth(latents, side)  # [R, Q, P], P = side * side * Z
  return patches.reshape(-1, patches.shape[-1])


class Tokens(nnx.Module):
  """Embedding tables and input projections of every kind of token."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    width, layout = config.model.width, config.layout
    patch = layout.patch**2 * config.video_codec.latent_dim
    normal = lambda *shape: jax.random.normal(rngs.params(), shape) * width**-0.5
    self.embedding = nnx.Param(normal(config.model.vocab, width))
    self.state = nnx.Param(normal(1, width))
    # As large as the embeddings that they are added to.
    signs = jax.random.normal(rngs.params(), (len(KINDS) - len(LANGUAGE), width))
    self.kinds = nnx.Param(jnp.concatenate([signs, jnp.zeros((len(LANGUAGE), width))]))
    # COMMIT has its own projections, since its latents are clean and its patches may be coarser. REFEED shows the same
    # clean latents at the noisy patch size, and shares the noisy video's.
    self.video_in = Linear(patch, width, rngs=rngs)
    self.commit_in = Linear(patch * layout.commit_patch**2, width, rngs=rngs)
    self.audio_in = Linear(config.audio_codec.latent_dim, width, rngs=rngs)
    self.history_audio_in = Linear(config.audio_codec.latent_dim, width, rngs=rngs)
    self.carry_in = Linear(patch, width, rngs=rngs, scale=0.0) if config.flow.carry else None
    self.anchor_in = Linear(patch, width, rngs=rngs, scale=0.0) if config.flow.anchor else None
    self.config = config

  def kind(self, name: str, tokens: Float[Array, "T D"], dynamic: Dynamic) -> Content:
    """Adds the kind's embedding, so that the same content in another role is a different token."""
    return Content(tokens + self.kinds[KINDS.index(name)].astype(tokens.dtype), dynamic)

  def text(self, name: str, ids: Int[Array, "T"], valid: Bool[Array, "T"], ordinal: Int[Array, "T"]) -> Content:
    """Text ids of a text segment."""
    return self.kind(name, self.embedding[ids], Dynamic(valid, None, ordinal))

  def state_token(self, ordinal: Int[Array, ""]) -> Content:
    """The learned STATE token; it repeats the ordinal of the session's last word."""
    return self.kind("state", self.state[...], Dynamic(None, None, ordinal[None]))

  def history(self, prefix: str, past: Past) -> dict[str, Content]:
    """Makes COMMIT ("commit") or REFEED ("refeed") tokens of a past unit."""
    side = self.config.layout.patch
    if prefix == "commit":
      video = self.commit_in(patchify(past.latents.video, side * self.config.layout.commit_patch))
    else:
      video = self.video_in(patchify(past.latents.video, side))
    audio = self.history_audio_in(past.latents.audio)
    return {
      f"{prefix}_video": self.kind(f"{prefix}_video", video, Dynamic(past.valid[0], past.flow_time)),
      f"{prefix}_audio": self.kind(f"{prefix}_audio", audio, Dynamic(past.valid[1], past.flow_time)),
    }

  def reference(self, reference: Reference) -> Float[Array, "RQ D"]:
    """What noisy video tokens see of what their unit's picture resembles; the same at every flow time."""
    patch = self.config.layout.patch
    seen = jnp.zeros((1, self.config.model.width))
    if self.carry_in is not None:
      seen += self.carry_in(patchify(reference.previous, patch))
    if self.anchor_in is not None and reference.portrait is not None:
      seen += self.anchor_in(patchify(reference.portrait, patch))
    return seen

  def noisy(self, latents: Latents, tau: Float[Array, ""], seen: Float[Array, "RQ D"]) -> dict[str, Content]:
    """Noisy latents at flow time tau as PERFORM tokens. seen: of `reference`."""
    video = self.video_in(patchify(latents.video, self.config.layout.patch)) + seen
    return {
      "noisy_video": self.kind("noisy_video", video, Dynamic(None, tau)),
      "noisy_audio": self.kind("noisy_audio", self.audio_in(latents.audio), Dynamic(None, tau)),
    }

  def portrait(self, latent: Float[Array, "h w Z"], valid: Bool[Array, ""]) -> Content:
    """The portrait's first-frame latent, at the commit patch size."""
    side = self.config.layout.patch * self.config.layout.commit_patch
    return self.kind("portrait", self.commit_in(patchify(latent, side)), Dynamic(valid, jnp.zeros(())))

  def voice(self, latents: Float[Array, "A Z"], valid: Bool[Array, ""]) -> Content:
    """Tokens of the voice sample's latents, of all its units."""
    return self.kind("voice", self.history_audio_in(latents), Dynamic(valid, jnp.zeros(())))


def pack(
  layout: Layout, segments: tuple[Segment, ...], unit: jax.Array, content: dict[str, Content]
) -> tuple[Float[Array, "T D"], Coords]:
  """The tokens and coordinates of some segments of unit `unit`."""
  tokens = jnp.concatenate([content[segment.name].tokens for segment in segments])
  return tokens, unit_coords(layout, segments, unit, {name: c.dynamic for name, c in content.items()})


def pack_world(layout: Layout, content: dict[str, Content], width: int) -> tuple[Float[Array, "T D"], Coords]:
  """The tokens and coordinates of WORLD (T may be 0)."""
  tokens = [content[segment.name].tokens for segment in layout.world]
  dynamic = {name: c.dynamic for name, c in content.items()}
  return jnp.concatenate([*tokens, jnp.zeros((0, width))]), world_coords(layout, dynamic)


def text_valid(ids: Int[Array, "*K n"], pad: int) -> Bool[Array, "*K n"]:
  """Which text slots of a unit exist: all up to and including the first PAD, whose id is `pad`."""
  pads = jnp.cumsum(ids == pad, axis=-1)  # up to and including the slot
  return pads - (ids == pad) == 0  # none before it
