"""The model unit by unit: perceive, commit, think, perform, render.

    step_unit(agent, state, user_unit) -> state, agent_unit

The state goes in and a new one comes out; nothing else is remembered. A rollout is `lax.scan` over this function, and
serving jits its five phases. There is no second decoding path. `teacher_forcing.py` is the same model over a whole crop
at once.

  perceive   raw user unit -> tokens                              (perception states advance)
  commit     COMMIT; may run before the user's unit is there      (appends its KV)
  think      HEAR + STATE, then the TEXT slots                    (appends their KV)
  perform    REFEED once, N solver steps over PERFORM             (reads the KV, and the last unit's latents)
  render     latents -> 4 frames + 3 840 samples                  (codec states advance)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from wanstreamer_jax.codecs.make import make_audio_codec, make_video_codec
from wanstreamer_jax.config import Config, ModelConfig
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.flow import Field, euler, guided, schedule
from wanstreamer_jax.model.attention import apart, cached_attention
from wanstreamer_jax.model.streamer import UnitHistory, UserTokens, WanStreamer, WorldArrays
from wanstreamer_jax.model.tokens import Latents, Past, Reference, pack, text_valid
from wanstreamer_jax.model.transformer import Cache, Pass, single_device
from wanstreamer_jax.nn.attention_parts import KeyValue
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.units import COMMIT, HEAR, PERFORM, REFEED, STATE, TEXT, Coords, Layout, build_layout


class Agent(nnx.Module):
  """The Transformer system and its two codecs: everything that a running session needs."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    self.streamer = WanStreamer(config, rngs=rngs)
    self.audio_codec = make_audio_codec(config.audio_codec, rngs=rngs)
    self.video_codec = make_video_codec(config.video_codec, rngs=rngs)
    self.config = config


def cast_layers_to_compute_dtype(agent: Agent) -> Agent:
  """Casts layers once to the dtype that they are cast to at every use: the same numbers from fewer bytes."""
  dtype, leaves = agent.config.model.dtype, named_leaves(agent)
  cast = ("streamer.transformer.layers.", "streamer.see.trunk.layers.")
  layers = {name: leaf.astype(dtype) for name, leaf in leaves.items() if name.startswith(cast)}
  return fill_leaves(agent, leaves | layers)


HostOrDevice = Any  # jax.Array, or np.ndarray on its way to the device


class UserUnit(NamedTuple):
  """What the user did in one unit. audio: [samples]; video: [frames, H, W, 3]; text: int32 [m], PAD-filled."""

  audio: HostOrDevice
  video: HostOrDevice
  text: HostOrDevice
  audio_valid: HostOrDevice  # bool: an absent stream is a value, not another program
  video_valid: HostOrDevice


class Sampling(NamedTuple):
  """How text and latents are sampled, as a request chose.

  times: float32 [flow.steps + 1], the solver's flow times; zeros at the end are steps that it does not take.
  """

  temperature: HostOrDevice  # of text; 0 is greedy
  pad_bias: HostOrDevice  # added to PAD's logit
  times: HostOrDevice
  guidance: HostOrDevice  # scale; 1 is none

  @classmethod
  def of(
    cls, config: Config, temperature: float = 0.0, pad_bias: float = 0.0, steps: int | None = None,
    guidance: float | None = None,
  ) -> "Sampling":  # fmt: skip
    """Made on the host. steps, guidance: None takes the config's value."""
    flow = config.flow
    scale = next(value for value in (guidance, flow.guidance, 1.0) if value is not None)
    times = schedule(steps or flow.steps, flow.shift, flow.steps)
    return cls(np.float32(temperature), np.float32(pad_bias), times, np.float32(scale))


class Unconditional(NamedTuple):
  """State of guidance's second branch, which sees the session without user and world."""

  text_tokens: jax.Array  # int32
  cache: Cache


