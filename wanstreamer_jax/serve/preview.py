"""`wanstreamer data preview`: a session of duplex_world as people see it.

The user's side is written as a clip (a good INPUT for `wanstreamer stream`) and what the agent knows beforehand as a
world file. The job that films a model films the scripted agent: conversation.mp4, agent.mp4, agent.vtt, units.jsonl and
timeline.png.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.source import world_config
from wanstreamer_jax.data.duplex_world.world import make_session
from wanstreamer_jax.data.loudness import is_loud
from wanstreamer_jax.data.media import MediaUnit, MediaWriter
from wanstreamer_jax.data.session import Session
from wanstreamer_jax.data.world_file import write_world
from wanstreamer_jax.engine.interface import PHASES, SlotEngine, UnitOutput
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.serve.stream_file import StreamOptions, StreamSummary, stream_file

CLIP = "user.mp4"


class ScriptedEngine(SlotEngine):
  """Answers with what a session's agent did, whatever it is shown."""

  def __init__(self, config: Config, session: Session):
    self.media, self.session, self.unit = config.media, session, 0

  def think(self, users: Sequence[MediaUnit | None], typed: Sequence[list[str]]) -> int:
    """-> which unit of the session is to come."""
    self.unit += 1
    return self.unit - 1

  def perform(self, thought: int) -> list[UnitOutput | None]:
    media, k = self.media, thought
    video, audio = self.session.agent.video, self.session.agent.audio
    assert video is not None
    assert audio is not None
    sound = audio[k * media.samples : (k + 1) * media.samples]
    now = round(k * media.unit_ms / 1000, 6)
    words = [word.text for word in self.session.agent.words if abs(word.written - now) < 1e-3]
    picture = video[k * media.frames : (k + 1) * media.frames]
    text = "".join(" " + word for word in words)
    return [UnitOutput(picture, sound, text, is_loud(sound), dict.fromkeys(PHASES, 0.0))]


def preview(config: Config, out: str | Path, seed: int = 0, split: str = "train") -> StreamSummary:
  """Writes one session into the folder `out`. Raises MediaError or UserError."""
  session = make_session(seed, world_config(config), split)
  folder = Path(out)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot write into {folder}: {error.strerror or error}; give another --out folder") from error
  write_user(folder / CLIP, config, session)
  write_world(folder, session.world, config.media)
  return stream_file(ScriptedEngine(config, session), folder / CLIP, folder, StreamOptions(progress=False))


def write_user(path: Path, config: Config, session: Session) -> None:
  """The user's side of a session as a media file."""
  media = config.media
  assert session.user.video is not None
  assert session.user.audio is not None
  frames = session.user.video.reshape(session.units, media.frames, media.height, media.width, 3)
  samples = np.clip(session.user.audio, -1, 1).reshape(session.units, media.samples)
  with MediaWriter(path, media) as writer:
    for picture, sound in zip(frames, samples):
      writer.write(picture, sound)
