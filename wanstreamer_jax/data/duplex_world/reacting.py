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
    self._loudspeaker: list[np.ndarray] = []
    self._typed = 0

  def step(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """The user's next unit, after hearing the agent's last one.

    audio: the agent's last unit, float32 [samples] (silence before the first). Returns sound, float32 [samples],
    pictures, uint8 [frames, height, width, 3], and what is typed.
    """
    config, players = self.config, self.cast
    scene, unit = players.scene, len(self._loudspeaker)
    self._loudspeaker.append(audio)
    scene.now = unit
    self._user.step(bool(unit and is_loud(audio)))
    voice = players.user.audio(unit * config.samples, (unit + 1) * config.samples)
    heard = np.concatenate(self._loudspeaker[1:] or [audio[:0]])
    sound = microphone(voice, heard, unit * config.samples, players)
    picture = players.user.video(unit * config.frames, (unit + 1) * config.frames, config.height, config.width)
    typed = [word.text for word in scene.typed[self._typed :]]
    self._typed = len(scene.typed)
    return sound, picture, typed
