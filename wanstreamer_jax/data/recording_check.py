"""Looks at all recordings of a manifest before hours of work. It reads headers only.

`check_recordings` finds what `data make` would stumble over: files, tracks and channels that do not exist, crops that
lie outside, sides of different length, words after the end, and settings that do not fit together.
"""

import collections
import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.manifest import BadLine
from wanstreamer_jax.data.media_probe import read_header
from wanstreamer_jax.data.quality import QualityWatch, quality_flags
from wanstreamer_jax.data.recording_media import RecordingMedia, cut_off, open_tracks, recording_length
from wanstreamer_jax.data.recordings import RecordingsSource
from wanstreamer_jax.data.session import AGENT, USER
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.data.transcripts import read_text_lines
from wanstreamer_jax.errors import ConfigError, DataError, MediaError
from wanstreamer_jax.files import write_text


@dataclasses.dataclass(frozen=True)
class Outlook:
  """What a manifest will give. `problems` are (where, reason)."""

  problems: list[tuple[str, str]]
  seconds: float  # of all recordings that can be used, roles counted
  whole: int  # sessions of the full length
  shorter: int  # that end earlier
  unused: float  # seconds at ends
  unknown: int  # recordings whose headers state no length
  words: dict[str, int]
  with_words: dict[str, int]  # recordings whose words are known, by side
  with_video: dict[str, int]
  speakers: dict[str, int]  # recordings in which somebody is the agent
  recordings: int
  usable: int
  cut: float  # seconds of longer streams past the ends of recordings
  empty: float  # share of the units of training crops that lie past a session's end

  def lines(self) -> list[str]:
    """For people."""
    used = self.usable
    out = [f"{self.recordings} recordings (roles counted), {used} usable: {self.seconds / 3600:.2f} h"]
    ends = f"{self.unused:.1f} s at ends give none, {self.cut:.1f} s of longer streams are cut"
    out.append(f"{self.whole} whole sessions and {self.shorter} shorter ones; {ends}")
    if self.empty > 0:
      out.append(f"{100 * self.empty:.0f} % of a training step would lie past the end of sessions: lower data.units")
    for side in (USER, AGENT):
      known, seen = self.with_words[side], self.with_video[side]
      out.append(f"{side}: {known} of {used} with words ({self.words[side]}), {seen} with a picture")
    silent = used - self.with_words[AGENT]
    if silent:
      out.append(
        f"{silent} recordings do not say what the agent said: its text is not learned from them (docs/data.md)"
      )
    if self.speakers:
      most = max(self.speakers, key=self.speakers.__getitem__)
      out.append(f"{len(self.speakers)} speakers as the agent; the most frequent, {most}, in {self.speakers[most]}")
    if self.unknown:
      out.append(f"{self.unknown} recordings state no length: it is found when they are read")
    return out

  def require_none(self) -> None:
    """Raises DataError with the number of problems and the first of them."""
    if self.problems:
      where, reason = self.problems[0]
      count = f" ({len(self.problems)} such recordings; `wanstreamer data check` lists them)"
      raise DataError(
        f"{where}: {reason}; or pass --skip-bad to leave such items out{count if len(self.problems) > 1 else ''}"
      )


def check_config(config: Config) -> None:
  """Raises DataError or ConfigError unless records of this config can be trained on: its tokenizer, and its lengths."""
  tokenizer_of(config)
  data = config.data
  if data.session_units < data.units:
    raise ConfigError(
      f"data.session_units is {data.session_units}, but training crops are data.units = {data.units} long: make "
      "sessions at least as long"
    )


