"""Configs as files: Python (`configs/*.py`, with `get_config()`), overrides from the command line, and JSON in runs.

  wanstreamer train --config=configs/tiny.py --config.train.steps=500 --config.layout.window=None

A config file is Python, so that an experiment is a short diff of another file. What a run used is kept as JSON, which
needs no Python to read; fields that a newer program added take their defaults.
"""

import ast
import dataclasses
import importlib.util
import os
import pathlib
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

from wanstreamer_jax.config import Config, Section, unknown_name
from wanstreamer_jax.errors import ConfigError

FLAG = "--config"
REPOSITORY = pathlib.Path(__file__).parent.parent


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
  """The frozen config of a file, with fields changed by "train.steps=500" (or "--config.train.steps=500").

  path: a Python file with `get_config() -> Config`; `file.py:argument` calls `get_config("argument")`. An
  ml_collections.ConfigDict is taken too: the fields that it has, with the types that they must have.
  Raises ConfigError: no such file, no config in it, unknown fields (with the nearest name), values of another type.
  """
  config = run_config_file(str(path))
  for override in overrides:
    apply_override(config, override)
  return config.freeze()


def run_config_file(path: str) -> Config:
  """What `get_config()` of the file returns, not yet frozen."""
  name, _, argument = path.partition(".py:")
  file = pathlib.Path(name + ".py" if argument else path)
  if not file.is_file():
    if not file.parent.is_dir():
      raise ConfigError(f"no config file {str(file)!r}: there is no folder {str(file.parent)!r} in {os.getcwd()}")
    known = sorted(str(near) for near in file.parent.glob("*.py"))
    raise ConfigError(f"no config file {str(file)!r}; files there: {', '.join(known) or 'none'}")
  spec = importlib.util.spec_from_file_location(f"wanstreamer_config_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise ConfigError(f"{file} is no Python file: a config file is one (*.py) that defines get_config()")
  module = importlib.util.module_from_spec(spec)
  # A config file may say `from configs import base`: the nearest folder above it with `configs`, else this repository.
  above = [folder for folder in file.absolute().parents if (folder / "configs").is_dir()]
  roots = [str(folder) for folder in (*above[:1], REPOSITORY)]
  before, sys.path = sys.path, [*roots, *sys.path]
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise ConfigError(f"{file} defines no get_config()")
    config = module.get_config(argument) if argument else module.get_config()
  except ConfigError:
    raise
  except Exception as error:
    raise ConfigError(f"config file {file} fails: {type(error).__name__}: {error}") from error
  finally:
    sys.path = before
  collections = sys.modules.get("ml_collections")  # imported by the file, if it uses it
  if collections is not None and isinstance(config, collections.ConfigDict):
    config = config_from_dict(config.to_dict()).replace()
  if not isinstance(config, Config):
    raise ConfigError(f"get_config() of {file} returns a {type(config).__name__}, not a wanstreamer_jax.config.Config")
  return config


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """(overrides, the other arguments) of a command line; "--config.a.b=v" and "--config.a.b v" are the same."""
  overrides, others = [], []
  rest = iter(arguments)
  for argument in rest:
    if not argument.startswith(FLAG + "."):
      others.append(argument)
    elif "=" in argument:
      overrides.append(argument)
    else:
      overrides.append(f"{argument}={next(rest, '')}")
  return overrides, others


def apply_override(config: Config, override: str) -> None:
  """Sets one field from "section.field=value". Raises ConfigError."""
  name, equals, text = override.removeprefix(FLAG + ".").partition("=")
  if not equals:
    raise ConfigError(f"override {override!r} has no value; write {FLAG}.{name}=VALUE")
  *sections, field = name.split(".")
  target: Any = config
  for depth, part in enumerate(sections):
    target = _section(target, part, ".".join(sections[: depth + 1]))
  hints = _hints(target)
  if field not in hints:
    raise ConfigError(unknown_name(field, list(hints), f"config key {name!r}, field of {type(target).__name__}"))
  if isinstance(getattr(target, field), Section):
    raise ConfigError(f"config key {name!r} is a section; set one of its fields: {', '.join(_hints(hints[field]))}")
  setattr(target, field, parse_value(text, hints[field], name))


def _section(parent: Section, part: str, name: str) -> Section:
  fields = [field for field in _hints(parent) if isinstance(getattr(parent, field), Section)]
  if part not in fields:
    raise ConfigError(unknown_name(part, fields, f"config section {name!r}"))
  return getattr(parent, part)


def _hints(section: Any) -> dict[str, Any]:
  return typing.get_type_hints(section if isinstance(section, type) else type(section))


def parse_value(text: str, kind: Any, name: str) -> Any:
  """`text` as a value of the field's type: bool, int, float, str, tuple[T, ...], or any of these or None."""
  try:
    return _convert(text if kind is str else _literal(text), kind)
  except (ValueError, TypeError, SyntaxError):
    raise ConfigError(f"{name} is {text!r}: expected {_spelled(kind)}") from None


def _spelled(kind: Any) -> str:
  """A type as a config file writes it."""
  return str(kind) if typing.get_args(kind) else kind.__name__


def _literal(text: str) -> Any:
  words = {"true": True, "false": False, "none": None}
  return words[text.lower()] if text.lower() in words else ast.literal_eval(text)


def _convert(value: Any, kind: Any) -> Any:
  """`value` (from a literal or JSON) as `kind`; raises TypeError or ValueError when it is something else."""
  options = typing.get_args(kind)
  if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
    if value is None and type(None) in options:
      return None
    return _convert(value, next(option for option in options if option is not type(None)))
  if typing.get_origin(kind) is tuple:
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(_convert(item, options[0]) for item in values)
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if type(value) is not kind:
    raise TypeError(f"{value!r} is not a {kind}")
  return value


def config_to_dict(config: Section) -> dict[str, Any]:
  """Nested plain values, ready for JSON."""
  values = {}
  for name in _hints(config):
    value = getattr(config, name)
    if isinstance(value, Section):
      value = config_to_dict(value)
    values[name] = list(value) if isinstance(value, tuple) else value
  return values


def config_from_dict(values: dict[str, Any]) -> Config:
  """The frozen config of `config_to_dict`. Raises ConfigError for unknown fields and values of another type."""
  config = Config()
  _fill(config, values, "")
  return config.freeze()


def _fill(section: Section, values: dict[str, Any], prefix: str) -> None:
  if not isinstance(values, dict):
    raise ConfigError(f"{prefix.removesuffix('.') or 'config'} is {values!r}: expected a section of fields")
  hints = _hints(section)
  for name, value in values.items():
    if name not in hints:
      raise ConfigError(
        unknown_name(name, list(hints), f"config key {prefix + name!r}, field of {type(section).__name__}")
      )
    if isinstance(getattr(section, name), Section):
      _fill(getattr(section, name), value, f"{prefix}{name}.")
      continue
    try:
      setattr(section, name, _convert(value, hints[name]))
    except (ValueError, TypeError):
      raise ConfigError(f"{prefix}{name} is {value!r}: expected {_spelled(hints[name])}") from None


def flat_fields(config: Section, prefix: str = "") -> dict[str, Any]:
  """{"train.steps": 1000, ...}: every field by its dotted name."""
  fields = {}
  for field in dataclasses.fields(config):  # type: ignore[arg-type]
    value = getattr(config, field.name)
    if isinstance(value, Section):
      fields.update(flat_fields(value, f"{prefix}{field.name}."))
    else:
      fields[prefix + field.name] = value
  return fields
