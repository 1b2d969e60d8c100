"""Wan-Streamer in JAX: one Transformer hears, sees and answers in units of 160 ms.

    from wanstreamer_jax import Engine, load_agent, stream_file

    engine = Engine(load_agent("demo"))
    stream_file(engine, "launch/clip.mp4", "out")  # a unit at a time by hand: engine.step(MediaUnit(video, audio))

The names below are the library's public interface. They are imported when they are first used, so that the command
line and data workers pay for nothing that they do not need.
"""

import importlib
from typing import TYPE_CHECKING, Any

from wanstreamer_jax.parallel.xla_flags import avoid_ynn_crash

if TYPE_CHECKING:
  from wanstreamer_jax.config.experiment import Config
  from wanstreamer_jax.config_files import load_config
  from wanstreamer_jax.data.session import MediaUnit
  from wanstreamer_jax.engine.engine import Engine
  from wanstreamer_jax.serve.stream_file import stream_file
  from wanstreamer_jax.weights.agent import load_agent

__version__ = "0.1.0"
__all__ = ["Config", "Engine", "MediaUnit", "load_agent", "load_config", "stream_file"]

_HOMES = {
  "Config": "config.experiment",
  "Engine": "engine.engine",
  "MediaUnit": "data.session",
  "load_agent": "weights.agent",
  "load_config": "config_files",
  "stream_file": "serve.stream_file",
}

avoid_ynn_crash()


def __getattr__(name: str) -> Any:
  """Imports a public name from its module (PEP 562)."""
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}")
  return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
