"""What a config is made of: sections whose fields check, bound and spell their values."""

import dataclasses
import difflib
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar, dataclass_transform

from wanstreamer_jax.errors import ConfigError

MAX_NUMBER = 2**31 - 1  # no number of a config is larger, in either direction
BOUNDS = {  # how a number is compared with a bound of its field, and what an error says was expected
  "ge": (operator.ge, "at least"),
  "gt": (operator.gt, "a number above"),
  "le": (operator.le, "at most"),
  "lt": (operator.lt, "a number below"),
  "multiple_of": (lambda number, factor: number % factor == 0, "a multiple of"),
}
Value = TypeVar("Value")


def field(default: Value, **bounds: float) -> Value:
  """A field whose number (each of them in a tuple, any in an optional field) keeps the bounds named in BOUNDS."""
  return dataclasses.field(default=default, metadata={name: (*BOUNDS[name], bounds[name]) for name in bounds})


class Section:
  """Base of every config dataclass: unknown fields fail with the nearest name, frozen ones refuse to change."""

  def __setattr__(self, name: str, value: Any) -> None:
    if getattr(self, "_frozen", False):
      raise ConfigError(f"config is frozen: cannot set {type(self).__name__}.{name} = {value!r}; use replace()")
    self._require(name)
    object.__setattr__(self, name, value)

  @classmethod
  def field_types(cls) -> dict[str, Any]:
    """{name: type} of all fields."""
    return typing.get_type_hints(cls)

  def fields(self) -> dict[str, Any]:
    """{name: value} of all fields, where the value may be a section again."""
    return {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}  # type: ignore[arg-type]

  def replace(self, **changes: Any) -> Self:
    """A changed, unfrozen copy; sections that are not named are copied too."""
    for name in changes:
      self._require(name)
    copies = {name: value.replace() if isinstance(value, Section) else value for name, value in self.fields().items()}
    return type(self)(**copies | changes)

  def freeze(self) -> Self:
    """Checks this section and those below it, then locks them. Returns itself.

    Raises ConfigError with the name of the field, its value and what was expected.
    """
    self._check("")
    self._lock()
    return self

  def check_rules(self) -> None:
    """Raises ConfigError unless several fields, each of them valid, fit together."""

  def _require(self, name: str) -> None:
    names = [spec.name for spec in dataclasses.fields(self)]  # type: ignore[arg-type]
    if name not in names:
      raise ConfigError(unknown_name(name, names, f"field of {type(self).__name__}"))

  def _check(self, prefix: str) -> None:
    """Gives every field its declared type. Raises ConfigError, with `prefix` before the field's name."""
    kinds = self.field_types()
    for spec in dataclasses.fields(self):  # type: ignore[arg-type]
      name, value = prefix + spec.name, getattr(self, spec.name)
      if isinstance(kinds[spec.name], type) and issubclass(kinds[spec.name], Section):
        if type(value) is not kinds[spec.name]:
          raise ConfigError(f"{name} is {value!r:.60}: expected {kinds[spec.name].__name__}")
        value._check(f"{name}.")
      else:
        object.__setattr__(self, spec.name, checked(name, value, kinds[spec.name], spec.metadata))
    self.check_rules()

  def _lock(self) -> None:
    for value in self.fields().values():
      if isinstance(value, Section):
        value._lock()
    object.__setattr__(self, "_frozen", True)


AnySection = TypeVar("AnySection", bound=Section)


@dataclass_transform(kw_only_default=True)
def section(cls: type[AnySection]) -> type[AnySection]:
  """Class decorator: a mutable-until-frozen dataclass with structural hash and equality."""
  return dataclasses.dataclass(unsafe_hash=True, kw_only=True)(cls)


def checked(name: str, value: Any, kind: Any, bounds: Mapping[str, Any]) -> Any:
  """The value of a field as its type. Raises ConfigError if it is of another one, or a number out of bounds."""
  try:
    value = convert(value, kind)
  except (ValueError, OverflowError):
    raise ConfigError(f"{name} is {value!r}: expected {spelled(kind)}") from None
  if value == ():
    raise ConfigError(f"{name} is empty: expected at least one number")
  for number in value if isinstance(value, tuple) else (value,):
    if type(number) not in (int, float):
      continue
    if not abs(number) <= MAX_NUMBER:  # nor is NaN
      raise ConfigError(f"{name} is {value}: expected a finite number up to {MAX_NUMBER}")
    for holds, words, bound in bounds.values():
      if not holds(number, bound):
        raise ConfigError(f"{name} is {value}: expected {words} {bound}")
  return value


def convert(value: Any, kind: Any) -> Any:
  """`value` (of a Python file, of a literal or of JSON) as `kind`. Raises ValueError when it is something else.

  kind: bool, int, float, str, a Literal of choices, tuple[T, ...], or `T | None` of one of these.
  """
  options = typing.get_args(kind)
  if isinstance(kind, types.UnionType):
    return None if value is None else convert(value, options[0])
  if typing.get_origin(kind) is tuple:
    return tuple(convert(item, options[0]) for item in (value if isinstance(value, list | tuple) else (value,)))
  if kind is float and type(value) is not bool and isinstance(value, int | float):
    return float(value)
  fits = (type(value), value) in [(type(option), option) for option in options] if options else type(value) is kind
  if not fits:
    raise ValueError(f"{value!r} is not {spelled(kind)}")
  return value


def spelled(kind: Any) -> str:
  """A type as a user would write it: "int", "tuple[int, ...]", "one of adamw, muon"."""
  if typing.get_origin(kind) is Literal:
    return f"one of {', '.join(map(str, typing.get_args(kind)))}"
  return str(kind) if typing.get_args(kind) else kind.__name__


def unknown_name(name: str, names: list[str], what: str) -> str:
  """An error message for a misspelt name, with the nearest known one."""
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(names))}"
  return f"unknown {what}: {name!r}{hint}"


def whole(numerator: int, denominator: int, what: str) -> int:
  """numerator / denominator, which must be a whole number. Raises ConfigError with the numbers otherwise."""
  if denominator <= 0 or numerator % denominator:
    raise ConfigError(f"{what}: {numerator} / {denominator} is not a whole number")
  return numerator // denominator
