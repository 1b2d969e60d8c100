"""Checks the shapes and dtypes that the package's functions declare (jaxtyping), on every call that a test makes.

`tests/conftest.py` installs `checked` on import of the modules in MODULES. A letter stands for one size throughout a
call, over its arguments and its results. Only arrays are looked at: named structs say their shapes in comments.
"""

import functools
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping

MODULES = tuple(
  f"wanstreamer_jax.{name}" for name in ("codecs", "model", "nn", "perception", "rollout", "teacher_forcing", "units")
)


def checked(function: Callable) -> Callable:
  """The function, which raises TypeError where an array is not what its annotation says."""
  hints = function.__annotations__
  names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]

  @functools.wraps(function)
  def wrapper(*args: Any, **kwargs: Any) -> Any:
    for name, value in (*zip(names, args), *kwargs.items()):
      check(value, hints.get(name), name)
    result = function(*args, **kwargs)
    check(result, hints.get("return"), "the result")
    return result

  return wrapper


def check(value: Any, hint: Any, name: str) -> None:
  """Of arrays, of tuples of them, and of those that may be None."""
  origin, parts = typing.get_origin(hint), typing.get_args(hint)
  if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
    if not isinstance(value, hint):
      found = f"{value.dtype}{value.shape}" if hasattr(value, "shape") else repr(value)
      raise TypeError(f"{name}: expected {hint.__name__}, not {found}")
  elif origin is tuple and isinstance(value, tuple) and Ellipsis not in parts:
    for part, inner in zip(value, parts, strict=True):
      check(part, inner, name)
  elif origin in (typing.Union, types.UnionType) and value is not None and len(parts) == 2 and type(None) in parts:
    check(value, next(part for part in parts if part is not type(None)), name)
