"""Reads a folder of two-channel sound files, one speaker a channel. So are otoSpeech, Fisher, DailyTalk.

The left channel is the agent, as in moshi-finetune; with both roles every session also comes the other way round. The
transcript of talk.wav is talk.json beside it, in any form that `data/transcripts.py` reads. Files with one channel are
left out: in one mixed track nobody's silence can be heard.
"""

import math
import pathlib
from typing import Any

from wanstreamer_jax.data.importers.imported import DEFAULTS, Imported, ImportOptions, files_of, opened_folder
from wanstreamer_jax.data.media_probe import read_header
from wanstreamer_jax.errors import MediaError

TERMS = (
  "The terms are those of your recordings. Both people must have agreed to what you do with them: that a machine "
  "learns their voices, and, if it is served, speaks with them."
)
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".sph", ".mka", ".aac", ".wma")


def stereo(folder: str | pathlib.Path, options: ImportOptions = DEFAULTS) -> Imported:
  """The two-channel files of a folder. Raises DataError if it is none."""
  folder, found = opened_folder(folder), Imported(TERMS)
  for path in files_of(folder, SOUNDS):
    name = path.relative_to(folder).as_posix()
    try:
      sound = read_header(path, picture=False).audio
    except MediaError as error:
      found.left_out.append((name, str(error)))
      continue
    if sound is None or sound.channels != 2:
      channels = 0 if sound is None else sound.channels
      found.left_out.append((name, f"{channels} channels: two people need one each"))
      continue
    line: dict[str, Any] = {"id": name, "path": path, "roles": options.roles}
    if sound.end < math.inf:
      line["duration"] = round(sound.end - sound.start, 3)
    found.lines.append(line)
  return found
