"""Saves all running sessions in one folder before a planned restart, and restores them.

    STATE/sessions.json        the session in each slot, and how many units it has had
    STATE/engine.json          what the engine needs to recognise the arrays as its own
    STATE/engine.safetensors   the stacked states of all slots

The folder appears whole or not at all, and is removed once it was read, so that a session continues only once.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import replacing, write_json
from wanstreamer_jax.serve.scheduler import Scheduler, Slot
from wanstreamer_jax.serve.unit_source import UnitSource
from wanstreamer_jax.serve.watched_user import WatchedUser

SESSIONS = "sessions.json"
MakeSource = Callable[[bool, int], UnitSource]  # (whether it is watched, seed)


def save(scheduler: Scheduler, folder: Path) -> int:
  """Writes all sessions of a scheduler whose clock has stopped. Returns how many. Raises CheckpointError."""
  slots = [slot for slot in scheduler.taken() if slot.ready]
  if not slots:
    return 0
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
      temporary.mkdir(mode=0o700)  # holds what users said and showed, and session tokens: for the owner only
      scheduler.engine.save(temporary)
      write_json(temporary / SESSIONS, [_describe(slot) for slot in slots])
      for path in temporary.iterdir():
        path.chmod(0o600)
  except OSError as error:
    raise CheckpointError(f"cannot save the sessions to {folder}: {error.strerror or error}") from error
  return len(slots)


def _describe(slot: Slot) -> dict[str, object]:
  watched = slot.source.user_seed if isinstance(slot.source, WatchedUser) else None
  age = time.monotonic() - slot.started
  return {"slot": slot.index, "token": slot.token, "unit": slot.unit, "age": age, "watched": watched}


def restore(scheduler: Scheduler, folder: Path, make_source: MakeSource) -> int:
  """Takes up what `save` wrote, as sessions that wait for their clients. Returns how many; 0 when there is nothing.

  Raises CheckpointError when the folder is damaged, or belongs to another agent or number of slots.
  """
  if not (folder / SESSIONS).exists():
    return 0
  try:
    sessions = json.loads((folder / SESSIONS).read_text())
    scheduler.engine.restore(folder)
    for value in sessions:
      watched = value["watched"]
      source = make_source(watched is not None, watched or 0)
      scheduler.resume(value["slot"], value["token"], value["unit"], value["age"], source)
  except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
    raise CheckpointError(f"{folder} does not hold sessions that can be continued: {error}") from error
  shutil.rmtree(folder)
  return len(sessions)
