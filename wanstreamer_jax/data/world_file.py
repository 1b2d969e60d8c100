"""Reads world files: JSON that gives the agent its name, other fields, looks and voice.

    {"fields": {"name": "Ada", "likes": "tea"}, "portrait": "ada.png", "voice": "ada.wav"}

Every key is optional. Paths are relative to the JSON file. The portrait is any image that Pillow reads; it is rotated
as its EXIF data say, cropped at the centre to the agent's aspect, and scaled. The voice is any audio of at most 30 s.
"""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wanstreamer_jax.config import MediaConfig, unknown_name
from wanstreamer_jax.data.records import audio_to_int16
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import is_one_line
from wanstreamer_jax.errors import DataError, MediaError, one_line
from wanstreamer_jax.files import write_text

KEYS = ["fields", "portrait", "voice"]
MAX_FIELDS = 32
MAX_NAME = 40  # characters
MAX_VALUE = 400  # characters
MAX_TEXT = 2000  # characters of all fields as one line; the engine checks the number of tokens
MAX_VOICE = 30.0  # seconds
MAX_PIXELS = 100_000_000


def load_world(path: str | Path, media: MediaConfig) -> World:
  """The World of a JSON file, with portrait uint8 [media.height, media.width, 3] and voice float32 [samples].

  Raises DataError (with the line, for broken JSON) or MediaError (for the portrait and the voice).
  """
  path = Path(path)
  return world_of(path, parse(path), media)


def write_world(folder: str | Path, world: World, media: MediaConfig) -> Path:
  """Writes world.json, with portrait.png and voice.wav where there are any: the inverse of `load_world`."""
  folder, value = Path(folder), dict[str, Any](fields=world.fields)
  if world.portrait is not None:
    value["portrait"] = "portrait.png"
    Image.fromarray(world.portrait).save(folder / "portrait.png")
  if world.voice is not None:
    value["voice"] = "voice.wav"
    with wave.open(str(folder / "voice.wav"), "wb") as file:
      file.setparams((1, 2, media.sample_rate, 0, "NONE", ""))
      file.writeframes(audio_to_int16(world.voice).astype("<i2").tobytes())
  path = folder / "world.json"
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
  return path


def world_of(path: Path, value: Any, media: MediaConfig, max_pixels: int = MAX_PIXELS) -> World:
  """The World of a parsed JSON value. `path` is named in messages; files are relative to its folder."""
  fields, portrait, voice = check_world(path, value)
  return World(
    fields=fields,
    portrait=None if portrait is None else load_portrait(portrait, media, max_pixels),
    voice=None if voice is None else _load_voice(voice, media),
  )


def _load_voice(path: Path, media: MediaConfig) -> np.ndarray:
  from wanstreamer_jax.data.media import read_audio  # here, since training runs where there is no media library

  return read_audio(path, media, MAX_VOICE)


def check_world(path: Path, value: Any) -> tuple[dict[str, str], Path | None, Path | None]:
  """Fields, portrait and voice files of a parsed JSON value, without reading them. Raises DataError."""
  if not isinstance(value, dict):
    raise DataError(f'{path}: expected a JSON object like {{"fields": {{"name": "Ada"}}}}, got {kind(value)}')
  for key in value:
    if key not in KEYS:
      raise DataError(f"{path}: {unknown_name(key, KEYS, 'world key')}")
  fields = check_fields(path, value.get("fields", {}))
  return fields, referred(path, value, "portrait"), referred(path, value, "voice")


def parse(path: Path) -> Any:
  """The JSON value of a file. Raises DataError for a missing or broken file, and for a key that is given twice."""
  if path.exists() and not path.is_file():
    raise DataError(f"{path} is not a file; give the path of a world file (JSON)")
  try:
    return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=lambda pairs: unique(path, pairs))
  except FileNotFoundError:
    raise DataError(f"{path} does not exist; give the path of a world file (JSON)") from None
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
    raise DataError(f"{path} cannot be read as a world file: {reason}") from error
  except json.JSONDecodeError as error:
    raise DataError(f"{path} is not valid JSON, line {error.lineno} column {error.colno}: {error.msg}") from error
  except ValueError as error:
    raise DataError(f"{path} is not valid JSON: {one_line(error)}") from error
  except RecursionError:
    raise DataError(f"{path} is nested too deeply for a world file") from None


def unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """The pairs of a JSON object as a dict. Raises DataError for a key that occurs twice."""
  value = dict(pairs)
  if len(value) != len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise DataError(f"{path}: key {twice!r} is given twice; keep one")
  return value


def kind(value: Any) -> str:
  """A JSON type's name, for messages."""
  names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
  return names.get(type(value), "a number")


def check_fields(path: Path, fields: Any) -> dict[str, str]:
  """The fields, checked. Raises DataError with the field's name and the limit."""
  if not isinstance(fields, dict):
    raise DataError(f'{path}: "fields" must be an object of texts like {{"name": "Ada"}}, got {kind(fields)}')
  if len(fields) > MAX_FIELDS:
    raise DataError(f'{path}: "fields" has {len(fields)} entries: at most {MAX_FIELDS}')
  for name, text in fields.items():
    if not isinstance(text, str):
      raise DataError(f"{path}: field {name!r} must be text in quotes, got {kind(text)}")
    if not name.strip() or len(name) > MAX_NAME:
      raise DataError(f"{path}: field name {name[:60]!r} has {len(name)} characters: expected 1 to {MAX_NAME}")
    if len(text) > MAX_VALUE:
      raise DataError(f"{path}: field {name!r} has {len(text)} characters: at most {MAX_VALUE}")
    if not is_one_line(name + text):
      raise DataError(f"{path}: field {name!r} has line breaks or control characters; write it on one line")
  length = len(World(fields=fields).text())
  if length > MAX_TEXT:
    raise DataError(f"{path}: the fields together have {length} characters: at most {MAX_TEXT}")
  return dict(fields)


def referred(path: Path, value: dict[str, Any], key: str) -> Path | None:
  """The file that a key names, relative to the world file, or None."""
  name = value.get(key)
  if name is None:
    return None
  if not isinstance(name, str) or not name:
    raise DataError(
      f'{path}: "{key}" must be the path of a file, got {kind(name) if name != "" else "an empty string"}'
    )
  return path.parent / name


def load_portrait(path: str | Path, media: MediaConfig, max_pixels: int = MAX_PIXELS) -> np.ndarray:
  """A picture as uint8 [media.height, media.width, 3]; transparent parts are mid-grey. Raises MediaError."""
  if Path(path).exists() and not Path(path).is_file():
    raise MediaError(f"portrait {path} is not a file; give the path of an image")
  try:
    with Image.open(path) as file:
      if file.width * file.height > max_pixels:
        raise MediaError(f"portrait {path} has {file.width} x {file.height} pixels: at most {max_pixels:,}; shrink it")
      file.draft("RGB", (4 * media.width, 4 * media.height))  # JPEG only: decodes a large one small
      image = ImageOps.exif_transpose(file).convert("RGBA")
  except FileNotFoundError:
    raise MediaError(f"portrait {path} does not exist; give the path of an image") from None
  except UnidentifiedImageError:
    raise MediaError(f"portrait {path} is not an image; give a png, jpg, webp, ...") from None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise MediaError(f"portrait {path} cannot be read: {error}") from error
  grey = Image.new("RGBA", image.size, (128, 128, 128, 255))
  picture = Image.alpha_composite(grey, image).convert("RGB")
  return np.asarray(ImageOps.fit(picture, (media.width, media.height), Image.Resampling.LANCZOS))
