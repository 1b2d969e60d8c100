"""The engine: the unit step of one agent, compiled phase by phase, behind plain NumPy units.

perceive, commit, think, perform and render are the functions that `rollout.step_unit` composes, each its own program
here, so that the time of every phase can be told and COMMIT run while the user's unit is awaited. The state never
leaves the device.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax import rollout
from wanstreamer_jax.config import Config, MediaConfig
from wanstreamer_jax.data.encode import world_arrays
from wanstreamer_jax.data.loudness import is_loud
from wanstreamer_jax.data.media import MediaUnit
from wanstreamer_jax.data.records import video_to_float, video_to_uint8
from wanstreamer_jax.data.tokenizer import Keyboard, TextStream, TextTokenizer
from wanstreamer_jax.engine.request import Request
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.model.streamer import UserTokens
from wanstreamer_jax.model.tokens import PAD, Latents
from wanstreamer_jax.rollout import Agent, Sampling, SessionState


@dataclasses.dataclass(frozen=True)
class UnitOutput:
  """What the agent shows, sounds and wrote during one unit."""

  video: np.ndarray  # uint8 [frames, height, width, 3]
  audio: np.ndarray  # float32 [samples] in [-1, 1]
  text: str  # newly written: the texts of all units, joined, are the transcript; words begin with a space
  speaking: bool  # derived (from loudness or text), never fed back
  times: dict[str, float]  # milliseconds of "commit" (before the user's unit was there) and of the phases after it


class Engine(Protocol):
  """Whatever answers: `start` begins a session (and compiles what it must), `commit` does what the next unit needs
  and the user has no part in, `step` answers one unit."""

  media: MediaConfig

  @property
  def unread(self) -> int:
    """Tokens that were typed and wait for a slot."""
    ...

  def start(self, request: Request, units: int) -> None: ...

  def commit(self) -> None: ...

  def step(self, user: MediaUnit, typed: list[str]) -> UnitOutput: ...


class Phases(NamedTuple):
  """The jitted phases of a unit. Each takes the session's state and gives it back; buffers are reused."""

  start: Callable[..., SessionState]
  commit: Callable[..., SessionState]
  encode: Callable[..., Any]
  think: Callable[..., Any]
  perform: Callable[..., Latents]
  decode: Callable[..., Any]


def encode(agent: Agent, state: SessionState, user: rollout.UserUnit) -> tuple[UserTokens, SessionState]:
  """A unit as it comes from outside, with video as uint8."""
  return rollout.perceive(agent, state, user._replace(video=video_to_float(user.video)))


def decode(agent: Agent, state: SessionState, latents: Latents) -> tuple[jax.Array, jax.Array, SessionState]:
  """Sound in [-1, 1] and pictures as uint8; the unit is over."""
  audio, video, state = shown(agent, state, latents)
  return audio, video, rollout.finish_unit(state, latents)


def shown(agent: Agent, state: SessionState, latents: Latents) -> tuple[jax.Array, jax.Array, SessionState]:
  """Sound in [-1, 1] and pictures as uint8. Only the decoders' part of the state is read and written."""
  audio, video, state = rollout.render(agent, state, latents)
  return jnp.clip(audio, -1.0, 1.0), video_to_uint8(video), state


def fetched(decoded: tuple[jax.Array, jax.Array, SessionState]) -> tuple[np.ndarray, np.ndarray, SessionState]:
  """Sound and pictures on the host; the state stays on the device."""
  audio, video, state = decoded
  return *jax.device_get((audio, video)), state


def compile_phases() -> Phases:
  """One program per phase."""
  return Phases(
    start=jax.jit(rollout.start_session, static_argnames="capacity"),
    commit=jax.jit(rollout.commit, donate_argnums=1),
    encode=jax.jit(encode, donate_argnums=1),
    think=jax.jit(lambda agent, state, heard: rollout.think(agent, state, heard)[:2], donate_argnums=1),
    perform=jax.jit(lambda agent, state: rollout.perform(agent, state)[0]),
    decode=jax.jit(decode, donate_argnums=1),
  )


