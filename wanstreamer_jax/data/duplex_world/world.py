"""duplex_world: an endless, seeded world of two drawn people who talk. The same seed gives the same session, bit for
bit.
"""

import dataclasses

import numpy as np

from wanstreamer_jax.data.duplex_world import lexicon
from wanstreamer_jax.data.duplex_world.asides import Asides
from wanstreamer_jax.data.duplex_world.body import Body
from wanstreamer_jax.data.duplex_world.faces import Look, draw, random_look, still_tracks
from wanstreamer_jax.data.duplex_world.perfect_agent import PerfectAgent
from wanstreamer_jax.data.duplex_world.personas import Persona, draw_persona, small_persona
from wanstreamer_jax.data.duplex_world.script import ScriptedUser
from wanstreamer_jax.data.duplex_world.speech import synthesise, timing
from wanstreamer_jax.data.duplex_world.stage import Scene
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.data.duplex_world.voices import engines_of, far_voice, user_voice
from wanstreamer_jax.data.session import Event, Session, Side, Word, World
from wanstreamer_jax.errors import ConfigError

SPLITS = ("train", "heldout")
SLOW = 2


@dataclasses.dataclass(frozen=True)
class WorldConfig:
  """The world's clock and size. `units` is the length of a session; `text_lead` in units."""

  height: int = 64
  width: int = 64
  fps: int = 25
  sample_rate: int = 24_000
  unit_ms: int = 160
  units: int = 125
  text_lead: int = 1
  size: str = "small"  # or "full": more colours and personas
  voices: str = "formant"  # engines of the users' voices with commas (`voices.ENGINES`), each as likely
  agent_voices: str = ""  # the same of the agents; empty: as `voices`
  # Shares, of "train" only: sessions whose user's voice is far from the usual (`voices.far_voice`), sentences of
  # the user with words that mean nothing (`asides.py`), sessions without pictures, where nothing asked must be seen;
  # of the others those whose agent nobody sees, and whose user's camera shows a picture for SLOW frames.
  accents: float = 0.0
  asides: float = 0.0
  camera_off: float = 0.0
  agent_unseen: float = 0.0
  emphasis: float = 1.0  # of "train", size "full": how much oftener it is asked what joins two things, and coughed

  def __post_init__(self) -> None:
    if self.size not in ("small", "full"):
      raise ConfigError(f"world size is {self.size!r}: expected small or full")
    for name in ("accents", "asides", "camera_off", "agent_unseen"):
      if not 0 <= getattr(self, name) <= 1:
        raise ConfigError(f"{name} is {getattr(self, name)}: expected a share, 0 to 1")
    if self.emphasis <= 0:
      raise ConfigError(f"emphasis is {self.emphasis}: expected a factor above 0")
    if not 0 <= self.text_lead <= 3:
      raise ConfigError(f"text_lead is {self.text_lead} units: expected 0 to 3")
    engines_of(self.voices)
    engines_of(self.agent_voices or self.voices)

  @property
  def frames(self) -> int:
    """Frames per unit."""
    return self.unit_ms * self.fps // 1000

  @property
  def samples(self) -> int:
    """Samples per unit."""
    return self.unit_ms * self.sample_rate // 1000


@dataclasses.dataclass(frozen=True)
class Cast:
  """The people of a session, and the microphone through which the user is heard."""

  scene: Scene
  user: Body
  agent: Body
  echo_gain: float
  echo_delay: int  # samples; at least a unit, since the agent's sound is played one unit after it was made
  noise: float
  seed: int


