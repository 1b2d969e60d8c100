"""The layout of a unit, the coordinates of a token, and the rule `visible`.

A session is a sequence of units (160 ms each). Unit k, in cache order (d = commit_delay, n = text_slots):

    block(s)                tokens                                                              scope
    COMMIT_k                clean agent video and audio latents of unit k-d; invalid while k<d  0
    HEAR_k                  user text of unit k, one block per token; then user video and audio 0
    STATE_k                 one learned token                                                   0
    TEXT_k,0..n-1           agent text, one block per token                                     0
    REFEED_k (optional)     clean latents of unit k-1 at the noisy patch size                   k+1
    PERFORM_k               noisy agent video and audio latents of unit k                       k+1

WORLD comes before unit 0 and is pinned. Scope 0 is committed; any other scope lives for one unit and is never cached.
Blocks are numbered by one increasing integer along this order. The rule (design section 3):

    visible(q, k) = k.valid and k.session == q.session and (k.pinned or q.unit - k.unit < window)
                    and (k.scope == 0 or k.scope == q.scope) and k.block <= q.block

Example: two units with one token per segment, no user text, n = 1, full history (rows are queries, columns keys, x =
sees; W world, C commit, H hear, S state, T text, P perform; C of unit 0 is invalid as a key):

         W  C0 H0 S0 T0 C1 H1 S1 T1 P0 P1
    W    x  .  .  .  .  .  .  .  .  .  .
    C0   x  .  .  .  .  .  .  .  .  .  .
    H0   x  .  x  .  .  .  .  .  .  .  .
    S0   x  .  x  x  .  .  .  .  .  .  .
    T0   x  .  x  x  x  .  .  .  .  .  .
    C1   x  .  x  x  x  x  .  .  .  .  .
    H1   x  .  x  x  x  x  x  .  .  .  .
    S1   x  .  x  x  x  x  x  x  .  .  .
    T1   x  .  x  x  x  x  x  x  x  .  .
    P0   x  .  x  x  x  .  .  .  .  x  .
    P1   x  .  x  x  x  x  x  x  x  .  x

Scheduling decides which consecutive blocks share a forward pass; this never changes a number.

Every einsum and shape comment of the model uses these letters; files that need another letter define it:

    T query tokens      S key tokens        K units of a crop     E noisy tokens of a unit (REFEED, PERFORM)
    D model width       F MLP width         V vocabulary          L layers
    N query heads       M key/value heads   G = N / M             H head dimension
    A audio latents of a unit               Z latent channels     h, w rows and columns of a frame's latent
    R, Q rows and columns of patches        C channels of convolutions and conditions

There is no batch letter: every function handles one session, and `jax.vmap` makes the batch.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from wanstreamer_jax.config import POSITIONS_PER_UNIT, Config, LayoutConfig

WORLD = "WORLD"
COMMIT, HEAR, STATE, TEXT, REFEED, PERFORM = "COMMIT", "HEAR", "STATE", "TEXT", "REFEED", "PERFORM"
CLEAN_PHASES = (COMMIT, HEAR, STATE, TEXT)
NOISY_PHASES = (REFEED, PERFORM)
NO_FLOW_TIME = -1.0  # the flow time of tokens that are not latents


@functools.partial(jax.tree_util.register_dataclass, meta_fields=[], data_fields=[
  "session", "unit", "block", "scope", "valid", "pinned", "flow_time", "position",
])  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Coords:
  """The coordinates of tokens. Every field has shape [T] (`position` [T, 3]: t, h, w on the rotary grid)."""

  session: jax.Array  # int32
  unit: jax.Array  # int32, the unit whose pass writes the token; WORLD is -1
  block: jax.Array  # int32, increasing in cache order
  scope: jax.Array  # int32, 0 is committed, k + 1 lives for unit k only
  valid: jax.Array  # bool
  pinned: jax.Array  # bool
  flow_time: jax.Array  # float32, NO_FLOW_TIME unless the token is a latent
  position: jax.Array  # int32 [T, 3]

  def __getitem__(self, index: slice | jax.Array) -> "Coords":
    return jax.tree.map(lambda x: x[index], self)

  @classmethod
  def concatenate(cls, *parts: "Coords") -> "Coords":
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)

  @classmethod
  def empty(cls, tokens: int) -> "Coords":
    """Coordinates of `tokens` unused cache slots: invalid, so nobody sees them."""
    zeros = jnp.zeros(tokens, jnp.int32)
    no = jnp.zeros(tokens, bool)
    return cls(zeros, zeros, zeros, zeros, no, no, jnp.zeros(tokens), jnp.zeros((tokens, 3), jnp.int32))


def visible(query: Coords, key: Coords, window: int | None) -> Bool[Array, "T S"]:
  """The visibility rule. query: Coords [T], key: Coords [S]."""
  q = lambda x: x[:, None]
  k = lambda x: x[None, :]
  recent = True if window is None else k(key.pinned) | (q(query.unit) - k(key.unit) < window)
  same_scope = (k(key.scope) == 0) | (k(key.scope) == q(query.scope))
  same_session = k(key.session) == q(query.session)
  return k(key.valid) & same_session & recent & same_scope & (k(key.block) <= q(query.block))


def evicted(unit: Int[Array, "*T"], layout: LayoutConfig) -> Int[Array, "*T"]:
  """gap(k): the number of units between the pinned prefix and the oldest unit that unit k still sees."""
  if layout.window is None:
    return jnp.zeros_like(unit)
  return jnp.maximum(0, unit - layout.window + 1 - layout.sinks)


@dataclasses.dataclass(frozen=True)
class Segment:
  """Consecutive tokens of one kind inside a unit (or WORLD). All per-token fields are tuples of length `tokens`."""

  name: str
  phase: str
  positions: tuple[tuple[int, int, int], ...]  # offsets to the time of the content; text has (t, 0, 0)
  delay: int = 0  # the content is of unit k - delay
  text: bool = False  # h and w are the ordinal of the token among the session's text tokens
  axes: tuple[int, int, int] = (1, 0, 0)  # which of t, h and w advance with time
  rate: int = POSITIONS_PER_UNIT  # how far they advance per unit
  blocks: tuple[int, ...] = ()  # numbered from the start of the unit; given by `_Blocks`

  @property
  def tokens(self) -> int:
    return len(self.positions)

  def token(self, index: int) -> "Segment":
    """A segment that holds only one token of this segment."""
    cut = slice(index, index + 1)
    return dataclasses.replace(self, blocks=self.blocks[cut], positions=self.positions[cut])

  @property
  def noisy(self) -> bool:
    """Whether its tokens are visible only within their unit."""
    return self.phase in NOISY_PHASES


@dataclasses.dataclass(frozen=True)
class Layout:
  """A whole layout as a value: the segments of a unit in cache order, and those of WORLD."""

  unit: tuple[Segment, ...]
  world: tuple[Segment, ...]
  blocks_per_unit: int
  config: LayoutConfig
  ids_per_unit: tuple[int, int, int] = (POSITIONS_PER_UNIT, 0, 0)  # how far the ids (t, h, w) advance per unit

  def phase(self, *phases: str) -> tuple[Segment, ...]:
    return tuple(segment for segment in self.unit if segment.phase in phases)

  def tokens(self, *phases: str) -> int:
    return sum(segment.tokens for segment in self.phase(*phases))

  @property
  def clean_tokens(self) -> int:
    """Tokens that a unit leaves in the KV-cache."""
    return self.tokens(*CLEAN_PHASES)

  @property
  def world_tokens(self) -> int:
    return sum(segment.tokens for segment in self.world)

  @property
  def pinned_tokens(self) -> int:
    """Length of the cache prefix that is never evicted: WORLD and the sink units."""
    return self.world_tokens + self.config.sinks * self.clean_tokens

  def cache_tokens(self, units: int) -> int:
    """Capacity of a cache that holds WORLD, the sinks and a ring of `units` units."""
    return self.pinned_tokens + units * self.clean_tokens

  def first_index(self, unit: jax.Array, ring: int) -> jax.Array:
    """First cache index of a unit. Sink units keep their place; later units use a ring of `ring` slots."""
    sinks = self.config.sinks
    index = jnp.where(unit < sinks, unit, sinks + (unit - sinks) % ring)
    return self.world_tokens + index * self.clean_tokens


def _grid(rows: int, columns: int, side: float | tuple[float, float], t: int = 0) -> tuple[tuple[int, int, int], ...]:
  """Positions of a grid of patches whose sides (height and width) are `side` noisy patches, on the rotary grid."""
  height, width = side if isinstance(side, tuple) else (side, side)
  down, right = POSITIONS_PER_UNIT * height, POSITIONS_PER_UNIT * width
  return tuple((t, round(row * down), round(column * right)) for row in range(rows) for column in range(columns))


def _line(tokens: int, units: int = 1) -> tuple[tuple[int, int, int], ...]:
  """Positions of `tokens` tokens spread evenly over `units` units (audio: h = w = 0)."""
  return tuple((i * POSITIONS_PER_UNIT * units // tokens, 0, 0) for i in range(tokens))


def _slots(tokens: int) -> tuple[tuple[int, int, int], ...]:
  """Text slots: the time of slot j is min(j, 3) quarter units."""
  return tuple((min(j, POSITIONS_PER_UNIT - 1), 0, 0) for j in range(tokens))


class _Blocks:
  """Puts segments into cache order and numbers their blocks. Segments without tokens are left out."""

  def __init__(self) -> None:
    self.segments: list[Segment] = []
    self.next = 0  # block

  def _append(self, segment: Segment, blocks: tuple[int, ...]) -> None:
    self.segments.append(dataclasses.replace(segment, blocks=blocks))
    self.next = blocks[-1] + 1

  def together(self, *segments: Segment) -> None:
    """One bidirectional block over several segments."""
    block = self.next
    for segment in segments:
      if segment.tokens:
        self._append(segment, (block,) * segment.tokens)

  def apart(self, *segments: Segment) -> None:
    """One bidirectional block per segment."""
    for segment in segments:
      self.together(segment)

  def each_token(self, *segments: Segment) -> None:
    """One block per token."""
    for segment in segments:
      if segment.tokens:
        self._append(segment, tuple(range(self.next, self.next + segment.tokens)))


@functools.cache
def build_layout(config: Config) -> Layout:
  """The layout of a frozen config. Ablations are other values of `config.layout`, never branches in the model."""
  layout, blocks = config.layout, _Blocks()
  video, audio = _grid(*config.noisy_grid, 1), _line(config.audio_latents)
  commit_video = _grid(*config.commit_grid, layout.commit_patch)
  height, width = config.user_video_sides
  user_side = (height / config.noisy_side, width / config.noisy_side)  # both sides' frames cover the same square
  user_video = _grid(*config.user_video_grid, user_side) if layout.user_video else ()
  media = blocks.apart if layout.split_modalities else blocks.together

  if layout.committed_history:
    media(
      Segment("commit_video", COMMIT, commit_video, delay=layout.commit_delay),
      Segment("commit_audio", COMMIT, audio, delay=layout.commit_delay),
    )
  blocks.each_token(Segment("user_text", HEAR, _slots(layout.user_text_slots), text=True))
  hear = blocks.each_token if layout.token_causal_hear else media
  hear(Segment("user_video", HEAR, user_video), Segment("user_audio", HEAR, _line(config.perception.audio_tokens)))
  blocks.each_token(Segment("state", STATE, ((0, 0, 0),), text=True))
  blocks.each_token(Segment("text", TEXT, _slots(layout.text_slots), text=True))
  if layout.needs_refeed:
    media(Segment("refeed_video", REFEED, video, delay=1), Segment("refeed_audio", REFEED, audio, delay=1))
  perform = [Segment("noisy_video", PERFORM, video), Segment("noisy_audio", PERFORM, audio)]
  media(*(reversed(perform) if layout.split_modalities else perform))  # as separate blocks, video can depend on audio

  segments, advance = blocks.segments, (POSITIONS_PER_UNIT, 0, 0)
  if layout.rope == "ordinal":
    segments = _ordinal(segments)
    advance = (segments[0].rate,) * 3
  return Layout(tuple(segments), _world(config), blocks.next, layout, advance)


def _ordinal(segments: list[Segment]) -> list[Segment]:
  """The `rope = ordinal` ablation: all axes count tokens, in cache order, instead of giving time and place."""
  total, index, out = sum(segment.tokens for segment in segments), 0, []
  for segment in segments:
    positions = tuple((i, i, i) for i in range(index, index + segment.tokens))
    index += segment.tokens
    out.append(dataclasses.replace(segment, positions=positions, delay=0, text=False, axes=(1, 1, 1), rate=total))
  return out


def _world(config: Config) -> tuple[Segment, ...]:
  """WORLD: text (one block per token), portrait, voice sample. Block numbers are below 0, and so are the ids."""
  layout, blocks = config.layout, _Blocks()
  portrait = _grid(*config.commit_grid, layout.commit_patch, t=-POSITIONS_PER_UNIT) if layout.portrait else ()
  latents = layout.voice_units * config.audio_latents
  start = -POSITIONS_PER_UNIT * (layout.voice_units + 1)  # the voice ends where the portrait's time begins
  voice = tuple((start + t, 0, 0) for t, _, _ in _line(latents, layout.voice_units)) if latents else ()
  blocks.each_token(Segment("world_text", WORLD, ((0, 0, 0),) * layout.world_text, text=True))
  blocks.apart(Segment("portrait", WORLD, portrait), Segment("voice", WORLD, voice))

  def below_zero(segment: Segment) -> Segment:
    return dataclasses.replace(segment, blocks=tuple(block - blocks.next for block in segment.blocks))

  return tuple(map(below_zero, blocks.segments))


def segment_slices(segments: tuple[Segment, ...]) -> dict[str, slice]:
  """The slice of each segment in the concatenation of `segments`."""
  out, start = {}, 0
  for segment in segments:
    out[segment.name] = slice(start, start + segment.tokens)
    start += segment.tokens
  return out


@dataclasses.dataclass(frozen=True)
class Dynamic:
  """Facts about a segment that are known only at run time. Shapes [tokens]; None: all valid, no flow time, no text."""

  valid: jax.Array | None = None
  flow_time: jax.Array | None = None
  ordinal: jax.Array | None = None  # index among the session's text tokens; WORLD's are negative


def unit_coords(
  layout: Layout, segments: tuple[Segment, ...], unit: jax.Array, dynamic: dict[str, Dynamic], session: int = 0
) -> Coords:
  """Coordinates of some segments of unit `unit` (a traced int32 scalar). Segments without an entry are all valid."""
  tokens = sum(segment.tokens for segment in segments)
  blocks = jnp.asarray(np.concatenate([segment.blocks for segment in segments]), jnp.int32)
  noisy = np.concatenate([np.full(segment.tokens, segment.noisy) for segment in segments])
  return Coords(
    session=jnp.full(tokens, session, jnp.int32),
    unit=jnp.full(tokens, unit, jnp.int32),
    block=unit * layout.blocks_per_unit + blocks,
    scope=jnp.where(noisy, unit + 1, 0).astype(jnp.int32),
    valid=_gather(segments, dynamic, "valid", True, bool),
    pinned=jnp.broadcast_to(unit < layout.config.sinks, (tokens,)) & ~noisy,
    flow_time=_gather(segments, dynamic, "flow_time", NO_FLOW_TIME, jnp.float32),
    position=jnp.concatenate([_positions(s, unit, dynamic.get(s.name, Dynamic())) for s in segments]),
  )


def world_coords(layout: Layout, dynamic: dict[str, Dynamic], session: int = 0) -> Coords:
  """Coordinates of WORLD: unit -1, pinned, ids below 0. `world_text` needs negative ordinals."""
  tokens = layout.world_tokens
  blocks = np.concatenate([np.asarray(segment.blocks, np.int32) for segment in layout.world] or [np.zeros(0, np.int32)])
  start = jnp.zeros((), jnp.int32)
  positions = [_positions(s, start, dynamic.get(s.name, Dynamic())) for s in layout.world]
  return Coords(
    session=jnp.full(tokens, session, jnp.int32),
    unit=jnp.full(tokens, -1, jnp.int32),
    block=jnp.asarray(blocks),
    scope=jnp.zeros(tokens, jnp.int32),
    valid=_gather(layout.world, dynamic, "valid", True, bool),
    pinned=jnp.ones(tokens, bool),
    flow_time=_gather(layout.world, dynamic, "flow_time", NO_FLOW_TIME, jnp.float32),
    position=jnp.concatenate([*positions, jnp.zeros((0, 3), jnp.int32)]),
  )


def _gather(
  segments: tuple[Segment, ...], dynamic: dict[str, Dynamic], field: str, default: Any, dtype: Any
) -> jax.Array:
  """Concatenates one run-time field of all segments; the default stands in where it is not given."""
  parts = [jnp.zeros(0, dtype)]
  for segment in segments:
    value = getattr(dynamic.get(segment.name, Dynamic()), field)
    value = jnp.asarray(default if value is None else value, dtype)
    parts.append(jnp.broadcast_to(value, (segment.tokens,)))
  return jnp.concatenate(parts)


def _positions(segment: Segment, unit: Int[Array, ""], dynamic: Dynamic) -> Int[Array, "T 3"]:
  """Rotary ids of a segment in unit `unit`."""
  offsets = jnp.asarray(np.asarray(segment.positions, np.int32).reshape(-1, 3))
  ordinal = jnp.zeros(segment.tokens, jnp.int32) if dynamic.ordinal is None else dynamic.ordinal
  text_ids = POSITIONS_PER_UNIT * ordinal
  if segment.phase == WORLD:  # text has t = h = w, as in a language model
    return jnp.repeat(text_ids[:, None], 3, axis=1).astype(jnp.int32) if segment.text else offsets
  start = segment.rate * (unit - segment.delay)
  if not segment.text:
    return (offsets + start * jnp.asarray(segment.axes, jnp.int32)).astype(jnp.int32)
  return jnp.stack([start + offsets[:, 0], text_ids, text_ids], axis=1).astype(jnp.int32)
