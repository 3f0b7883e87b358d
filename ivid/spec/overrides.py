"""Overrides such as `train.batch_size=4` of plain data that a dataclass will be read from."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import enum
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Any, cast

from ivid.spec import convert
from ivid.spec.errors import UserError, nearest
from ivid.spec.formats import RENAMED, expected_key

SHORT = {"lr": "learning_rate", "bs": "batch_size", "wd": "weight_decay", "ema": "ema_decay"}  # names that other codebases use
SPELLING = 0.8  # how similar a name has to be to one in another section (difflib's ratio)


@dataclasses.dataclass(frozen=True)
class _Override:
  """`KEY=VALUE`."""

  key: str
  text: str
  root: type

  @property
  def said(self) -> str:
    return f"--config.{self.key}={self.text}"


def overridden(root: type, plain: dict[str, Any], override: str) -> dict[str, Any]:
  """The config with KEY=VALUE; KEY has dots, and places in a list in brackets: train.phases[0].steps.

  Args:
    root: dataclass that the config is read as.

  Raises:
    UserError: a key that is unknown, naming the nearest and where else there is one; a value of another type than the key's.
  """
  key, equals, text = override.partition("=")
  if not equals:
    raise UserError(f"--config.{key}: expected --config.{key}=VALUE")
  if not re.fullmatch(r"[^.\[\]]+(\[\d+\])*(\.[^.\[\]]+(\[\d+\])*)*", key):
    raise UserError(f"--config.{key}: expected names with dots between them, such as --config.train.phases[0].steps=VALUE")
  path = [int(part[1:-1]) if part.startswith("[") else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", key)]
  return _changed(root, plain, path, _Override(key, text, root), "config")


def _changed(hint: Any, node: Any, path: Sequence[str | int], override: _Override, at: str) -> Any:
  """`node`, what a config says about a field of type `hint`, with the value at the path's end. What it leaves out starts from defaults.

  Args:
    node: plain data; None where the config says nothing and there is no default.
    at: the path to the node, for errors.
  """
  if not path:
    return _read(hint, node, override, at)
  hint, _ = convert.without_none(hint)
  name, rest = path[0], path[1:]
  if typing.get_origin(hint) is tuple:
    return _changed_item(hint, node or [], path, override, at)
  if isinstance(name, int) or not (dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict):
    more = f"[{name}]" if isinstance(name, int) else f".{name}"
    raise UserError(f"unknown key '{at}{more}': {at} is {_kind(hint)}, expected {_how(hint, at)}")
  if not isinstance(node := {} if node is None else node, dict):
    raise UserError(f"{override.said}: the config has {at}={node!r}, expected a section")
  section = cast("dict[str, Any]", node)
  if typing.get_origin(hint) is dict:
    known: dict[str, tuple[Any, Any]] = {key: (typing.get_args(hint)[1], None) for key in section}
  else:
    hints = typing.get_type_hints(hint)
    known = {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(hint)}
  if name not in known:
    places = [] if name in RENAMED else _elsewhere(override.root, name, known)
    expected = f"there is {' and '.join(places)}; expected one of {', '.join(known)}" if places else expected_key(name, known)
    raise UserError(f"unknown key '{at}.{name}': {expected}")
  inner, default = known[name]
  return section | {name: _changed(inner, section.get(name, default), rest, override, f"{at}.{name}")}


def _elsewhere(root: type, name: str, known: Iterable[str]) -> list[str]:
  """Paths of the keys that are probably meant by `name`, which is not one of the `known` keys of its section.

  These are the keys of that name, or of the name that it is short for; without any, and without a similar key in the section, those of the
  most similar name.
  """
  places = _places(root, "config")
  name = SHORT.get(name, name)
  if name not in places and not difflib.get_close_matches(name, known, n=1):
    name = next(iter(difflib.get_close_matches(name, places, n=1, cutoff=SPELLING)), name)
  return places.get(name, [])


def _places(hint: Any, at: str) -> dict[str, list[str]]:
  """The paths of each key of a section and those below it, except inside lists."""
  found: dict[str, list[str]] = {}
  hints = typing.get_type_hints(hint)
  for field in dataclasses.fields(hint):
    found.setdefault(field.name, []).append(f"{at}.{field.name}")
    inner, _ = convert.without_none(hints[field.name])
    if dataclasses.is_dataclass(inner):
      for key, paths in _places(inner, f"{at}.{field.name}").items():
        found.setdefault(key, []).extend(paths)
  return found


def _changed_item(hint: Any, node: Any, path: Sequence[str | int], override: _Override, at: str) -> list[Any]:
  """_changed of a list."""
  name, rest = path[0], path[1:]
  if not isinstance(node, list):
    raise UserError(f"{override.said}: the config has {at}={node!r}, expected a list")
  items = cast("list[Any]", node)
  if not isinstance(name, int):
    raise UserError(f"unknown key '{at}.{name}': {at} is a list, expected {at}[0].{name}")
  if name >= len(items):
    raise UserError(f"{override.said}: {at} has {len(items)}, expected " + (f"[0] to [{len(items) - 1}]" if items else "the whole list"))
  return [*items[:name], _changed(typing.get_args(hint)[0], items[name], rest, override, f"{at}[{name}]"), *items[name + 1 :]]


def _default(field: dataclasses.Field[Any]) -> Any:
  """The default of a field as plain data; None where it has none."""
  return None if field.default is dataclasses.MISSING else convert.to_dict(field.default)


def _read(hint: Any, now: Any, override: _Override, at: str) -> Any:
  """The value of an override as plain data; `now` is what it replaces."""
  value: Any = _literal(hint, override.text)
  inner, optional = convert.without_none(hint)
  try:
    return convert.to_dict(convert.typed(hint, value, at))
  except UserError:
    if isinstance(value, dict) or (isinstance(value, list | tuple) and typing.get_origin(inner) is tuple):
      raise  # names what is wrong within
  if isinstance(inner, type) and issubclass(inner, enum.Enum):
    raise UserError(f"--config.{override.key}={value!r}: {nearest(str(value), [member.value for member in inner])}")  # pyright: ignore[reportUnknownArgumentType]  what is left after the checks above is of any type
  if dataclasses.is_dataclass(inner) or typing.get_origin(inner) is dict:  # pyright: ignore[reportUnknownArgumentType]  what is left after the checks above is of any type
    raise UserError(f"{override.said}: {at} is {_kind(inner)}, expected {_how(inner, at)}{' or None' if optional else ''}")
  raise UserError(f"{override.said}: expected {_kind(inner)}{' or None' if optional else ''}, such as {_example(inner, now)!r}")


def _literal(hint: Any, text: str) -> Any:
  """The text as Python writes a value, else true or false, else itself. Words need no quotes, also those that look like a number."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    value = {"true": True, "false": False}.get(text.lower(), text)
  return text if convert.without_none(hint)[0] is str and value is not None and not isinstance(value, str) else value


def _kind(hint: Any) -> str:
  """What a field of this type is, in words."""
  if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict:
    return "a section"
  return "a list" if typing.get_origin(hint) is tuple else hint.__name__


def _how(hint: Any, at: str) -> str:
  """What to write for a field of this type."""
  if dataclasses.is_dataclass(hint):
    return f"--{at}.KEY=VALUE with a KEY of {', '.join(field.name for field in dataclasses.fields(hint))}"
  return f"--{at}.NAME.KEY=VALUE" if typing.get_origin(hint) is dict else f"--{at}=VALUE"


def _example(hint: Any, now: Any) -> Any:
  """A value of the right type: the one that is there, if it is."""
  if typing.get_origin(hint) is tuple:
    item = typing.get_args(hint)[0]
    return tuple(cast("list[Any]", now)) if now and isinstance(now, list) else (_example(item, None),)
  if dataclasses.is_dataclass(hint):
    hints = typing.get_type_hints(hint)
    return {field.name: _example(hints[field.name], None) for field in dataclasses.fields(hint) if field.default is dataclasses.MISSING}
  return now if isinstance(now, hint) else {int: 1, float: 0.5, bool: True, str: "name"}[hint]