def cast(seed: int, config: WorldConfig, split: str = "train") -> Cast:
  """Chooses the people, the voices and the room of a session at random. Raises ConfigError for an unknown split."""
  if split not in SPLITS:
    raise ConfigError(f"split is {split!r}: expected one of {', '.join(SPLITS)}")
  held_out = split == "heldout"
  rng = np.random.default_rng([seed, int(held_out), 0xD0])
  small = config.size == "small"
  engines = engines_of(config.voices)
  persona = (
    small_persona(rng)
    if small
    else draw_persona(rng, held_out and rng.random() < 0.5, engines_of(config.agent_voices or config.voices))
  )

  def body(look: Look, voice: Voice, number: int) -> Body:
    return Body(look, voice, int(rng.integers(2**31)) + number, fps=config.fps, sample_rate=config.sample_rate)

  look = random_look(np.random.default_rng(int(rng.integers(2**31))), held_out)
  own_stream = np.random.default_rng([seed, int(held_out), 0xE5])  # so that all else is the same with any engines
  voice = user_voice(own_stream, held_out, engines)
  own_stream = np.random.default_rng([seed, 0xACCE])
  if not held_out and own_stream.random() < config.accents:
    voice = far_voice(own_stream, engines)
  user = body(_matched(look, voice), voice, 0)
  agent = body(agent_look(persona), persona.voice, 1)
  unit = config.unit_ms / 1000
  camera_off = not held_out and np.random.default_rng([seed, 0xCA]).random() < config.camera_off
  scene = Scene(unit, config.units * unit, rng, held_out, small, persona, camera_off)
  if not held_out:
    scene.emphasis = config.emphasis
    if config.asides:
      scene.asides = Asides(config.asides, np.random.default_rng([seed, 0xA51D]))
  echo = rng.uniform(0.02, 0.12) if rng.random() < 0.4 else 0.0
  delay = config.samples + int(rng.uniform(0.02, 0.1) * config.sample_rate)
  return Cast(scene, user, agent, echo, delay, float(rng.uniform(0.0005, 0.004)), seed)


def agent_look(persona: Persona) -> Look:
  """The look of a persona, which is always the same."""
  return _matched(random_look(np.random.default_rng(persona.look_seed)), persona.voice)


def _matched(look: Look, voice: Voice) -> Look:
  """Only deep voices have a beard."""
  return look if voice.pitch < 150 else dataclasses.replace(look, beard=0.0)


def make_session(seed: int, config: WorldConfig, split: str = "train") -> Session:
  """A pure function of its arguments: `config.units` units of two people, with the ground truth of everything.

  split "heldout" has users whose voices and looks "train" never has; a third of their questions are combinations of
  known words that "train" never has, a third have new words (`phrasing` in the ground truth), and half of their sums
  are new (`trained`). In size "full" half of its agents are new too: name, home, likes, face and voice.
  """
  players, answering = _play(seed, config, split)
  scene, user, agent = players.scene, players.user, players.agent
  _attend(scene, user, agent)
  alone = split == "train" and np.random.default_rng([seed, 0xA10E]).random() < config.agent_unseen
  user_side = _side(user, config, not scene.camera_off, SLOW if alone else 1)
  agent_side = _side(agent, config, not (scene.camera_off or alone))
  assert user_side.audio is not None
  assert agent_side.audio is not None
  heard = microphone(user_side.audio, agent_side.audio, 0, players)
  return Session(
    user=dataclasses.replace(user_side, audio=heard, words=tuple(scene.typed)),
    agent=dataclasses.replace(agent_side, words=_inside(answering.words, config)),
    world=session_world(scene.persona, config),
    events=tuple(sorted(scene.events, key=lambda event: event.start)),
    units=config.units,
    seed=seed,
    source=f"duplex_world/{config.size}/{split}/{seed}",
    events_complete=True,
  )


@dataclasses.dataclass(frozen=True)
class Transcript:
  """A session without media. `agent` is its text stream, `typed` and `speech` are what the user writes and says."""

  events: tuple[Event, ...]
  agent: tuple[Word, ...]
  typed: tuple[Word, ...]
  speech: tuple[Word, ...]
  persona: Persona


