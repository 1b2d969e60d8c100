"""Reads recordings of two people as sessions. A JSON-lines manifest (`manifest.py`) lists the media files.

Any frame size, frame rate and sample rate will do. A recording gives consecutive sessions of `data.session_units`
units; what is left at its end is a shorter session, if it has at least `data.min_session_units`, whose other units are
invalid.
"""

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config, DataConfig, MediaConfig
from wanstreamer_jax.data.make import ItemReport
from wanstreamer_jax.data.manifest import BadLine, ManifestLine, SideLine, read_manifest, world_path
from wanstreamer_jax.data.own_world import pick_portrait, pick_voice
from wanstreamer_jax.data.quality import QualityWatch
from wanstreamer_jax.data.recording_media import RecordingMedia, SideUnits
from wanstreamer_jax.data.session import AGENT, USER, Session, Side, Word, World
from wanstreamer_jax.data.world_file import world_of
from wanstreamer_jax.errors import DataError

__all__ = ["BadLine", "ManifestLine", "RecordingsSource", "read_manifest"]


@dataclasses.dataclass(frozen=True)
class RecordingsSource:
  """A `make.SessionSource` over a manifest: one item per recording and role. `units` is the length of a session."""

  manifest: pathlib.Path
  media: MediaConfig
  data: DataConfig
  voice_units: int
  recordings: tuple[ManifestLine | BadLine, ...]
  tracks: tuple[str, ...] = ()

  @classmethod
  def open(
    cls, manifest: str | pathlib.Path, config: Config, skip_bad: bool = False, roles: str = ""
  ) -> "RecordingsSource":
    """Reads and checks the manifest. Raises DataError for its first bad line; with `skip_bad` only that item does.

    roles: for lines that do not say: "agent" (as written, the default) or "both".
    """
    items: list[ManifestLine | BadLine] = []
    for line in read_manifest(manifest, skip_bad, roles):
      items.append(line)
      if isinstance(line, ManifestLine) and line.roles == "both":
        items.append(line.swapped())
    return cls(pathlib.Path(manifest), config.media, config.data, config.layout.voice_units, tuple(items))

  @property
  def items(self) -> int:
    return len(self.recordings)

  @property
  def units(self) -> int:
    return self.data.session_units

  @property
  def shortest(self) -> int:
    """Units below which what is left of a recording gives no session."""
    return min(self.data.min_session_units, self.units)

  def describe(self) -> dict[str, Any]:
    digest, data = hashlib.sha256(self.manifest.read_bytes()).hexdigest(), self.data
    known = {"manifest": self.manifest.name, "sha256": digest, "recordings": self.items, "words": self._words_digest()}
    lead = {"text_lead": data.text_lead if data.text_leads is None else None}  # None: drawn, and told in the world
    chosen = {"text_leads": data.text_leads and list(data.text_leads), "shortest": self.shortest}
    return {
      "name": "recordings",
      **known,
      **lead,
      **chosen,
      "own_portrait": data.own_portrait,
      "own_voice": self._voice,
    }

  def _words_digest(self) -> str:
    """SHA-256 over all words: those of transcripts are not in the manifest's own."""
    digest = hashlib.sha256()
    for line in self.recordings:
      if isinstance(line, ManifestLine):
        digest.update(repr([line.id, *(side.words for side in line.sides.values())]).encode())
    return digest.hexdigest()

  def spoken(self) -> Iterator[tuple[Word, ...]]:
    """The agent's words of every recording."""
    for line in self.recordings:
      if isinstance(line, ManifestLine):
        lead = self._lead(line) * self.media.unit_ms / 1000
        known = line.sides[AGENT].words or ()
        yield tuple(Word(text, max(0.0, start - lead), start, end) for text, start, end in known)

  def where(self, item: int) -> str:
    return self.recordings[item].where

  @property
  def _voice(self) -> int:
    """Units of a voice sample that is taken from a recording."""
    return self.voice_units if self.data.own_voice else 0

  def sessions(self, item: int) -> Generator[Session, None, ItemReport]:
    """Consecutive sessions of one recording. Raises DataError and MediaError for what cannot be read."""
    line, folder = self.recordings[item], self.manifest.parent
    if isinstance(line, BadLine):
      raise DataError(line.reason)
    opened = RecordingMedia(line, folder, self.media)
    world, lead = self._world(line, opened), self._lead(line)
    watch, number, end, units = QualityWatch(line, self.media), 0, 0.0, iter(opened)
    while piece := list(itertools.islice(units, self.units)):
      for unit in piece:
        watch.add(unit)
      if len(piece) < self.shortest:
        break
      session = _Piece(line, number, piece, self.units, lead, self.media)
      if world.portrait is None and self.data.own_portrait and "portrait" not in line.sides[AGENT].world:
        world = dataclasses.replace(world, portrait=session.portrait())
      yield session.build(world)
      number, end, piece = number + 1, session.begin + session.seconds, []
    cut = {side: sum(word.start >= end for word in line.sides[side].words or ()) for side in (USER, AGENT)}
    return ItemReport(len(piece), watch.report() | {"cut_seconds": round(opened.cut, 2), "cut_words": cut})

  def _lead(self, line: ManifestLine) -> int:
    """By how many units a word is written before it sounds: `data.text_lead`, or drawn for each recording."""
    leads = self.data.text_leads or (self.data.text_lead,)
    return leads[int(hashlib.sha256(line.id.encode()).hexdigest(), 16) % len(leads)]

  def _world(self, line: ManifestLine, opened: RecordingMedia) -> World:
    """The world of the agent, with a voice sample from the recording unless one is given."""
    given = line.sides[AGENT].world
    world = world_of(world_path(line.where), given, self.media)
    if self.data.text_leads is not None:
      world = world.with_lead(self._lead(line))
    if world.voice is None and self._voice and "voice" not in given:
      voice = pick_voice(opened.sound(AGENT), opened.sound(USER), self._voice, self.media)
      world = dataclasses.replace(world, voice=voice)
    return world