class SessionState(NamedTuple):
  """Everything that one session remembers between units."""

  seed: jax.Array  # uint32 [2], the data of the session's random key: a saved session holds plain arrays
  unit: jax.Array  # int32, the number of the next unit; beyond 46 hours (`rotary.LAST_ID`) outputs are NaN
  made: jax.Array  # int32, how many units this session has made (unit - made is where its clock started)
  text_tokens: jax.Array  # int32, how many text tokens both sides had so far, without PAD
  cache: Cache
  unconditional: Unconditional | None  # with `flow.guidance`
  anchor: jax.Array | None  # the portrait's latents [h, w, Z], for `flow.anchor`
  past: Latents  # the last commit_delay units' latents, newest last: [d, h, w, Z], [d, A, Z]
  hearing: Any  # of the encoder that hears
  audio_decoder: Any
  video_decoder: Any
  sampling: Sampling


class AgentUnit(NamedTuple):
  """What the agent did in one unit. `trace` holds intermediate values, which jit prunes when they are unused."""

  audio: Float32[Array, "samples"]
  video: Float32[Array, "frames H W 3"]
  text: Int[Array, "n"]  # PAD-filled
  latents: Latents
  trace: dict[str, Any]


def ring_units(config: Config, capacity: int | None = None) -> int:
  """Unit slots of the ring: exactly the window, or `capacity` for a layout with full history."""
  window = config.layout.window
  if window is None and capacity is None:
    raise ConfigError("layout.window is None (full history): the cache needs a capacity, a session's length in units")
  return window if window is not None else int(capacity or 0)


def start_session(
  agent: Agent,
  key: jax.Array,
  world: WorldArrays,
  first_unit: int = 0,
  first_text_token: int = 0,
  *,
  capacity: int | None = None,
) -> SessionState:
  """The state before the first unit: WORLD prefilled once, codecs primed with the portrait or mid-grey.

  key: of the session's draws; first_unit, first_text_token: where the session's clocks start; capacity: ring size in
  units for full-history layouts.
  """
  config, delay = agent.config, agent.config.layout.commit_delay
  layout, text_tokens = build_layout(config), jnp.asarray(first_text_token, jnp.int32)
  empty = cache = Cache.empty(config.model, layout.cache_tokens(ring_units(config, capacity)))
  if layout.world_tokens:
    x, coords = agent.streamer.world(world)
    _, kv = agent.streamer.transformer(x, coords, cached_attention(coords, [], [], layout.config.window, 0))
    cache = cache.write(kv, coords, jnp.zeros((), jnp.int32))
  # The agent has made nothing yet: zeros, which COMMIT and REFEED mark as invalid (`_history`).
  video = jnp.zeros((delay, config.latent_height, config.latent_width, config.video_codec.latent_dim))
  return SessionState(
    seed=jax.random.key_data(key),
    unit=jnp.asarray(first_unit, jnp.int32),
    made=jnp.zeros((), jnp.int32),
    text_tokens=text_tokens,
    cache=cache,
    unconditional=None if config.flow.guidance is None else Unconditional(text_tokens, empty),
    anchor=world.anchor(config),
    past=Latents(video, jnp.zeros((delay, config.audio_latents, config.audio_codec.latent_dim))),
    hearing=agent.streamer.hear.initial_state(),
    audio_decoder=agent.audio_codec.decoder_state(),
    video_decoder=prime_video_decoder(agent, world),
    sampling=jax.tree.map(jnp.asarray, Sampling.of(config)),
  )


def prime_video_decoder(agent: Agent, world: WorldArrays) -> Any:
  """The video decoder's state after the portrait, or after a mid-grey frame where there is none."""
  media = agent.config.media
  grey = agent.video_codec.primed_decoder_state(media.height, media.width)
  if not agent.config.layout.portrait:
    return grey
  _, portrait = agent.video_codec.decode_first(world.portrait[None])
  return jax.tree.map(lambda a, b: jnp.where(world.portrait_valid, a, b), portrait, grey)