def transcript(seed: int, config: WorldConfig, split: str = "train") -> Transcript:
  """The words and the ground truth of `make_session`, in a hundredth of its time with formant voices."""
  players, answering = _play(seed, config, split, sound=False)
  scene, end = players.scene, config.units * config.unit_ms / 1000
  events = tuple(sorted(scene.events, key=lambda event: event.start))
  speech = tuple(word for word in players.user.speech() if word.start < end)
  return Transcript(events, _inside(answering.words, config), tuple(scene.typed), speech, scene.persona)


def script_words(seed: int, config: WorldConfig, split: str = "train") -> tuple[Word, ...]:
  """The agent's text stream of `make_session`, without its media."""
  return transcript(seed, config, split).agent


def performers(seed: int, config: WorldConfig, split: str = "train") -> tuple[Body, Body]:
  """The user and the agent of `make_session` with all that they do, not yet rendered."""
  players, _ = _play(seed, config, split)
  _attend(players.scene, players.user, players.agent)
  return players.user, players.agent


def _play(seed: int, config: WorldConfig, split: str, sound: bool = True) -> tuple[Cast, PerfectAgent]:
  """The people of a session after it, with all that they planned to say and do; without sound only when, not how."""
  players = cast(seed, config, split)
  scene = players.scene
  if not sound:
    players.user.speak = players.agent.speak = timing
  answering = PerfectAgent(scene, players.agent, config.text_lead)
  asking, spoke = ScriptedUser(scene, players.user), False
  for unit in range(config.units):
    scene.now = unit
    answering.step()
    asking.step(spoke)
    spoke = answering.speaking()
  return players, answering


def _attend(scene: Scene, user: Body, agent: Body) -> None:
  """The agent looks at the user who speaks or shows something."""
  agent.attention += [(line.start, line.end + 0.8) for line in user.lines]
  agent.attention += [(event.start, event.start + 1.5) for event in scene.events if event.kind in ("raise", "gesture")]


def _inside(words: list, config: WorldConfig) -> tuple:
  """Those of `words` that are written before the session ends."""
  return tuple(word for word in words if word.written < config.units * config.unit_ms / 1000)


def _side(body: Body, config: WorldConfig, pictures: bool, slow: int = 1) -> Side:
  """A whole session of one body. slow: how many frames show the same picture."""
  frames, samples = config.units * config.frames, config.units * config.samples
  end = samples / config.sample_rate
  return Side(
    video=body.video(0, frames, config.height, config.width, slow) if pictures else None,
    audio=body.audio(0, samples),
    speech=tuple(word for word in body.speech() if word.start < end),
    phones=tuple(phone for phone in body.phones() if phone.start < end),
    tracks=body.tracks(0, frames),
  )


def microphone(
  voice: np.ndarray, loudspeaker: np.ndarray, first: int, players: Cast, played_from: int = 0
) -> np.ndarray:
  """What the user's microphone records: the voice, the delayed echo of the agent, and noise. float32 [samples].

  loudspeaker: the agent's samples from `played_from` on; first: index of voice[0]; both on the session's clock.
  """
  out = voice.copy()
  a = first - players.echo_delay - played_from
  echo = loudspeaker[max(a, 0) : max(a + len(out), 0)]
  out[len(out) - len(echo) :] += players.echo_gain * echo if len(echo) else 0.0
  noise = np.random.default_rng([players.seed, 0xA015E, first]).standard_normal(len(out), dtype=np.float32)
  return np.clip(out + players.noise * noise, -1.0, 1.0)


def session_world(persona: Persona, config: WorldConfig) -> World:
  """The agent's fields, its neutral face, and a second of its voice."""
  fields = {"name": persona.name, "home": persona.home, "likes": persona.likes}
  portrait = draw(agent_look(persona), still_tracks(1), [()], config.height, config.width)[0]
  voice = synthesise(["hello", "i", "am", persona.name], persona.voice, config.sample_rate, seed=1).audio
  return World(fields=fields, portrait=portrait, voice=voice)


def vocabulary() -> list[str]:
  """All words of the world, for the tokenizer; the same for every size, so that sizes share a tokenizer."""
  return lexicon.vocabulary()
