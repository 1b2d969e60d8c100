"""`wanstreamer client`: streams a media file to a live server and saves the answer. It streams in real time."""

import asyncio
import contextlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wanstreamer_jax.data.loudness import is_loud, level
from wanstreamer_jax.data.media import MediaReader, MediaUnit, MediaWriter
from wanstreamer_jax.data.media_probe import probe
from wanstreamer_jax.serve.client import Client, ReceivedUnit, ServerErrors, connect
from wanstreamer_jax.serve.frame_codec import decode_jpeg, encode_jpeg
from wanstreamer_jax.serve.session_log import SessionLog, UnitRow, write_vtt
from wanstreamer_jax.serve.stream_file import staged


def stream_to(server: str, source: str | Path, out: str | Path, progress: bool = True) -> dict[str, float]:
  """Streams `source` to the server's address; writes agent.mp4, agent.vtt and units.jsonl into `out`.

  Returns latency percentiles in milliseconds (from the capture of a unit's last sample to the arrival of its answer)
  and the share of late units. Raises UserError when the server is full, cannot be reached, or ends the conversation.
  """
  return asyncio.run(_stream(server, Path(source), Path(out), progress))


async def _stream(server: str, source: Path, out: Path, progress: bool) -> dict[str, float]:
  ServerErrors(server).check_address()
  probe(source)  # raises for a bad file before a slot is taken
  with staged(out) as folder:
    async with connect(server) as client:
      return await FileSession(client, MediaReader(source, client.media), folder, progress).run()


class FileSession:
  """Sends a file and writes what the agent answers into `folder`, one answered unit per unit of the file."""

  def __init__(self, client: Client, reader: MediaReader, folder: Path, progress: bool):
    self.client, self.media, self.reader, self.folder = client, client.media, reader, folder
    self.bar = tqdm(total=len(reader), desc="streaming", unit="unit", disable=not progress)
    self.users: list[MediaUnit] = []  # what was sent
    self.log = SessionLog(folder / "units.jsonl", self.media)
    self.latencies: list[float] = []  # milliseconds, of units that answer audio
    self.late = 0
    self.last_frame = np.zeros((self.media.height, self.media.width, 3), np.uint8)

  async def run(self) -> dict[str, float]:
    """See `stream_to`. After Ctrl-C the files up to there are completed before CancelledError is raised."""
    sender, stopped = asyncio.create_task(self._send()), None
    try:
      with contextlib.closing(self.log), self.bar, MediaWriter(self.folder / "agent.mp4", self.media) as writer:
        try:
          await self._receive(writer, sender)
        except asyncio.CancelledError as error:
          if not writer.frames:
            raise
          stopped = error
    finally:
      sender.cancel()
      await asyncio.gather(sender, return_exceptions=True)
    write_vtt(self.folder / "agent.vtt", self.log)
    if stopped is not None:
      raise stopped
    p50, p95, p99 = np.percentile(self.latencies or [float("nan")], (50, 95, 99))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "late": self.late / max(len(self.log.rows), 1)}

  async def _send(self) -> None:
    for user in self.reader:
      self.users.append(user)
      frames = [] if user.video is None else list(map(encode_jpeg, user.video))
      await self.client.send_unit(user.audio, frames)

  async def _receive(self, writer: MediaWriter, sender: asyncio.Task[None]) -> None:
    """Writes units as they come, as many as the file has. Raises what made the sender stop."""
    async for unit in self.client.units():
      self._write(unit, writer)
      if len(self.log.rows) == len(self.reader):
        return
      if sender.done():
        sender.result()

  def _write(self, unit: ReceivedUnit, writer: MediaWriter) -> None:
    """Writes one unit of the answer; audio and frames that did not arrive are silence and the last frame."""
    media, index = self.media, len(self.log.rows)
    audio = np.concatenate([*unit.audio, np.zeros(media.samples, np.float32)])[: media.samples]
    frames = [decode_jpeg(frame, media.height, media.width) for frame in unit.frames]
    self.last_frame = frames[-1] if frames else self.last_frame
    writer.write(np.stack([*frames, *[self.last_frame] * media.frames][: media.frames]), audio)
    user = self.users[index].audio if index < len(self.users) else None
    latency = None if unit.latency is None else 1000 * unit.latency
    self.latencies += [] if latency is None else [latency]
    self.late += unit.late
    row = UnitRow(
      unit=index, start=round(index * media.unit_ms / 1000, 3), times=unit.times, text=unit.text, typed=(),
      speaking=unit.speaking, user_speaking=user is not None and is_loud(user), level=round(level(audio), 1),
      user_level=None if user is None else round(level(user), 1),
      latency=None if latency is None else round(latency, 3),
    )  # fmt: skip
    self.log.add(row, user, audio)
    self.bar.update()
