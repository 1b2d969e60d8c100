"""The stored form of a unit and of a session, as NumPy dtypes. A `Session` is converted into them.

A unit record is a fixed-size structured array, so that reading is nothing but `np.frombuffer`. Media are stored as
video uint8 and audio int16. A session record is a fixed part (world text, portrait, voice) followed by JSON with the
ground truth (events, words, phones, world fields). `record_folder.py` puts both into files.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data import labels
from wanstreamer_jax.data.loudness import LOUD, levels
from wanstreamer_jax.data.session import AGENT, USER, Event, Phone, Session, Side, Word, World
from wanstreamer_jax.data.tokenizer import CUT, TextTokenizer
from wanstreamer_jax.errors import DataError

AUDIO_SCALE = 32767.0
ROUNDING = 1e-6  # units by which rounding may put a time before the start of the unit that it belongs to


def unit_dtype(config: Config, tracks: Sequence[str]) -> np.dtype:
  """Layout of one media unit.

  For both sides: video uint8 [frames, H, W, 3], audio int16 [samples], text int32 [slots], `*_valid` (the stream
  exists in this unit; of text: what was said is known), speaking bool [frames] and one float16 [frames] per name in
  `tracks`. The user has labels besides, int32 [L] (`labels.py`).
  """
  media, slots = config.media, {USER: config.layout.user_text_slots, AGENT: config.layout.text_slots}
  fields: list[tuple[str, str, tuple[int, ...]]] = []
  for side in (USER, AGENT):
    fields += [
      (f"{side}_video", "<u1", (media.frames, media.height, media.width, 3)),
      (f"{side}_audio", "<i2", (media.samples,)),
      (f"{side}_text", "<i4", (slots[side],)),
      (f"{side}_video_valid", "|b1", ()),
      (f"{side}_audio_valid", "|b1", ()),
      (f"{side}_text_valid", "|b1", ()),
      (f"{side}_speaking", "|b1", (media.frames,)),
    ]
    fields += [(f"{side}_{name}", "<f2", (media.frames,)) for name in tracks]
  fields.append((labels.FIELD, "<i4", (len(labels.KINDS),)))
  return np.dtype(fields)


TEXT_VALID = tuple(f"{side}_text_valid" for side in (USER, AGENT))


LATER = (*TEXT_VALID, labels.FIELD)  # fields that older records lack


def unit_field(units: np.ndarray, name: str, manifest: Mapping[str, Any] = MappingProxyType({})) -> np.ndarray:
  """A field of unit records [units] of the folder with this manifest. Older records do not say whether text is valid:
  all of it is; and of their users nothing is known."""
  if name == labels.FIELD:
    return labels.stored_labels(units, manifest)
  return np.ones(len(units), bool) if name in TEXT_VALID and name not in (units.dtype.names or ()) else units[name]


def session_dtype(config: Config) -> np.dtype:
  """Layout of a session's fixed part: world text, portrait and voice sample, with flags that say whether they exist."""
  media, layout = config.media, config.layout
  return np.dtype(
    [
      ("world_text", "<i4", (layout.world_text,)),
      ("portrait", "<u1", (media.height, media.width, 3)),
      ("portrait_valid", "|b1"),
      ("voice", "<i2", (layout.voice_units * media.samples,)),
      ("voice_valid", "|b1"),
      ("seed", "<i8"),
    ]
  )


def video_to_float(video: Any) -> Any:
  """uint8 video to [-1, 1]; NumPy or JAX arrays."""
  return video.astype("float32") / 127.5 - 1.0


def video_to_uint8(video: Any) -> Any:
  """Video in [-1, 1], or a little outside, to uint8; NumPy or JAX arrays."""
  return ((video.clip(-1.0, 1.0) + 1.0) * 127.5).round().astype("uint8")


def audio_to_float(audio: Any) -> Any:
  """int16 audio to [-1, 1]; NumPy or JAX arrays."""
  return audio.astype("float32") / AUDIO_SCALE


def audio_to_int16(audio: np.ndarray) -> np.ndarray:
  """float audio [S] in [-1, 1] to int16; louder samples are clipped."""
  return np.round(np.clip(audio, -1.0, 1.0) * AUDIO_SCALE).astype(np.int16)


