"""`wanstreamer data preview`: a session of duplex_world, for people to watch.

The user's side is written as a clip (a good INPUT for `wanstreamer stream`), the agent's world as a world file. The
scripted agent takes the place of a model in `stream_file`, which writes conversation.mp4, agent.mp4, agent.vtt,
units.jsonl and timeline.png.
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
  """Plays back what a session's agent did, whatever the user does."""

  def __init__(self, config: Config, session: Session):
    self.media, self.session, self.unit = config.media, session, 0

  def think(self, users: Sequence[MediaUnit | None], typed: Sequence[list[str]]) -> int:
    """Returns the index of the unit that comes next."""
    self.unit += 1
    return self.unit - 1

  def perform(self, thought: int) -> list[UnitOutput | None]:
    """The agent's side of that unit, from the session."""
    media, agent = self.media, self.session.agent
    assert agent.video is not None
    assert agent.audio is not None
    video = agent.video[thought * media.frames : (thought + 1) * media.frames]
    audio = agent.audio[thought * media.samples : (thought + 1) * media.samples]
    start = thought * media.unit_ms / 1000
    text = "".join(f" {word.text}" for word in agent.words if abs(word.written - start) < 1e-3)
    return [UnitOutput(video, audio, text, is_loud(audio), dict.fromkeys(PHASES, 0.0))]


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
    for video, audio in zip(frames, samples):
      writer.write(video, audio)
