"""What a planned restart keeps: the sessions that were held, whole, in one folder.

    STATE/sessions.json        seats: who holds which slot, and how far they are
    STATE/engine.json          what the engine needs to know the arrays for its own
    STATE/engine.safetensors   the stacked states of all slots

The folder appears whole or not at all, and is gone once it was read: a session continues once.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import replacing, write_json
from wanstreamer_jax.serve.drawn_user import DrawnUser
from wanstreamer_jax.serve.scheduler import Hall, Seat, Source

SESSIONS = "sessions.json"
MakeSource = Callable[[bool, int], Source]  # (whether it watches, seed)


def save(hall: Hall, folder: Path) -> int:
  """Writes all seats of a hall whose clock stands still. Returns how many."""
  seats = [seat for seat in hall.seats if seat is not None and seat.ready]
  if not seats:
    return 0
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
      temporary.mkdir(mode=0o700)  # what visitors said and showed, and their tokens: nobody else's
      hall.engine.save(temporary)
      write_json(temporary / SESSIONS, [_describe(seat) for seat in seats])
      for path in temporary.iterdir():
        path.chmod(0o600)
  except OSError as error:
    raise CheckpointError(f"cannot keep the sessions in {folder}: {error.strerror or error}") from error
  return len(seats)


def _describe(seat: Seat) -> dict[str, object]:
  watched = seat.source.person if isinstance(seat.source, DrawnUser) else None
  age = time.monotonic() - seat.began
  return {"slot": seat.slot, "token": seat.token, "unit": seat.unit, "age": age, "watched": watched}


def restore(hall: Hall, folder: Path, source: MakeSource) -> int:
  """Takes up what `save` wrote, as seats whose visitors are away. Returns how many; 0 when there is nothing.

  Raises CheckpointError when what is there is damaged or of another agent or number of slots.
  """
  if not (folder / SESSIONS).exists():
    return 0
  try:
    seats = json.loads((folder / SESSIONS).read_text())
    hall.engine.restore(folder)
    for value in seats:
      watched = value["watched"]
      whose = source(watched is not None, watched or 0)
      hall.resume(value["slot"], value["token"], value["unit"], value["age"], whose)
  except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
    raise CheckpointError(f"{folder} does not hold sessions that can be continued: {error}") from error
  shutil.rmtree(folder)
  return len(seats)
