"""The user of duplex_world, live: it hears the agent and reacts, unit by unit."""

from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world.script import User
from wanstreamer_jax.data.duplex_world.world import WorldConfig, cast, microphone, session_world
from wanstreamer_jax.eval.conversation import Script
from wanstreamer_jax.eval.events import script_of
from wanstreamer_jax.eval.metrics import loudness_envelope

SPEAKING = -42.0  # dB of full scale: a unit louder than this is speech to the user


class ReactingUser:
  """Implements `closed_loop.User`."""

  def __init__(self, seed: int, world: WorldConfig, split: str):
    self.config, self.cast = world, cast(seed, world, split)
    self.world = session_world(self.cast.stage.persona, world)
    self._user = User(self.cast.stage, self.cast.user)
    self._loudspeaker: list[np.ndarray] = []
    self._typed = 0

  def step(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """What the user does in the next unit, having heard what the agent did in the last one."""
    config, players = self.config, self.cast
    stage, unit = players.stage, len(self._loudspeaker)
    self._loudspeaker.append(audio)
    stage.now = unit
    self._user.step(bool(unit and loudness_envelope(audio, 1)[0] > SPEAKING))
    voice = players.user.audio(unit * config.samples, (unit + 1) * config.samples)
    heard = np.concatenate(self._loudspeaker[1:] or [audio[:0]])
    sound = microphone(voice, heard, unit * config.samples, players)
    picture = players.user.video(unit * config.frames, (unit + 1) * config.frames, config.height, config.width)
    typed = [word.text for word in stage.typed[self._typed :]]
    self._typed = len(stage.typed)
    return sound, picture, typed

  def script(self, units: int) -> Script:
    """What called for a reaction in `units` units."""
    return script_of(self.cast.stage.events, self.cast.user.speech(), units * self.config.unit_ms / 1000)
