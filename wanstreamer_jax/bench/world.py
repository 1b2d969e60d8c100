"""`wanstreamer bench world`: how fast a core renders sessions of duplex_world."""

import time

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world.source import world_config
from wanstreamer_jax.data.duplex_world.world import make_session, performers


def bench(config: Config, seconds: float = 10.0) -> dict[str, float]:
  """Renders sessions until about `seconds` of processor time are used. Returns units a second of whole sessions, and of
  the pictures of both sides alone, looks that are new included. A unit is a unit of both sides."""
  world = world_config(config)
  spent, drawn, units, seed = 0.0, 0.0, 0, 0
  while spent + drawn < seconds:
    bodies = performers(seed, world)
    begin = time.process_time()
    for body in bodies:
      body.video(0, world.units * world.frames, world.height, world.width)
    middle = time.process_time()
    make_session(seed, world)
    drawn, spent = drawn + middle - begin, spent + time.process_time() - middle
    units, seed = units + world.units, seed + 1
  return {"session": units / spent, "pictures": units / drawn}


def bench_world(config: Config, seconds: float = 10.0) -> None:
  """Prints units a second of processor time at the config's size."""
  rates, media = bench(config, seconds), config.media
  print(
    f"duplex_world at {media.height}x{media.width}: {rates['session']:.0f} units/s of processor time "
    f"for whole sessions, {rates['pictures']:.0f} for the pictures of both sides ({2 * media.frames} a unit)"
  )
