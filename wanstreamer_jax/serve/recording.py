"""Records a live session, if its user asked for it, as one ZIP file. The file has both sides' video, captions and
units.

Nobody is recorded who did not ask for it. A recording is deleted `KEEP_SECONDS` after its session.
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
from wanstreamer_jax.serve.scheduler import UnitResult
from wanstreamer_jax.serve.session_log import SessionLog, write_vtt
from wanstreamer_jax.serve.stream_file import row

KEEP_SECONDS = 600.0
MAX_WAITING = 200  # units that wait for the disk; more are left out
FILES = ("conversation.mp4", "agent.mp4", "user.mp4", "agent.vtt", "units.jsonl")


class SessionRecording:
  """Writes one session in a thread of its own, so that no unit waits for the disk.

  `add`, `close` and `delete` are called in the event loop; the methods with an underscore run in the thread, which does
  everything in the order in which it was asked for. `_waiting` is the only value that both change: it may be off by one
  for a moment, which does no harm.
  """

  def __init__(self, media: MediaConfig):
    self.media = media
    self.folder = Path(tempfile.mkdtemp(prefix="wanstreamer-"))
    self.zip = self.folder / "conversation.zip"
    self._thread = ThreadPoolExecutor(1, "recording")
    self._writers = {side: MediaWriter(self.folder / f"{side}.mp4", media) for side in ("user", "agent")}
    self._log = SessionLog(self.folder / "units.jsonl", media)
    self._finished: asyncio.Future[Path] | None = None
    self._error: Exception | None = None  # why nothing is written any more
    self._waiting = 0

  def add(self, result: UnitResult) -> None:
    """Records one unit; does nothing after `close` or `delete`, or when the disk is too slow."""
    if self._finished is None and self._waiting < MAX_WAITING:
      self._waiting += 1
      self._thread.submit(self._add, result)

  def close(self) -> asyncio.Future[Path]:
    """Completes the ZIP file; returns the same future every time. It raises MediaError when nothing was recorded."""
    if self._finished is None:
      self._finished = asyncio.get_running_loop().run_in_executor(self._thread, self._finish)
    return self._finished

  def delete(self) -> None:
    """Removes everything, after what is being written now."""
    self._finished = self._finished or asyncio.Future()  # nothing is added any more
    self._thread.submit(shutil.rmtree, self.folder, ignore_errors=True)
    self._thread.shutdown(wait=False)

  def _add(self, result: UnitResult) -> None:
    self._waiting -= 1
    if self._error is not None:
      return
    try:
      self._write(result)
    except (MediaError, OSError) as error:
      self._error = error

  def _write(self, result: UnitResult) -> None:
    user, output, media = result.user, result.output, self.media
    shape = (media.frames, media.height, media.width, 3)
    video = np.zeros(shape, np.uint8) if user.video is None else user.video
    audio = np.zeros(media.samples, np.float32) if user.audio is None else user.audio
    self._writers["user"].write(video, audio)
    self._writers["agent"].write(output.video, output.audio)
    line = row(len(self._log.rows), user, output, result.typed, 1000 * result.waited, media.unit_ms)
    self._log.add(line, user.audio, output.audio)

  def _finish(self) -> Path:
    self._log.close()
    if self._error is not None:
      raise MediaError(f"the recording could not be written: {self._error}")
    if not self._log.rows:
      raise MediaError("nothing was recorded: the conversation ended before its first unit")
    for writer in self._writers.values():
      writer.close()
    write_vtt(self.folder / "agent.vtt", self._log)
    user, agent = (self.folder / f"{side}.mp4" for side in ("user", "agent"))
    reader = MediaReader(user, self.media)
    write_conversation(self.folder / "conversation.mp4", reader, agent, self._log, progress=False)
    with replacing(self.zip) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
      for name in FILES:
        archive.write(self.folder / name, name)
    return self.zip