def perceive(agent: Agent, state: SessionState, user: UserUnit) -> tuple[UserTokens, SessionState]:
  """Raw user unit -> tokens."""
  audio, video, hearing = agent.streamer.perceive(user.audio, user.video[None], state.hearing)
  # The encoders take any number of units, K = 1 here.
  tokens = UserTokens(audio[0], video[0], user.text, user.audio_valid, user.video_valid)
  return tokens, state._replace(hearing=hearing)


def commit(agent: Agent, state: SessionState) -> SessionState:
  """Runs COMMIT of the next unit: the agent's latents enter its history. It needs no input of the user."""
  layout = build_layout(agent.config)
  segments = layout.phase(COMMIT)
  if not segments:
    return state
  with jax.named_scope("commit"):
    tokens = pack(layout, segments, state.unit, agent.streamer.commit_content(_history(state, layout)))
    if state.unconditional is not None:
      cache = _append(agent, state, state.unconditional.cache, *tokens, 0)[1]
      state = state._replace(unconditional=state.unconditional._replace(cache=cache))
    return state._replace(cache=_append(agent, state, state.cache, *tokens, 0)[1])


def think(
  agent: Agent, state: SessionState, user: UserTokens, forced_text: Int[Array, "n"] | None = None
) -> tuple[Int[Array, "n"], SessionState, dict[str, Any]]:
  """HEAR and STATE in one pass, then one pass per TEXT slot, after `commit`. -> (text, state, trace).

  forced_text replaces the choice of tokens (teacher forcing, and the tests of law 3); logits are those of the model.
  """
  layout, pad = build_layout(agent.config), agent.config.model.pad
  with jax.named_scope("think"):
    content, text_tokens = agent.streamer.user_content(user, state.text_tokens)
    tokens = pack(layout, layout.phase(HEAR, STATE), state.unit, content)
    hidden, cache = _append(agent, state, state.cache, *tokens, layout.tokens(COMMIT))
    logits, text, open_ = [agent.streamer.logits(hidden[-1:])[0]], [], jnp.ones((), bool)  # open: no PAD yet
    for slot in range(layout.config.text_slots):  # each pass writes the KV that the next one, and PERFORM, sees
      token = _choose(agent.config.model, state, logits[-1], slot) if forced_text is None else forced_text[slot]
      token = jnp.where(open_, token, pad)
      written, text_tokens = agent.streamer.text_content(token[None], open_[None], text_tokens)
      tokens = _text_slot(layout, state.unit, slot, written)
      offset, exists = layout.tokens(COMMIT, HEAR, STATE) + slot, open_ if slot else None
      hidden, cache = _append(agent, state, cache, *tokens, offset, exists)
      logits.append(agent.streamer.logits(hidden)[0])
      text.append(token)
      open_ = open_ & (token != pad)
    state = state._replace(cache=cache, text_tokens=text_tokens)
    if state.unconditional is not None:
      state = state._replace(unconditional=_think_unconditional(agent, state, user, jnp.stack(text)))
  return jnp.stack(text), state, {"logits": jnp.stack(logits[:-1])}


def _think_unconditional(agent: Agent, state: SessionState, user: UserTokens, text: jax.Array) -> Unconditional:
  """HEAR, STATE and TEXT of the unconditional branch in one pass, which has no user; the text is known."""
  assert state.unconditional is not None
  layout, (text_tokens, cache) = build_layout(agent.config), state.unconditional
  no = jnp.zeros((), bool)
  nothing = user._replace(text=jnp.full_like(user.text, agent.config.model.pad), audio_valid=no, video_valid=no)
  content, text_tokens = agent.streamer.user_content(nothing, text_tokens)
  content["text"], text_tokens = agent.streamer.text_content(
    text, text_valid(text, agent.config.model.pad), text_tokens
  )
  tokens = pack(layout, layout.phase(HEAR, STATE, TEXT), state.unit, content)
  return Unconditional(text_tokens, _append(agent, state, cache, *tokens, layout.tokens(COMMIT))[1])


def _text_slot(layout: Layout, unit: jax.Array, slot: int, content: Any) -> tuple[jax.Array, Coords]:
  """The token and coordinates of one TEXT slot."""
  (segment,) = layout.phase(TEXT)
  single = segment.token(slot)
  return pack(layout, (single,), unit, {single.name: content})


