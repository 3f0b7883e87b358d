"""Specs to and from plain dictionaries and JSON."""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from ivid.spec.errors import UserError, nearest, shown
from ivid.spec.formats import expected_key

T = TypeVar("T")
DEEP = 3  # dots of a path from which on a section has namesakes, as the stages of a cascade have, and an error says which it is in


def to_dict(spec: Any) -> Any:
  """A spec as nested dictionaries, lists and JSON scalars."""
  if dataclasses.is_dataclass(spec):
    return {f.name: to_dict(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
  if isinstance(spec, enum.Enum):
    return spec.value
  if isinstance(spec, tuple):
    return [to_dict(item) for item in cast("tuple[Any, ...]", spec)]
  if isinstance(spec, Mapping):
    return {key: to_dict(value) for key, value in cast("Mapping[Any, Any]", spec).items()}
  return spec


def from_dict(cls: type[T], mapping: Mapping[str, Any], path: str = "") -> T:
  """The spec of class `cls` that `mapping` describes.

  Raises:
    UserError: unknown or missing key (named with its path and the nearest known key), or a value of the wrong type.
  """
  mapping = _mapping(mapping, path or cls.__name__.lstrip("_"))
  hints = typing.get_type_hints(cls)
  known = {f.name: f for f in dataclasses.fields(cast("type[Any]", cls))}
  for key in mapping:
    if key not in known:
      raise UserError(f"unknown key {shown(_join(path, key))}: {expected_key(key, known)}")
  missing = [
    name
    for name, f in known.items()
    if name not in mapping and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise UserError(f"missing key {_join(path, missing[0])!r} of {cls.__name__.lstrip('_')}")
  values = {key: typed(hints[key], mapping[key], _join(path, key)) for key in mapping}
  try:
    return cls(**values)
  except UserError as error:
    if path.count(".") < DEEP:
      raise
    raise UserError(f"{error} (in {path})") from None


def _join(path: str, key: str) -> str:
  return f"{path}.{key}" if path else key


def typed(hint: Any, value: Any, path: str) -> Any:
  """`value` as `hint`, the type of a spec's field, wants it.

  Raises:
    UserError: it cannot be; with the path.
  """
  hint, optional = without_none(hint)
  if hint is Any or (value is None and optional):
    return value
  origin = typing.get_origin(hint)
  if origin is tuple:
    if not isinstance(value, list | tuple):
      raise UserError(f"{path}={shown(value)}: expected a list")
    items = cast("Sequence[Any]", value)
    return tuple(typed(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(items))
  if origin is dict:
    return {key: typed(typing.get_args(hint)[1], item, _join(path, key)) for key, item in _mapping(value, path).items()}
  if dataclasses.is_dataclass(hint):
    cls = cast("type[Any]", hint)
    return value if isinstance(value, cls) else from_dict(cls, _mapping(value, path), path)
  if issubclass(hint, enum.Enum):
    return _enum(hint, value, path)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    if abs(value) > sys.float_info.max:
      return math.inf if value > 0 else -math.inf
    return float(value)
  if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
    raise UserError(f"{path}={shown(value)}: expected {hint.__name__}")
  return value


def without_none(hint: Any) -> tuple[Any, bool]:
  """The type X of a hint `X | None`, and whether None is allowed."""
  if typing.get_origin(hint) not in (types.UnionType, typing.Union):
    return hint, False
  return next(arg for arg in typing.get_args(hint) if arg is not type(None)), True


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
  if not isinstance(value, Mapping):
    raise UserError(f"{path}={shown(value)}: expected a section with keys of its own")
  return cast("Mapping[str, Any]", value)


def _enum(hint: type[enum.Enum], value: Any, path: str) -> enum.Enum:
  if isinstance(value, hint):
    return value
  try:
    return hint(value)
  except ValueError:
    raise UserError(f"{path}={shown(value)}: {nearest(str(value), [m.value for m in hint])}") from None
