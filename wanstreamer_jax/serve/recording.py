"""A live conversation on disk, for the visitor who asked for it: both films, captions and units, as one ZIP file.

Nothing is kept of anybody who did not ask. What is kept disappears `KEPT` seconds after the conversation.
"""

import asyncio
import shutil
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.media import MediaReader, MediaWriter
from wanstreamer_jax.errors import MediaError
from wanstreamer_jax.files import replacing
from wanstreamer_jax.serve.film import write_conversation
from wanstreamer_jax.serve.scheduler import Served
from wanstreamer_jax.serve.session_log import SessionLog, write_vtt
from wanstreamer_jax.serve.stream_file import row

KEPT = 600.0  # seconds
MOST_WAITING = 200  # units that wait for the disk; more are left out
FILES = ("conversation.mp4", "agent.mp4", "user.mp4", "agent.vtt", "units.jsonl")


class Recording:
  """Written by a thread of its own, so that no unit waits for the disk. `add` and `close` are called in one thread."""

  def __init__(self, media: MediaConfig):
    self.media = media
    self.folder = Path(tempfile.mkdtemp(prefix="wanstreamer-"))
    self.zip = self.folder / "conversation.zip"
    self._thread = ThreadPoolExecutor(1, "recording")
    self._films = {side: MediaWriter(self.folder / f"{side}.mp4", media) for side in ("user", "agent")}
    self._log = SessionLog(self.folder / "units.jsonl", media)
    self._done: asyncio.Future[Path] | None = None
    self._broken: Exception | None = None  # why nothing is written any more
    self._waiting = 0

  def add(self, served: Served) -> None:
    if self._done is None and self._waiting < MOST_WAITING:
      self._waiting += 1
      self._thread.submit(self._add, served)

  def _add(self, served: Served) -> None:
    self._waiting -= 1
    if self._broken is not None:
      return
    try:
      self._write(served)
    except (MediaError, OSError) as error:
      self._broken = error

  def _write(self, served: Served) -> None:
    user, answer, media = served.user, served.answer, self.media
    shape = (media.frames, media.height, media.width, 3)
    video = np.zeros(shape, np.uint8) if user.video is None else user.video
    audio = np.zeros(media.samples, np.float32) if user.audio is None else user.audio
    self._films["user"].write(video, audio)
    self._films["agent"].write(answer.video, answer.audio)
    line = row(len(self._log.rows), user, answer, served.typed, 1000 * served.waited, media.unit_ms)
    self._log.add(line, user.audio, answer.audio)

  def close(self) -> asyncio.Future[Path]:
    """Completes everything; the same future every time. Raises MediaError in it when nothing was said."""
    if self._done is None:
      self._done = asyncio.get_running_loop().run_in_executor(self._thread, self._finish)
    return self._done

  def _finish(self) -> Path:
    self._log.close()
    if self._broken is not None:
      raise MediaError(f"the recording could not be written: {self._broken}")
    if not self._log.rows:
      raise MediaError("nothing was recorded: the conversation ended before its first unit")
    for film in self._films.values():
      film.close()
    write_vtt(self.folder / "agent.vtt", self._log)
    user, agent = (self.folder / f"{side}.mp4" for side in ("user", "agent"))
    write_conversation(
      self.folder / "conversation.mp4", MediaReader(user, self.media), agent, self._log, progress=False
    )
    with replacing(self.zip) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
      for name in FILES:
        archive.write(self.folder / name, name)
    return self.zip

  def delete(self) -> None:
    """Nothing of it is left."""
    self._done = self._done or asyncio.Future()  # nothing is added any more
    self._thread.submit(shutil.rmtree, self.folder, ignore_errors=True)  # behind what is being written
    self._thread.shutdown(wait=False)