def check_recordings(source: RecordingsSource) -> Outlook:
  """Looks at every recording of a source; raises nothing for what is wrong with one."""
  problems: list[tuple[str, str]] = []
  counts: collections.Counter[Any] = collections.Counter()
  seconds = unused = cut = 0.0
  unit = source.media.unit_ms / 1000
  for item, line in enumerate(source.recordings):
    if isinstance(line, BadLine):
      problems.append((line.where, line.reason))
      continue
    try:
      boxes = any(side.video is not None and side.video.boxes for side in line.sides.values())
      prober = functools.partial(read_header, picture=boxes)  # whether they fit depends on the rotation
      tracks = open_tracks(line, source.manifest.parent, prober)
      length = recording_length(tracks, line)
      units = math.inf if length == math.inf else math.ceil((length - 0.001) / unit)
      if units < source.shortest:
        raise DataError(f"it lasts {length:.2f} s: a session has at least {source.shortest * unit:.2f} s")
    except (DataError, MediaError) as error:
      problems.append((source.where(item), str(error).removeprefix(f"{source.where(item)}: ")))
      continue
    counts["usable"] += 1
    for side in (USER, AGENT):
      words = line.sides[side].words
      counts["words", side] += len(words or ())
      counts["known", side] += words is not None
      counts["video", side] += f"{side}.video" in tracks
    counts["speaker", line.sides[AGENT].speaker] += 1
    if units == math.inf:
      counts["unknown"] += 1
      continue
    seconds, cut = seconds + length, cut + cut_off(tracks, length)
    whole, rest = divmod(int(units), source.units)
    counts["whole"] += whole
    if rest >= source.shortest:
      counts["shorter"] += 1
      counts["empty"] += max(0, source.data.units - rest)
    unused += rest * unit if rest < source.shortest else 0.0
  by_side = lambda what: {side: counts[what, side] for side in (USER, AGENT)}
  speakers = {key[1]: n for key, n in counts.items() if isinstance(key, tuple) and key[0] == "speaker" and key[1]}
  return Outlook(
    list(dict.fromkeys(problems)), seconds, counts["whole"], counts["shorter"], unused, counts["unknown"],
    by_side("words"), by_side("known"), by_side("video"), speakers, len(source.recordings), counts["usable"], cut,
    counts["empty"] / max(1, source.data.units * (counts["whole"] + counts["shorter"])),
  )  # fmt: skip


def measure(source: RecordingsSource) -> Iterator[dict[str, Any]]:
  """Reads all of every recording and yields its figures (`quality.py`) and "where"; "error" where it cannot be read."""
  seen: set[str] = set()
  for line in source.recordings:
    if isinstance(line, BadLine) or line.where in seen:  # in its other role
      continue
    seen.add(line.where)
    watch = QualityWatch(line, source.media)
    try:
      for unit in RecordingMedia(line, source.manifest.parent, source.media):
        watch.add(unit)
    except (DataError, MediaError) as error:
      yield {"where": line.where, "id": line.id, "error": str(error), "flags": ["unreadable"]}
      continue
    yield {"where": line.where, **watch.report()}


def write_without(
  source: RecordingsSource, entries: list[dict[str, Any]], words: Sequence[str], out: str
) -> tuple[int, list[str]]:  # fmt: skip
  """Writes the manifest without the recordings that have a flag with one of `words` in it.

  Returns how many are kept, and "id: flags" of the others. Raises DataError for a word that no flag has, and for a
  manifest in another folder, whose paths would lead elsewhere.
  """
  known = quality_flags()
  for word in words:
    if not any(word in flag for flag in known):
      raise DataError(f"--drop {word!r}: no flag has it; the flags are {', '.join(sorted(known))}")
  path = pathlib.Path(out)
  if path.resolve().parent != source.manifest.resolve().parent:
    raise DataError(f"{out}: a manifest's paths are relative to it; write it into {source.manifest.resolve().parent}")
  gone = {
    entry["where"]: f"{entry['id']}: {', '.join(entry['flags'])}"
    for entry in entries
    if any(word in flag for word in words for flag in entry["flags"])
  }
  lines = read_text_lines(source.manifest, "recordings manifest")
  kept = [line for number, line in enumerate(lines, 1) if line.strip() and f"{source.manifest}:{number}" not in gone]
  write_text(path, "".join(f"{line}\n" for line in kept))
  return len(kept), list(gone.values())


def check_manifest(path: str | pathlib.Path, config: Config, roles: str = "") -> Outlook:
  """`check_config` and `check_recordings` of a manifest, whose bad lines are problems."""
  check_config(config)
  return check_recordings(RecordingsSource.open(path, config, skip_bad=True, roles=roles))
