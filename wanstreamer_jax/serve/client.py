"""`wanstreamer client`: streams a media file to a live server in real time and saves the answer."""

import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp
import numpy as np
from tqdm import tqdm

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.loudness import is_loud, level
from wanstreamer_jax.data.media import MediaReader, MediaUnit, MediaWriter
from wanstreamer_jax.data.media_probe import probe
from wanstreamer_jax.errors import DataError, UserError
from wanstreamer_jax.serve import protocol
from wanstreamer_jax.serve.picture_codec import decode_picture, encode_picture
from wanstreamer_jax.serve.session_log import PHASES, SessionLog, UnitRow, write_vtt
from wanstreamer_jax.serve.stream_file import staged

PART = 0.02  # seconds of sound in a message
ANSWER_WITHIN = 5.0  # seconds


def stream_to(server: str, source: str | Path, out: str | Path, progress: bool = True) -> dict[str, float]:
  """Streams `source` to the server's address; writes agent.mp4, agent.vtt and units.jsonl into `out`.

  Returns latency percentiles in milliseconds (from the capture of a unit's last sample to the arrival of its answer)
  and the share of late units. Raises UserError when the server is full, away, or ends the conversation.
  """
  return asyncio.run(_stream(server, Path(source), Path(out), progress))


async def _stream(server: str, source: Path, out: Path, progress: bool) -> dict[str, float]:
  shown = server.partition("?")[0]  # without the token
  if not server.startswith(("http://", "https://")):
    raise UserError(f"--server {shown}: expected an address that begins with http:// or https://")
  probe(source)  # before a place is taken
  address = server.rstrip("/").replace("http", "ws", 1)
  path, mark, query = address.partition("?")
  live = f"{path.rstrip('/')}/live{mark}{query}"
  with staged(out) as folder:
    try:
      async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(live, max_msg_size=protocol.LARGEST_MESSAGE) as socket,
      ):
        await socket.send_str(protocol.say("hello", version=protocol.VERSION))
        welcome = protocol.hear(await socket.receive_str(timeout=ANSWER_WITHIN))
        if welcome["type"] != "welcome":
          raise UserError(f"{shown}: {welcome.get('message', welcome['type'])}")
        media = MediaConfig(**{name: welcome[name] for name in ("unit_ms", "fps", "sample_rate", "height", "width")})
        return await Answer(media, MediaReader(source, media), folder, progress).run(socket)
    except aiohttp.WSServerHandshakeError as error:
      raise UserError(f"{shown} does not let us in: {await _reason(live) or error.message}") from error
    except TimeoutError as error:
      raise UserError(f"{shown} did not answer for {ANSWER_WITHIN:g} s") from error
    except (aiohttp.ClientError, ConnectionError) as error:
      raise UserError(f"{shown} cannot be talked to: {_without(query, error) or type(error).__name__}") from error
    except (KeyError, TypeError, AttributeError, ValueError, DataError) as error:
      raise UserError(f"{shown} does not speak this protocol ({type(error).__name__}: {error})") from error


def _without(query: str, error: Exception) -> str:
  """What an error says, which may be the whole address."""
  return str(error).replace(query, "...") if query else str(error)


async def _reason(live: str) -> str:
  """What the server says to a request that it refuses, on one line."""
  with contextlib.suppress(aiohttp.ClientError, TimeoutError):
    async with aiohttp.ClientSession() as session, session.get(live.replace("ws", "http", 1)) as answer:
      return " ".join((await answer.text())[:300].split()) if answer.status >= 400 else ""
  return ""