@dataclasses.dataclass(frozen=True)
class TextStats:
  """Counts of what happened to words when they were placed into the slots of units. Instances can be added."""

  words: int = 0
  tokens: int = 0
  spilled: int = 0  # words that ended in a later unit than the one they were written in
  dropped: int = 0  # words that the session's end cut off, whole or in part
  late_1: int = 0  # words whose text ends one unit after the unit in which they begin to sound
  late_2: int = 0  # two units
  late_3: int = 0  # three or more

  @property
  def late(self) -> int:
    """Words whose text ends after the unit in which they begin to sound."""
    return self.late_1 + self.late_2 + self.late_3

  def __add__(self, other: "TextStats") -> "TextStats":
    return TextStats(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


def text_to_units(
  words: Sequence[Word], units: int, slots: int, tokenizer: TextTokenizer, unit_seconds: float, onsets: bool = True
) -> tuple[np.ndarray, TextStats]:
  """Places words into the text slots of units (design section 3). Returns ids int32 [units, slots] and statistics.

  A word enters the unit in which it is `written`; what does not fit spills into the next units, in order. No word is
  left out: one with more tokens than there are free slots up to its onset ends later than it begins to sound, and so do
  the words behind it until the stream has caught up. Only the session's end cuts words off. Free slots hold PAD; the
  first PAD of a unit is a token of the stream, the others are padding. onsets: whether words sound (typed text does
  not, nor does `<cut>`), so that they can be late.
  """
  ids = np.full((units, slots), tokenizer.pad_id, np.int32)
  cursor, stats = 0, TextStats()  # cursor: the next free slot, counted from the session's start
  for word in sorted(words, key=lambda word: word.written):
    tokens = tokenizer.encode_word(word.text)
    written = max(0, int(word.written / unit_seconds + ROUNDING))
    first = max(cursor, written * slots)
    placed = tokens[: max(0, units * slots - first)]
    ids.reshape(-1)[first : first + len(placed)] = placed
    cursor, whole = first + len(placed), len(placed) == len(tokens)
    last = (cursor - 1) // slots if placed else written
    late = last - max(written, int(word.start / unit_seconds + ROUNDING)) if onsets and word.text != CUT else 0
    by = [int(whole and late == 1), int(whole and late == 2), int(whole and late > 2)]
    stats += TextStats(1, len(placed), int(whole and last > written), int(not whole), *by)
  return ids, stats


def session_to_units(
  session: Session, config: Config, tokenizer: TextTokenizer, dtype: np.dtype
) -> tuple[np.ndarray, dict[str, TextStats]]:
  """A session as unit records [units] of `dtype`, and text statistics per side. Raises DataError for wrong shapes."""
  records, stats = np.zeros(session.units, dtype), {}
  if labels.FIELD in (dtype.names or ()):
    records[labels.FIELD] = labels.session_labels(session, tokenizer, config.media.unit_ms / 1000)
  frames, seconds = config.media.frames, config.media.unit_ms / 1000
  for name, side in ((USER, session.user), (AGENT, session.agent)):
    if side.video is not None:
      expected = (session.units * frames, *dtype[f"{name}_video"].shape[1:])
      records[f"{name}_video"] = _shaped(side.video, expected, f"{name} video of {session.source}").reshape(
        records[f"{name}_video"].shape
      )
      records[f"{name}_video_valid"] = _valid(side.video_valid, session)
    if side.audio is not None:
      audio = _shaped(side.audio, (session.units * config.media.samples,), f"{name} audio of {session.source}")
      records[f"{name}_audio"] = audio_to_int16(audio).reshape(session.units, -1)
      records[f"{name}_audio_valid"] = _valid(side.audio_valid, session)
    records[f"{name}_text_valid"] = _valid(side.text_valid, session)
    slots, length = dtype[f"{name}_text"].shape[0], session.units if session.length is None else session.length
    records[f"{name}_text"] = tokenizer.pad_id
    records[f"{name}_text"][:length], stats[name] = text_to_units(
      side.words, length, slots, tokenizer, seconds, onsets=name == AGENT
    )
    records[f"{name}_speaking"] = speaking(side, session.units * frames, config.media.fps).reshape(-1, frames)
    for track, values in side.tracks.items():
      if f"{name}_{track}" in (dtype.names or ()) and track != "speaking":
        values = _shaped(values, (session.units * frames,), f"{name} track {track}")
        records[f"{name}_{track}"] = values.reshape(-1, frames)
  return records, stats


def _valid(valid: np.ndarray | None, session: Session) -> np.ndarray:
  """bool [units]: where a stream exists, which is nowhere past the end of the session."""
  exists = np.arange(session.units) < (session.units if session.length is None else session.length)
  return exists if valid is None else exists & _shaped(valid, (session.units,), f"validity in {session.source}")


def speaking(side: Side, frames: int, fps: int) -> np.ndarray:
  """bool [frames]: whether the middle of a frame lies inside a voiced word; in units whose words nobody knows, whether
  its sound is above LOUD."""
  middle = (np.arange(frames) + 0.5) / fps
  result = np.zeros(frames, bool)
  for word in side.speech:
    result |= word.voiced & (middle >= word.start) & (middle < word.end)
  if side.text_valid is None or side.audio is None:
    return result
  units = len(side.text_valid)
  sound, per_unit = side.audio.reshape(units, -1), frames // units
  loud = levels(sound[:, : sound.shape[1] // per_unit * per_unit].reshape(-1), frames) > LOUD
  return np.where(np.repeat(side.text_valid, per_unit), result, loud)


def _shaped(array: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
  if array.shape != shape:
    raise DataError(f"{what} has shape {array.shape}: expected {shape}")
  return array


@dataclasses.dataclass(frozen=True)
class SessionRecord:
  """What a folder keeps per session: the fixed part (a structured scalar) and the ground truth."""

  fixed: np.ndarray  # session_dtype, or its latent counterpart
  truth: dict[str, Any]  # events, words, speech, phones, world fields, source

  def to_bytes(self) -> bytes:
    return self.fixed.tobytes() + json.dumps(self.truth, separators=(",", ":"), default=_plain).encode()

  @classmethod
  def from_bytes(cls, blob: bytes, dtype: np.dtype) -> "SessionRecord":
    try:
      return cls(np.frombuffer(blob[: dtype.itemsize], dtype)[0], json.loads(blob[dtype.itemsize :]))
    except (ValueError, IndexError) as error:
      raise DataError(f"a session record of {len(blob)} bytes is not {dtype.itemsize} bytes and JSON") from error


def _plain(value: Any) -> Any:
  """NumPy scalars in an event's detail, as JSON values."""
  return value.item()


def told_world(config: Config, world: World) -> World:
  """The world as the model is told it, in training and in serving: where recordings drew their leads, with the lead."""
  return world if config.data.text_leads is None else world.with_lead(config.data.text_lead)


def session_record(
  session: Session, config: Config, tokenizer: TextTokenizer, dtype: np.dtype
) -> tuple[SessionRecord, int]:
  """The session's record, and the number of world-text tokens that did not fit."""
  fixed, world = np.zeros((), dtype), told_world(config, session.world)
  fixed["seed"] = session.seed
  ids = tokenizer.encode(world.text()) if world.fields else []
  capacity = dtype["world_text"].shape[0]
  fixed["world_text"] = tokenizer.pad_id
  fixed["world_text"][: min(len(ids), capacity)] = ids[:capacity]
  if world.portrait is not None:
    fixed["portrait"] = _shaped(world.portrait, dtype["portrait"].shape, f"portrait of {session.source}")
    fixed["portrait_valid"] = True
  samples = dtype["voice"].shape[0]
  if world.voice is not None and samples:
    voice = audio_to_int16(world.voice[:samples])
    fixed["voice"][: len(voice)] = voice  # a shorter sample ends in silence
    fixed["voice_valid"] = True
  return SessionRecord(fixed, truth_of(session)), max(0, len(ids) - capacity)


def truth_of(session: Session) -> dict[str, Any]:
  """The ground truth of a session as JSON values; `session_from_truth` is the way back."""
  sides = {
    name: {key: [dataclasses.asdict(item) for item in getattr(side, key)] for key in ("words", "speech", "phones")}
    for name, side in ((USER, session.user), (AGENT, session.agent))
  }
  return {
    **sides,
    "world": session.world.fields,
    "events": [dataclasses.asdict(event) for event in session.events],
    "units": session.units,
    "seed": session.seed,
    "source": session.source,
    "length": session.units if session.length is None else session.length,
    "speaker": session.speaker,
    "events_complete": session.events_complete,
  }


def session_from_truth(truth: dict[str, Any], units: np.ndarray | None = None) -> Session:
  """A session from its ground truth and, when given, its unit records (media, tracks)."""
  sides = {}
  for name in (USER, AGENT):
    words, speech = (tuple(Word(**item) for item in truth[name][key]) for key in ("words", "speech"))
    phones = tuple(Phone(**item) for item in truth[name]["phones"])
    video, audio, tracks = _media(units, name) if units is not None else (None, None, {})
    sides[name] = Side(video, audio, words, speech, phones, tracks)
  events = tuple(Event(**item) for item in truth["events"])
  world, known = World(fields=truth["world"]), (truth["units"], truth["seed"], truth["source"])
  later = truth.get("length"), truth.get("speaker", ""), truth.get("events_complete", False)  # older records lack these
  return Session(sides[USER], sides[AGENT], world, events, *known, *later)


def _media(units: np.ndarray, name: str) -> tuple[np.ndarray | None, np.ndarray | None, dict[str, np.ndarray]]:
  fields = units.dtype.names or ()
  has = {kind: f"{name}_{kind}" in fields and bool(units[f"{name}_{kind}_valid"].any()) for kind in ("video", "audio")}
  video = units[f"{name}_video"].reshape(-1, *units[f"{name}_video"].shape[2:]) if has["video"] else None
  audio = audio_to_float(units[f"{name}_audio"]).reshape(-1) if has["audio"] else None
  tracks = {
    field.removeprefix(f"{name}_"): units[field].reshape(-1)
    for field in fields
    if field.startswith(f"{name}_") and units.dtype[field].base == np.float16 and units.dtype[field].ndim == 1
  }
  return video, audio, tracks