class StreamEngine:
  """One session of one agent, a unit at a time. Implements `serve.file.Engine`."""

  def __init__(self, agent: Agent):
    self.agent, self.media = rollout.cast_layers_to_compute_dtype(agent), agent.config.media
    self.tokenizer = TextTokenizer(agent.config.data.tokenizer)
    self.phases = compile_phases()
    self._state: SessionState | None = None
    check_tokenizer(agent.config, self.tokenizer)

  def start(self, request: Request, units: int) -> None:
    """Begins a session: WORLD is prefilled and every phase compiled (a silent unit of a throw-away session).

    units: how long it will be, which is the size of the cache in a layout with full history.
    """
    arrays = world_arrays(self.agent, self.tokenizer, request.world)
    capacity = units if self.agent.config.layout.window is None else None
    start = lambda: self.phases.start(self.agent, jax.random.PRNGKey(request.seed), arrays, capacity=capacity)
    begin = lambda: start()._replace(sampling=sampling(self.agent.config, request))
    self._begin(begin())
    self.step(MediaUnit(None, None), [])
    self._begin(begin())

  def _begin(self, state: SessionState) -> None:
    """A session in which nothing was typed, written or committed yet."""
    self._state, self._committed = state, Clock()
    self._keyboard = Keyboard(self.tokenizer, self.agent.config.layout.user_text_slots)
    self._written = TextStream(self.tokenizer)

  @property
  def unread(self) -> int:
    """Tokens that were typed and wait for a slot."""
    return len(self._keyboard.waiting)

  def commit(self) -> None:
    """What can be done before the next unit of the user is there. `step` does it if nobody did."""
    assert self._state is not None, "start() comes first"
    if not self._committed.milliseconds:
      self._state = self._committed("commit", self.phases.commit, self.agent, self._state)

  def step(self, user: MediaUnit, typed: list[str]) -> UnitOutput:
    """Answers one unit. `typed` texts enter as many of this and the next units' slots as they need."""
    self.commit()
    clock, self._committed = self._committed, Clock()
    heard, state = clock(
      "perceive", self.phases.encode, self.agent, self._state, host_unit(self.media, user, self._keyboard(typed))
    )
    text, state = clock("think", self.phases.think, self.agent, state, heard)
    latents = clock("perform", self.phases.perform, self.agent, state)
    sound, video, self._state = clock("render", lambda: fetched(self.phases.decode(self.agent, state, latents)))
    return UnitOutput(video, sound, self._written(np.asarray(text)), is_loud(sound), clock.milliseconds)


def sampling(config: Config, request: Request) -> Sampling:
  """What a session draws with. Raises DataError for what was not compiled."""
  steps, guidance = request.steps, request.guidance
  if steps is not None and steps > config.flow.steps:
    raise DataError(f"steps is {steps}, but the solver was compiled for at most {config.flow.steps} (flow.steps)")
  if guidance is not None and config.flow.guidance is None:
    raise DataError(f"guidance is {guidance:g}, but was not compiled in: flow.guidance is None")
  return Sampling.of(config, request.temperature, request.pad_bias, steps, guidance)


def host_unit(media: MediaConfig, user: MediaUnit, text: np.ndarray) -> rollout.UserUnit:
  """A unit of media and typed ids as arrays on the host; absent streams are zeros that are not valid."""
  frames = (media.frames, media.height, media.width, 3)
  video = np.zeros(frames, np.uint8) if user.video is None else user.video  # floats are made on the device
  audio = np.zeros(media.samples, np.float32) if user.audio is None else user.audio
  exists = lambda stream: np.asarray(stream is not None)
  return rollout.UserUnit(audio, video, text, exists(user.audio), exists(user.video))


def check_tokenizer(config: Config, tokenizer: TextTokenizer) -> None:
  """Raises DataError when the tokenizer makes ids that the model has no embedding for."""
  if tokenizer.vocab_size > config.model.vocab:
    raise DataError(
      f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} tokens, but the model embeds {config.model.vocab}: "
      "use the tokenizer that the checkpoint was trained with"
    )
  if tokenizer.pad_id != PAD:
    raise DataError(f"tokenizer {tokenizer.path} pads with id {tokenizer.pad_id}: this model needs {PAD}")


Span = tuple[str, float, float]  # a phase, from when to when, in seconds of time.perf_counter


class Clock:
  """Runs phases to their end and notes how long each took, and in `spans`, if given, from when to when."""

  def __init__(self, spans: list[Span] | None = None) -> None:
    self.milliseconds: dict[str, float] = {}
    self.spans = spans

  def __call__(self, phase: str, function: Callable[..., Any], *arguments: Any) -> Any:
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    end = time.perf_counter()
    self.milliseconds[phase] = (end - begin) * 1000
    if self.spans is not None:
      self.spans.append((phase, begin, end))
    return result
