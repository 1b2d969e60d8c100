"""The live user of duplex_world: it hears the agent and reacts, unit by unit."""

from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.duplex_world.script import ScriptedUser
from wanstreamer_jax.data.duplex_world.world import WorldConfig, cast, microphone, session_world
from wanstreamer_jax.data.loudness import is_loud


class ReactingUser:
  """A user of the world who talks with any agent."""

  def __init__(self, seed: int, world: WorldConfig, split: str):
    self.config, self.cast = world, cast(seed, world, split)
    self.world = session_world(self.cast.scene.persona, world)
    self._user = ScriptedUser(self.cast.scene, self.cast.user)
    self._loudspeaker: list[np.ndarray] = []  # the agent's last units, at least as many as the echo is late
    self._units = 0
    self._typed = 0

  def step(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """The user's next unit, after hearing the agent's last one.

    audio: the agent's last unit, float32 [samples] (silence before the first). Returns sound, float32 [samples],
    pictures, uint8 [frames, height, width, 3], and what is typed.
    """
    config, players = self.config, self.cast
    scene, unit = players.scene, self._units
    kept = 2 + players.echo_delay // config.samples
    self._loudspeaker = [*self._loudspeaker, audio][-kept:]
    scene.now = unit
    self._user.step(bool(unit and is_loud(audio)))
    voice = players.user.audio(unit * config.samples, (unit + 1) * config.samples)
    played_from = (unit - len(self._loudspeaker)) * config.samples  # the last one is of the unit before this
    sound = microphone(voice, np.concatenate(self._loudspeaker), unit * config.samples, players, played_from)
    picture = players.user.video(unit * config.frames, (unit + 1) * config.frames, config.height, config.width)
    typed = [word.text for word in scene.typed[self._typed :]]
    self._typed, self._units = len(scene.typed), unit + 1
    return sound, picture, typed
