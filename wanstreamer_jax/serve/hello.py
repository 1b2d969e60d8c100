"""Reads a client's hello: who the agent is, and how the session is generated."""

import base64
import binascii
import dataclasses
import secrets
import tempfile
from pathlib import Path
from typing import Any

from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data import world_file
from wanstreamer_jax.data.session import World
from wanstreamer_jax.engine.request import LARGEST_SEED, Request
from wanstreamer_jax.errors import DataError, UserError

MAX_PORTRAIT_PIXELS = 4_000_000
REQUEST_FIELDS = ("seed", "temperature", "pad_bias", "steps", "guidance")


def parse_request(hello: dict[str, Any], default: World, media: MediaConfig, voice: bool) -> Request:
  """The session that a hello asks for; without a "seed" a random one. Raises UserError. Decodes images: not for the
  event loop.

  default: who the agent is as far as the hello does not say; voice: whether the agent uses a voice sample.
  """
  world = parse_world(hello, default, media, voice)
  asked = {name: hello[name] for name in REQUEST_FIELDS if name in hello}
  return Request(world, **{"seed": secrets.randbelow(LARGEST_SEED)} | asked)


def parse_world(hello: dict[str, Any], default: World, media: MediaConfig, voice: bool) -> World:
  """Who the agent is to be. Raises UserError."""
  asked = hello.get("world") or {}
  if not isinstance(asked, dict):
    raise DataError('"world" must be an object')
  if asked.get("voice") and not voice:
    raise DataError("this agent does not use a voice sample: leave it out")
  fields = asked.get("fields") or {}
  value: dict[str, Any] = {"fields": {**default.fields, **fields} if isinstance(fields, dict) else fields}
  with tempfile.TemporaryDirectory(prefix="wanstreamer-") as folder:  # `world_file` reads media from files
    for name in ("portrait", "voice"):
      if asked.get(name):
        value[name] = f"sent.{name}"
        (Path(folder) / value[name]).write_bytes(_from_base64(asked[name], name))
    try:
      world = world_file.world_of(Path(folder) / "hello", value, media, MAX_PORTRAIT_PIXELS)
    except UserError as error:
      raise DataError(str(error).replace(f"{folder}/", "")) from error
  return dataclasses.replace(default, **{name: getattr(world, name) for name in value})


def _from_base64(text: Any, name: str) -> bytes:
  try:
    return base64.b64decode(text, validate=True)
  except (binascii.Error, TypeError, ValueError) as error:
    raise DataError(f'"{name}" must be base64') from error
