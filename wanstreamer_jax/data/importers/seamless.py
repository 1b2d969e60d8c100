"""Reads Seamless Interaction (Meta, 2025): two people, each filmed and recorded apart. CC BY-NC 4.0.

Files are named V<site>_S<session>_I<interaction>_P<participant>, and two with one V, S and I are one conversation:
.mp4 (1080p, 30 fps), .wav (48 kHz, denoised), .json (`metadata:transcript` with words, `metadata:vad`) and .npz
(boxes and keypoints of every frame). They lie side by side, as the archives unpack, or in folders by kind (`video/`,
`audio/`, `transcript/*.jsonl`). Some downloads hold empty bundles, which are left out.
"""

import json
import pathlib
import re
import zipfile
from typing import Any

import numpy as np

from wanstreamer_jax.data.importers.imported import DEFAULTS, Imported, ImportOptions, files_of, listed, opened_folder
from wanstreamer_jax.data.media_probe import read_header
from wanstreamer_jax.data.recording_media import displayed_size
from wanstreamer_jax.data.transcripts import Words, words_by_speaker, words_of_speaker
from wanstreamer_jax.errors import DataError, MediaError

TERMS = (
  "Seamless Interaction is CC BY-NC 4.0: no commercial use, name the source; treat what is trained on it alike. Its "
  "people consented to research on interaction, not to being imitated: do not serve their faces or voices."
)
NAME = re.compile(r"(V\d+_S\d+_I\d+)_(P\d+)[A-Z]?")
EMPTY = 1024  # bytes; a file that is smaller holds nothing but a header
FRAMES = 3000  # whose keypoints are read: 100 s
FACE = slice(23, 91)  # of the 133 keypoints of COCO-WholeBody
CONFIDENT = 0.3
HEADS = 3.0  # the crop is this many faces high
ABOVE = 0.45  # the share of the crop above the middle of the face


def seamless(folder: str | pathlib.Path, options: ImportOptions = DEFAULTS) -> Imported:
  """The conversations of a folder. Raises DataError if it is none."""
  folder, found = opened_folder(folder), Imported(TERMS)
  people: dict[str, dict[str, dict[str, pathlib.Path]]] = {}  # interaction -> participant -> kind -> file
  for path in files_of(folder, (".mp4", ".wav", ".npz", ".json", ".jsonl")):
    match, kind = NAME.fullmatch(path.stem), _kind(path)
    if match and kind:
      people.setdefault(match[1], {}).setdefault(match[2], {}).setdefault(kind, path)
  for name, both in sorted(people.items()):
    try:
      found.lines.append(_line(name, both, options))
    except (DataError, MediaError) as error:
      found.left_out.append((name, str(error)))
  return found


def _kind(path: pathlib.Path) -> str | None:
  """What a file holds: by its suffix, or by its folder where each kind has one."""
  if path.suffix == ".jsonl":
    return "transcript" if path.parent.name == "transcript" else None
  if path.suffix == ".json":
    return "json" if any(path.with_suffix(suffix).is_file() for suffix in (".mp4", ".wav", ".npz")) else None
  return path.suffix.removeprefix(".")


def _line(name: str, both: dict[str, dict[str, pathlib.Path]], options: ImportOptions) -> dict[str, Any]:
  if len(both) != 2:
    raise DataError(
      f"{len(both)} participants ({', '.join(sorted(both))}) are in this folder: a conversation needs two"
    )
  user, agent = (_side(person, files, options) for person, files in sorted(both.items()))
  return {"id": name, "roles": options.roles, "user": user, "agent": agent}


def _side(person: str, files: dict[str, pathlib.Path], options: ImportOptions) -> dict[str, Any]:
  missing = [suffix for suffix in ("mp4", "wav") if suffix not in files or files[suffix].stat().st_size < EMPTY]
  if missing:
    raise DataError(f"{person} has no .{missing[0]}, or an empty one")
  side: dict[str, Any] = {"video": files["mp4"], "audio": files["wav"], "speaker": person}
  words = _words(files)
  if words is not None:
    side["words"] = listed(words)
  if options.crop and "npz" in files:
    side["crop"] = head_box(files["npz"], files["mp4"])
  return side


def _words(files: dict[str, pathlib.Path]) -> Words | None:
  """The words, or None where no transcript lies beside the media."""
  if "transcript" in files:
    path = files["transcript"]
    try:
      segments = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except ValueError as error:
      raise DataError(f"{path}: a line is not JSON ({error})") from error
    found = words_by_speaker({"segments": segments}, path)
    return tuple(sorted((word for words in found.values() for word in words), key=lambda word: word.start))
  return words_of_speaker(files["json"], None) if "json" in files else None


def first_rows(npz: pathlib.Path, name: str, rows: int = FRAMES) -> np.ndarray:
  """The first rows of an array of an .npz file, without unpacking the others. Raises ValueError, KeyError, OSError."""
  with zipfile.ZipFile(npz) as archive, archive.open(f"{name}.npy") as file:
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, by_columns, dtype = read_header[np.lib.format.read_magic(file)](file)
    if (by_columns and len(shape) > 1) or dtype.hasobject:
      raise ValueError(f"{name} is not stored row by row")
    count = min(rows, shape[0])
    size = count * int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    return np.frombuffer(file.read(size), dtype).reshape(count, *shape[1:])


def head_box(npz: pathlib.Path, video: pathlib.Path) -> list[float] | None:
  """[left, top, width, height] in pixels of head and shoulders in the first FRAMES frames, or None without keypoints.

  The box is fixed, so that the background stays: it is centred on the median of the face, three faces high and as wide
  as the video's own aspect makes it. Raises DataError for another file.
  """
  try:
    points, valid = (first_rows(npz, f"boxes_and_keypoints:{name}") for name in ("keypoints", "is_valid_box"))
    faces = points[valid.reshape(-1).astype(bool), FACE]  # [frames, 68, (x, y, confidence)]
  except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
    raise DataError(f"{npz}: no keypoints as Seamless Interaction has them ({error}); or pass --no-crop") from error
  faces = faces[(faces[..., 2] > CONFIDENT).mean(axis=1) > 0.5] if len(faces) else faces
  if not len(faces):
    return None
  info = read_header(video).video
  if info is None:
    raise DataError(f"{video} has no picture")
  width, height = displayed_size(info)
  low, high = np.median(faces[..., :2].min(axis=1), axis=0), np.median(faces[..., :2].max(axis=1), axis=0)
  tall = min(float(height), HEADS * float(high[1] - low[1]))
  wide = min(float(width), tall * width / height)
  middle_x, middle_y = (low + high) / 2
  left = float(np.clip(middle_x - wide / 2, 0, width - wide))
  top = float(np.clip(middle_y - tall * ABOVE, 0, height - tall))
  return [float(np.floor(left)), float(np.floor(top)), float(np.floor(wide)), float(np.floor(tall))]
