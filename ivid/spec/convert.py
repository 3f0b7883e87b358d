"""Specs to and from plain dictionaries, JSON and ConfigDicts. The only reader of a ConfigDict."""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ivid.spec.cascade import CascadeSpec, TextSpec
from ivid.spec.errors import UserError, nearest
from ivid.spec.formats import expected_key
from ivid.spec.run import DataSpec, DistillSpec, MeshSpec, RunSpec, TrainSpec
from ivid.spec.stage import StageSpec

T = TypeVar("T")

RUN_SECTIONS = tuple(field.name for field in dataclasses.fields(RunSpec))


def to_dict(spec: Any) -> Any:
  """A spec as nested dictionaries, lists and JSON scalars."""
  if dataclasses.is_dataclass(spec):
    return {f.name: to_dict(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
  if isinstance(spec, enum.Enum):
    return spec.value
  if isinstance(spec, tuple):
    return [to_dict(item) for item in spec]
  return spec


def from_dict(cls: type[T], mapping: Mapping[str, Any], path: str = "") -> T:
  """The spec of class `cls` that `mapping` describes.

  Raises:
    UserError: unknown or missing key (named with its path and the nearest known key), or a value of the wrong type.
  """
  hints = typing.get_type_hints(cls)
  known = {f.name: f for f in dataclasses.fields(cls)}
  for key in mapping:
    if key not in known:
      raise UserError(f"unknown key {_join(path, key)!r}: {expected_key(key, known)}")
  missing = [
    name
    for name, f in known.items()
    if name not in mapping and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise UserError(f"missing key {_join(path, missing[0])!r} of {cls.__name__}")
  return cls(**{key: _value(hints[key], mapping[key], _join(path, key)) for key in mapping})


def to_json(spec: Any) -> str:
  return json.dumps(to_dict(spec), indent=1)


def from_json(cls: type[T], text: str) -> T:
  return from_dict(cls, json.loads(text))


def cascade_from_config(config: Mapping[str, Any]) -> CascadeSpec:
  """The CascadeSpec of a config's `cascade` section, where stages are a mapping by name and `order` lists them."""
  section = _plain(config["cascade"])
  stages = section["stages"]
  for name in section["order"]:
    if name not in stages:
      raise UserError(f"cascade.order names unknown stage {name!r}: {nearest(name, stages)}")
  built = tuple(from_dict(StageSpec, {"name": name, **stages[name]}, f"cascade.stages.{name}") for name in section["order"])
  return CascadeSpec(section["name"], from_dict(TextSpec, section["text"], "cascade.text"), built)


def run_from_config(config: Mapping[str, Any]) -> RunSpec:
  """The RunSpec of a whole config. Per-stage overrides are merged by the config file itself (`get_config(stage)`)."""
  plain = _plain(config)
  for key in plain:
    if key not in RUN_SECTIONS:
      raise UserError(f"unknown key {key!r}: {nearest(key, RUN_SECTIONS)}")
  return RunSpec(
    stage=plain["stage"],
    cascade=cascade_from_config(plain),
    train=from_dict(TrainSpec, plain["train"], "train"),
    distill=from_dict(DistillSpec, plain.get("distill", {}), "distill"),
    mesh=from_dict(MeshSpec, plain["mesh"], "mesh"),
    data=from_dict(DataSpec, plain["data"], "data"),
  )


def _plain(config: Any) -> Any:
  if hasattr(config, "to_dict"):
    return config.to_dict()
  return config


def _join(path: str, key: str) -> str:
  return f"{path}.{key}" if path else key


def _value(hint: Any, value: Any, path: str) -> Any:
  """`value` as `hint` wants it; UserError with the path otherwise."""
  origin = typing.get_origin(hint)
  if origin in (types.UnionType, typing.Union):
    if value is None:
      return None
    inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return _value(inner, value, path)
  if origin is tuple:
    return tuple(_value(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
  if dataclasses.is_dataclass(hint):
    return value if isinstance(value, hint) else from_dict(hint, value, path)
  if isinstance(hint, type) and issubclass(hint, enum.Enum):
    return _enum(hint, value, path)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if hint in (int, float, str, bool) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
    raise UserError(f"{path}={value!r}: expected {hint.__name__}")
  return value


def _enum(hint: type[enum.Enum], value: Any, path: str) -> enum.Enum:
  if isinstance(value, hint):
    return value
  try:
    return hint(value)
  except ValueError:
    raise UserError(f"{path}={value!r}: {nearest(str(value), [m.value for m in hint])}") from None
