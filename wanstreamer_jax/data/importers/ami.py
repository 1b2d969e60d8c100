"""Reads AMI meetings: four people, each with a headset microphone and a close-up camera. CC BY 4.0.

    <meeting>/audio/<meeting>.Headset-<channel>.wav      16 kHz, all of a meeting on one clock
    <meeting>/video/<meeting>.Closeup<n>.avi             optional
    words/<meeting>.<A-D>.words.xml                      of the manual annotations 1.6.2
    corpusResources/meetings.xml                         who (nxt_agent, global_name) has which channel and camera

Files are found by their names, wherever they lie. A recording has two people, so a meeting gives the pair, or the
pairs, who take turns with each other most often; the other people are not heard, though both may answer them.
"""

import itertools
import pathlib
import re
import xml.etree.ElementTree as xml
from typing import Any, NamedTuple

from wanstreamer_jax.data.importers.imported import DEFAULTS, Imported, ImportOptions, files_of, listed, opened_folder
from wanstreamer_jax.data.transcripts import Words, words_by_speaker
from wanstreamer_jax.errors import DataError

TERMS = (
  "The AMI Meeting Corpus is CC BY 4.0: name it (Carletta et al., 2005) where you show what was made with it. Its "
  "people consented to the publication of their recordings, not to being imitated: do not serve their faces or voices."
)
HEADSET = re.compile(r"(\w+)\.Headset-(\d+)")
TURN_GAP = 1.0  # seconds of silence that end a turn
VIDEOS = (".avi", ".mp4", ".mkv", ".rm", ".mov")


class Person(NamedTuple):
  """Somebody in a meeting."""

  agent: str  # A to D
  name: str
  audio: pathlib.Path
  video: pathlib.Path | None
  words: Words | None


def ami(folder: str | pathlib.Path, options: ImportOptions = DEFAULTS) -> Imported:
  """Pairs of the meetings of a folder. Raises DataError if it is none, or for broken annotations."""
  folder, found = opened_folder(folder), Imported(TERMS)
  paths = {path.name: path for path in files_of(folder, (".wav", ".xml", *VIDEOS))}
  speakers = _speakers(paths.get("meetings.xml"))
  headsets: dict[str, dict[int, pathlib.Path]] = {}
  for path in sorted(paths.values()):
    match = HEADSET.fullmatch(path.stem)
    if match:
      headsets.setdefault(match[1], {})[int(match[2])] = path
  for meeting, channels in headsets.items():
    people = _people(meeting, channels, speakers.get(meeting, {}), paths)
    if len(people) < 2:
      found.left_out.append((meeting, f"{len(people)} headsets of known speakers: a conversation needs two"))
      continue
    pairs = sorted(
      itertools.combinations(people, 2), key=lambda pair: (-exchanges(*pair), pair[0].agent, pair[1].agent)
    )
    for a, b in pairs[: options.pairs]:
      line = {"id": f"{meeting}-{a.agent}-{b.agent}", "roles": options.roles, "user": _side(a), "agent": _side(b)}
      found.lines.append(line)
    if len(pairs) > options.pairs:
      found.left_out.append((meeting, f"{len(pairs) - options.pairs} pairs who exchange fewer turns (--pairs)"))
  return found


def _speakers(path: pathlib.Path | None) -> dict[str, dict[str, dict[str, str]]]:
  """{meeting: {agent: attributes}} of meetings.xml."""
  if path is None:
    return {}
  return {
    meeting.get("observation", ""): {
      speaker.get("nxt_agent", ""): speaker.attrib for speaker in meeting.iter("speaker")
    }
    for meeting in _parsed(path).iter("meeting")
  }


def _parsed(path: pathlib.Path) -> xml.Element:
  try:
    return xml.parse(path).getroot()
  except (xml.ParseError, OSError) as error:
    raise DataError(f"{path}: not the XML of the AMI annotations ({error}); unpack them again") from error


def _people(
  meeting: str, channels: dict[int, pathlib.Path], speakers: dict[str, dict[str, str]], paths: dict[str, pathlib.Path]
) -> list[Person]:  # fmt: skip
  """The people of a meeting who have a headset. Without meetings.xml, channel 0 is A, and nobody's camera is known."""
  known = speakers or {agent: {"channel": str(channel)} for channel, agent in enumerate("ABCDE")}
  people = []
  for agent, about in sorted(known.items()):
    channel = about.get("channel", "")
    if not channel.isdecimal() or int(channel) not in channels:
      continue
    camera = about.get("camera", "")
    videos = [paths.get(f"{meeting}.{camera}{suffix}") for suffix in VIDEOS] if camera else []
    words = paths.get(f"{meeting}.{agent}.words.xml")
    name = about.get("global_name") or f"{meeting}-{agent}"
    video = next((path for path in videos if path is not None), None)
    people.append(Person(agent, name, channels[int(channel)], video, None if words is None else read_words(words)))
  return people


def read_words(path: pathlib.Path) -> Words:
  """The words of a *.words.xml file. Punctuation is joined to the word before it; words without times share the gap
  between their neighbours. Raises DataError."""
  words: list[dict[str, Any]] = []
  for element in _parsed(path).iter("w"):
    text, times = (element.text or "").strip(), (element.get("starttime"), element.get("endtime"))
    if element.get("punc") == "true":
      if words and text:
        words[-1]["text"] += text
    elif text:
      try:
        start, end = (None if time is None else float(time) for time in times)
      except ValueError as error:
        raise DataError(
          f"{path}: the word {text!r:.60} has the times {times}: expected seconds; unpack it again"
        ) from error
      words.append({"text": text, "start": start, "end": end if start is None or end is None else max(start, end)})
  return words_by_speaker(words, path).get("", ())


def exchanges(a: Person, b: Person) -> int:
  """How often a turn of one of two people follows a turn of the other."""
  turns = sorted([(start, 0) for start in _turns(a.words or ())] + [(start, 1) for start in _turns(b.words or ())])
  return sum(first[1] != second[1] for first, second in itertools.pairwise(turns))


def _turns(words: Words) -> list[float]:
  """Where turns begin."""
  ends = [-1e9, *(word.end for word in words)]
  return [word.start for word, before in zip(words, ends) if word.start - before > TURN_GAP]


def _side(person: Person) -> dict[str, Any]:
  side: dict[str, Any] = {"video": person.video, "audio": person.audio, "speaker": person.name}
  return side if person.words is None else {**side, "words": listed(person.words)}