class Answer:
  """Both directions of one conversation."""

  def __init__(self, media: MediaConfig, reader: MediaReader, folder: Path, progress: bool):
    self.media, self.reader, self.folder = media, reader, folder
    self.bar = tqdm(total=len(reader), desc="streaming", unit="unit", disable=not progress)
    self.users: list[MediaUnit] = []
    self.log = SessionLog(folder / "units.jsonl", media)
    self.latencies: list[float] = []  # of the units that answer sound
    self.late = 0
    self.shown = np.zeros((media.height, media.width, 3), np.uint8)

  async def run(self, socket: aiohttp.ClientWebSocketResponse) -> dict[str, float]:
    sender = asyncio.create_task(self._send(socket))
    stopped = None
    try:
      with contextlib.closing(self.log), self.bar, MediaWriter(self.folder / "agent.mp4", self.media) as writer:
        try:
          await self._receive(socket, writer, sender)
        except asyncio.CancelledError as error:  # Ctrl-C: the film up to here is completed
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

  async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
    """The file at its own pace, 20 ms at a time, pictures as they are shown."""
    media, begin = self.media, time.perf_counter()
    size = round(PART * media.sample_rate)
    for index, user in enumerate(self.reader):
      self.users.append(user)
      start = index * media.unit_ms / 1000
      for first in range(0, media.samples, size):
        moment = start + (first + size) / media.sample_rate
        await asyncio.sleep(max(0.0, begin + moment - time.perf_counter()))
        captured = begin + start + first / media.sample_rate
        if user.audio is not None:
          await socket.send_bytes(protocol.sound(user.audio[first : first + size], captured).pack())
        frame, rest = divmod(first * media.fps, media.sample_rate)
        if user.video is not None and rest == 0:
          jpeg = encode_picture(user.video[frame])
          await socket.send_bytes(protocol.Media(protocol.JPEG, jpeg, captured, key_frame=True).pack())

  async def _receive(
    self, socket: aiohttp.ClientWebSocketResponse, writer: MediaWriter, sender: asyncio.Task[None]
  ) -> None:
    """Units as they come, until there are as many as the file has. Raises what made the sender stop."""
    media, unit, latency = self.media, None, None
    sound, pictures = [], []
    while len(self.log.rows) < len(self.reader):
      if sender.done():
        sender.result()
      message = await socket.receive(ANSWER_WITHIN)
      if message.type is aiohttp.WSMsgType.BINARY:
        part = protocol.unpack(message.data)
        if part.kind == protocol.SOUND:
          sound.append(part.samples)
          if unit is not None and unit["heard"] is not None and sum(map(len, sound)) == media.samples:
            latency = 1000 * (time.perf_counter() - unit["heard"])
        else:
          pictures.append(decode_picture(part.payload, media.height, media.width))
      elif message.type is aiohttp.WSMsgType.TEXT:
        value = protocol.hear(message.data)
        if value["type"] == "unit":
          if unit is not None:  # the server left pictures of it out
            self._unit(unit, sound, pictures, latency, writer)
            sound, pictures, latency = [], [], None
          unit = value
        elif value["type"] in ("ended", "error"):
          raise UserError(f"the server ended the conversation: {value.get('message')}")
      else:
        raise UserError("the connection was lost")
      whole = sum(map(len, sound)) == media.samples and len(pictures) == media.frames
      if unit is not None and whole:
        self._unit(unit, sound, pictures, latency, writer)
        unit, sound, pictures, latency = None, [], [], None

  def _unit(self, value: dict, sound: list[np.ndarray], pictures: list[np.ndarray], latency: float | None,
            writer: MediaWriter) -> None:  # fmt: skip
    """latency: milliseconds from the capture of the user's unit to its answer, None where it had no sound."""
    media = self.media
    self.latencies += [] if latency is None else [latency]
    audio = np.concatenate([*sound, np.zeros(media.samples, np.float32)])[: media.samples]
    self.shown = pictures[-1] if pictures else self.shown
    video = np.stack([*pictures, *[self.shown] * media.frames][: media.frames])
    writer.write(video, audio)
    index = len(self.log.rows)
    user = self.users[index] if index < len(self.users) else MediaUnit(None, None)
    heard = user.audio
    self.late += bool(value["late"])
    row = UnitRow(
      unit=index, start=round(index * self.media.unit_ms / 1000, 3),
      times={phase: value[f"{phase}_ms"] for phase in PHASES}, text=value["text"], typed=(),
      speaking=value["speaking"], user_speaking=heard is not None and is_loud(heard), level=round(level(audio), 1),
      user_level=None if heard is None else round(level(heard), 1),
      latency=None if latency is None else round(latency, 3),
    )  # fmt: skip
    self.log.add(row, heard, audio)
    self.bar.update()