def _append(
  agent: Agent, state: SessionState, cache: Cache, x: jax.Array, coords: Coords, offset: int,
  exists: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:  # fmt: skip
  """Runs tokens against the cache and appends their KV, `offset` tokens after the unit's first.

  exists: bool, for tokens that may not exist. Nobody sees such tokens, and no pass is run for them; only sessions in
  lockstep run every pass.
  """
  layout = build_layout(agent.config)

  def run() -> tuple[jax.Array, KeyValue]:
    return single_device(agent.streamer.transformer, (), x, coords, [cache.coords], [cache.kv])

  def nothing() -> tuple[jax.Array, KeyValue]:
    return jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(run))

  hidden, kv = run() if exists is None else jax.lax.cond(exists, run, nothing)
  ring = (cache.coords.unit.shape[0] - layout.pinned_tokens) // layout.clean_tokens  # units
  return hidden, cache.write(kv, coords, layout.first_index(state.unit, ring) + offset)


def _history(state: SessionState, layout: Layout) -> UnitHistory:
  """The agent's own past that unit k sees: clean latents, invalid before the session began."""

  def past(index: int, age: int) -> Past:
    latents = jax.tree.map(lambda x: x[index], state.past)
    return Past.clean(latents, jnp.broadcast_to(state.made >= age, (2,)))

  return UnitHistory(commit=past(0, layout.config.commit_delay), previous=past(-1, 1))


def _choose(model: ModelConfig, state: SessionState, logits: Float[Array, "V"], slot: int) -> Int[Array, ""]:
  """The next text token: greedy at temperature 0, sampled otherwise; the same session draws the same text."""
  logits = logits.at[model.pad].add(state.sampling.pad_bias)
  if model.token_ids < model.vocab:  # no text belongs to the rows that fill the vocabulary up
    logits = logits.at[model.token_ids :].set(-jnp.inf)
  key = jax.random.fold_in(unit_keys(state.seed, state.unit)[2], slot)
  temperature = jnp.maximum(state.sampling.temperature, 1e-6)
  drawn = jax.random.categorical(key, logits / temperature)
  return jnp.where(state.sampling.temperature > 0, drawn, jnp.argmax(logits)).astype(jnp.int32)


def unit_keys(seed: jax.Array, unit: jax.Array) -> jax.Array:
  """The keys of a unit's three draws: video noise, audio noise, text. seed: as in `SessionState`."""
  return jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(seed), unit), 3)


def unit_noise(config: Config, seed: jax.Array, unit: jax.Array) -> Latents:
  """The noise that unit `unit` starts from: a function of the session's seed and the unit only."""
  video_key, audio_key, _ = unit_keys(seed, unit)
  video = (config.latent_height, config.latent_width, config.video_codec.latent_dim)
  audio = (config.audio_latents, config.audio_codec.latent_dim)
  return Latents(jax.random.normal(video_key, video), jax.random.normal(audio_key, audio))


def perform(agent: Agent, state: SessionState, one_pass: Pass = single_device) -> tuple[Latents, dict[str, Any]]:
  """Runs REFEED once, then the solver over PERFORM; only reads the KV-cache. -> (the unit's latents, trace).

  one_pass: how the Transformer is run, on one device or spread over several (`model/ulysses.py`).
  """
  with jax.named_scope("perform"):
    field = _field(agent, state, state.cache, one_pass)
    if state.unconditional is not None:
      worldless = state._replace(anchor=jax.tree.map(jnp.zeros_like, state.anchor))
      without = _field(agent, worldless, state.unconditional.cache, one_pass)
      field = guided(field, without, state.sampling.guidance)
    times = state.sampling.times
    latents, inputs = euler(field, unit_noise(agent.config, state.seed, state.unit), times)
  return latents, {"solver_inputs": inputs, "times": times[:-1]}