@dataclasses.dataclass(frozen=True)
class _Piece:
  """Session `number` of a recording: its media, and the words and events that touch it, on its own clock."""

  line: ManifestLine
  number: int
  units: list[dict[str, SideUnits]]  # that exist
  length: int  # units of a session
  lead: int  # units
  media: MediaConfig

  @property
  def begin(self) -> float:
    """Seconds of the recording."""
    return self.number * self.length * self.media.unit_ms / 1000

  @property
  def seconds(self) -> float:
    return len(self.units) * self.media.unit_ms / 1000

  def build(self, world: World) -> Session:
    """The session, filled up to its whole length with units that are invalid."""
    begin, seconds, source = self.begin, self.seconds, f"{self.line.id}/{self.number}"
    sides = {name: self._side(name, self.line.sides[name]) for name in (USER, AGENT)}
    events = tuple(
      dataclasses.replace(event, start=max(0.0, event.start - begin), end=min(event.end - begin, seconds))
      for event in self.line.events
      if event.end >= begin and event.start < begin + seconds
    )
    seed = int(hashlib.sha256(source.encode()).hexdigest()[:15], 16)
    speaker, existing = self.line.sides[AGENT].speaker, len(self.units)
    return Session(sides[USER], sides[AGENT], world, events, self.length, seed, source, existing, speaker)

  def portrait(self) -> np.ndarray | None:
    """A good frame of the agent, or None."""
    video, audio = self._stream(AGENT, "video"), self._stream(AGENT, "audio")
    if video is None:
      return None
    exists = np.flatnonzero(np.repeat([unit[AGENT].video_valid for unit in self.units], self.media.frames))
    if not len(exists):
      return None
    first, last = int(exists[0]), int(exists[-1]) + 1  # a stream begins and ends once
    if audio is not None:
      samples = len(audio) // len(video)
      audio = audio[first * samples : last * samples]
    video, begin = video[first:last], self.begin + first / self.media.fps
    words = self.line.sides[AGENT].words
    inside = words and tuple(
      word._replace(start=max(0.0, word.start - begin), end=word.end - begin)
      for word in words
      if word.end > begin and word.start < self.begin + last / self.media.fps
    )
    return pick_portrait(video, audio, inside, self.media)

  def _side(self, name: str, side: SideLine) -> Side:
    words, begin, seconds, lead = side.words or (), self.begin, self.seconds, self.lead * self.media.unit_ms / 1000
    speech = tuple(
      Word(text, max(0.0, start - begin - lead), max(0.0, start - begin), min(end - begin, seconds))
      for text, start, end in words
      if end > begin and start < begin + seconds
    )
    written = tuple(  # within this session, even if it sounds after it; not a word that already sounds at its start
      Word(text, max(0.0, start - begin - lead), start - begin, end - begin)
      for text, start, end in words
      if start >= begin and start - lead < begin + seconds
    )
    streams = {kind: self._stream(name, kind) for kind in ("video", "audio")}
    video_valid, audio_valid = (
      self._padded(np.array([getattr(unit[name], f"{kind}_valid") for unit in self.units])) for kind in streams
    )
    text_valid = self._padded(np.full(len(self.units), side.words is not None))
    padded = {kind: None if stream is None else self._filled(stream) for kind, stream in streams.items()}
    words_of_agent = written if name == AGENT else ()
    return Side(
      padded["video"], padded["audio"], words_of_agent, speech, video_valid=video_valid, audio_valid=audio_valid,
      text_valid=text_valid,
    )  # fmt: skip

  def _stream(self, name: str, kind: str) -> np.ndarray | None:
    """One stream over the units that exist, or None."""
    pieces = [getattr(unit[name], kind) for unit in self.units]
    return None if pieces[0] is None else np.concatenate(pieces)

  def _filled(self, stream: np.ndarray) -> np.ndarray:
    """A stream over the whole session; zeros where it does not exist."""
    missing = len(stream) // len(self.units) * (self.length - len(self.units))
    return np.concatenate([stream, np.zeros((missing, *stream.shape[1:]), stream.dtype)]) if missing else stream

  def _padded(self, valid: np.ndarray) -> np.ndarray:
    return np.pad(valid, (0, self.length - len(valid)))
