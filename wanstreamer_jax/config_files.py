"""Reads configs from Python files, command-line overrides and the JSON of runs.

  wanstreamer train --config=configs/tiny.py --config.train.steps=500 --config.layout.window=None

A config file is Python, so that an experiment is a short diff of another file. The config of a run is kept as JSON,
which needs no Python to read; fields that a newer program added take their defaults.
"""

import ast
import importlib.util
import os
import pathlib
import sys
import typing
from collections.abc import Sequence
from typing import Any

from wanstreamer_jax.config import Config, Section, convert, spelled, unknown_name
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.files import Path, write_text

FLAG = "--config"
# Sections of older configs, each of which is now one kind of a codec; the stages that train them have the same names.
RENAMED_SECTIONS = {"audio_vae": ("audio_codec", "source_filter"), "video_vae": ("video_codec", "native")}
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
    raise ConfigError(f"{file} is not a Python file: a config file is a *.py file that defines get_config()")
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
  except (Exception, SystemExit) as error:
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
  target: Section = config
  for depth, part in enumerate(sections):
    target = _section(target, part, ".".join(sections[: depth + 1]))
  if field not in target.fields():
    raise ConfigError(
      unknown_name(field, list(target.fields()), f"config key {name!r}, field of {type(target).__name__}")
    )
  value = getattr(target, field)
  if isinstance(value, Section):
    raise ConfigError(f"config key {name!r} is a section; set one of its fields: {', '.join(value.fields())}")
  setattr(target, field, parse_value(text, target.field_types()[field], name))


def _section(parent: Section, part: str, name: str) -> Section:
  sections = {field: value for field, value in parent.fields().items() if isinstance(value, Section)}
  if part not in sections:
    raise ConfigError(unknown_name(part, list(sections), f"config section {name!r}"))
  return sections[part]


def parse_value(text: str, kind: Any, name: str) -> Any:
  """`text` as a value of the field's type; see `config.convert`. Raises ConfigError."""
  choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
  is_text = kind is str or any(isinstance(choice, str) for choice in choices)
  try:
    return convert(text if is_text else _literal(text), kind)
  except (ValueError, TypeError, SyntaxError, OverflowError):
    raise ConfigError(f"{name} is {text!r}: expected {spelled(kind)}") from None


def _literal(text: str) -> Any:
  words = {"true": True, "false": False, "none": None}
  return words[text.lower()] if text.lower() in words else ast.literal_eval(text)


TEMPLATE = '''"""{base} with {what}.

    wanstreamer train --config={out}

{about}
"""

import pathlib

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import run_config_file

BASE = pathlib.Path(__file__).parent / {relative!r}


def get_config() -> Config:
  config = run_config_file(str(BASE){argument})
{changes}
  return config
'''


def check_new_config(out: Path) -> None:
  """Raises ConfigError unless `out` can become a new config file."""
  file = pathlib.Path(out)
  if file.suffix != ".py" or file.exists():
    raise ConfigError(f"{file}: expected the name of a new Python file, such as {file.with_suffix('')}_new.py")


def write_config_diff(out: Path, base: str, config: Config, what: str, about: str) -> int:
  """Writes `config` as a config file that names its base and what is different. Returns how many fields are.

  base: as in --config, FILE.py or FILE.py:ARG. what, about: for the file's docstring.
  """
  file, (path, colon, argument) = pathlib.Path(out), base.partition(".py:")
  own = flat_fields(load_config(base))
  changed = {name: value for name, value in flat_fields(config).items() if own[name] != value}
  text = TEMPLATE.format(
    base=base, what=what, out=out, about=about, relative=os.path.relpath(path + ".py" if colon else path, file.parent),
    argument=f" + {':' + argument!r}" if colon else "",
    changes="\n".join(f"  config.{name} = {value!r}" for name, value in changed.items()),
  )  # fmt: skip
  file.parent.mkdir(parents=True, exist_ok=True)
  write_text(file, text)
  return len(changed)


def config_to_dict(config: Section) -> dict[str, Any]:
  """Nested plain values, ready for JSON."""
  values = {}
  for name, value in config.fields().items():
    if isinstance(value, Section):
      value = config_to_dict(value)
    values[name] = list(value) if isinstance(value, tuple) else value
  return values


def config_from_dict(values: dict[str, Any]) -> Config:
  """The frozen config of `config_to_dict`. Raises ConfigError for unknown fields and values of another type."""
  config = Config()
  _fill(config, translated(values), "")
  return config.freeze()


def translated(values: dict[str, Any]) -> dict[str, Any]:
  """The values of an older program under the names that their fields have since."""
  if not isinstance(values, dict):
    return values
  values = dict(values)
  for old, (new, kind) in RENAMED_SECTIONS.items():
    if old in values:
      values[new] = {"kind": kind, kind: values.pop(old)}
  codec = values.get("video_codec")
  native = codec.get("native") if isinstance(codec, dict) else None
  if isinstance(codec, dict) and isinstance(native, dict) and "residual_blocks" in native:
    blocks = 2 * [native["residual_blocks"]]  # of three resolutions, the same number at two of them
    native = {name: value for name, value in native.items() if name != "residual_blocks"} | {"encoder_blocks": blocks}
    values["video_codec"] = codec | {"native": native}
  train = values.get("train")
  if isinstance(train, dict) and str(train.get("stage")) in RENAMED_SECTIONS:
    values["train"] = train | {"stage": RENAMED_SECTIONS[train["stage"]][0]}
  return values


def _fill(section: Section, values: dict[str, Any], prefix: str) -> None:
  """Sets the named fields, without a look at the types of their values: `freeze` checks them."""
  if not isinstance(values, dict):
    raise ConfigError(f"{prefix.removesuffix('.') or 'config'} is {values!r}: expected a section of fields")
  known = section.fields()
  for name, value in values.items():
    if name not in known:
      raise ConfigError(
        unknown_name(name, list(known), f"config key {prefix + name!r}, field of {type(section).__name__}")
      )
    if isinstance(known[name], Section):
      _fill(known[name], value, f"{prefix}{name}.")
    else:
      setattr(section, name, value)


def flat_fields(config: Section, prefix: str = "") -> dict[str, Any]:
  """{"train.steps": 1000, ...}: every field by its dotted name."""
  fields = {}
  for name, value in config.fields().items():
    if isinstance(value, Section):
      fields.update(flat_fields(value, f"{prefix}{name}."))
    else:
      fields[prefix + name] = value
  return fields