def _field(agent: Agent, state: SessionState, cache: Cache, one_pass: Pass) -> Field[Latents]:
  """The velocity field of a unit, given a cache."""
  layout, streamer = build_layout(agent.config), agent.streamer
  segments = layout.phase(PERFORM)
  reference = Reference.of(_history(state, layout).previous, state.anchor)
  seen = streamer.tokens.reference(reference)
  groups, key_coords = apart(layout.tokens(PERFORM), cache.kv, cache.coords, layout.pinned_tokens)
  if layout.tokens(REFEED):
    kv, coords = _refeed(agent, state, cache, one_pass)
    groups, key_coords = [*groups, kv], [*key_coords, coords]

  def field(z: Latents, tau: jax.Array) -> Latents:
    x, coords = pack(layout, segments, state.unit, streamer.tokens.noisy(z, tau, seen))
    hidden, _ = one_pass(streamer.transformer, segments, x, coords, key_coords, groups)
    return streamer.heads.velocity(hidden, z, tau, reference)

  return field


def _refeed(agent: Agent, state: SessionState, cache: Cache, one_pass: Pass) -> tuple[KeyValue, Coords]:
  """Keys and values [L, M, T, H] of the previous unit's latents at the noisy patch size, for this unit only."""
  layout = build_layout(agent.config)
  history, segments = _history(state, layout), layout.phase(REFEED)
  x, coords = pack(layout, segments, state.unit, agent.streamer.refeed_content(history))
  _, kv = one_pass(agent.streamer.transformer, segments, x, coords, [cache.coords], [cache.kv])
  return kv.by_head(), coords


def render(
  agent: Agent, state: SessionState, latents: Latents
) -> tuple[Float[Array, "samples"], Float[Array, "frames H W 3"], SessionState]:
  """Latents of one unit -> (audio, video, state)."""
  with jax.named_scope("render"):
    audio, audio_decoder = agent.audio_codec.decode(latents.audio, state.audio_decoder)
    video, video_decoder = agent.video_codec.decode(latents.video[None], state.video_decoder)
  return audio, video, state._replace(audio_decoder=audio_decoder, video_decoder=video_decoder)


def next_unit(state: SessionState) -> SessionState:
  """Advances the clock and makes room for the latents of the finished unit, which may arrive later."""
  past = jax.tree.map(lambda old: jnp.concatenate([old[1:], jnp.zeros_like(old[:1])]), state.past)
  return state._replace(past=past, unit=state.unit + 1, made=state.made + 1)


def remember(state: SessionState, latents: Latents, unit: jax.Array) -> SessionState:
  """Stores the latents of a finished unit for later commits."""
  delay = state.past.audio.shape[0]
  put = lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new, delay - (state.unit - unit), 0)
  return state._replace(past=jax.tree.map(put, state.past, latents))


def finish_unit(state: SessionState, latents: Latents) -> SessionState:
  """Stores the unit's latents and advances the clock."""
  return remember(next_unit(state), latents, state.unit)


def step_unit(
  agent: Agent, state: SessionState, user: UserUnit, forced_text: jax.Array | None = None
) -> tuple[SessionState, AgentUnit]:
  """One unit: 160 ms of the user in, 160 ms of the agent out."""
  tokens, state = perceive(agent, state, user)
  text, state, thinking = think(agent, commit(agent, state), tokens, forced_text)
  latents, performing = perform(agent, state)
  audio, video, state = render(agent, state, latents)
  return finish_unit(state, latents), AgentUnit(audio, video, text, latents, thinking | performing)


def rollout(
  agent: Agent, state: SessionState, users: UserUnit, forced_text: jax.Array | None = None
) -> tuple[SessionState, AgentUnit]:
  """`lax.scan` of `step_unit` over units (leading axis K of `users` and `forced_text`)."""

  def body(state: SessionState, inputs: tuple[UserUnit, jax.Array | None]) -> tuple[SessionState, AgentUnit]:
    user, text = inputs
    return step_unit(agent, state, user, text)

  return jax.lax.scan(body, state, (users, forced_text))
