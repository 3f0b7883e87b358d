"""JSON files on their way in: bounded before they are parsed, brought to today's format, and read by a schema, which is a dataclass."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from ivid.spec import convert, formats
from ivid.spec.errors import UserError
from ivid.spec.limits import DEEPEST_FILE, LARGEST_JSON

T = TypeVar("T")


def parse_json(text: str | bytes, *, source: Any) -> Any:
  """What a JSON text says; NaN and infinities are numbers, which the ranges of specs refuse.

  Args:
    source: the file's name, for errors.

  Raises:
    UserError: no JSON in a Unicode encoding, or lists and objects more than DEEPEST_FILE deep.
  """
  found = None
  try:
    found = json.loads(text)
    deep = _deeper(found, DEEPEST_FILE)
  except RecursionError:
    deep = True
  except ValueError as error:  # of Unicode, of JSON, or of an integer of thousands of digits
    raise UserError(f"{source} is no JSON: {error}") from None
  if deep:
    raise UserError(f"{source} holds lists or objects more than {DEEPEST_FILE} deep: expected a file as ivid reads it")
  return found


def read_json(path: str | os.PathLike[str], *, source: Any = "") -> Any:
  """What a JSON file says. Arguments and errors as of parse_json; and UserError for a file of more than LARGEST_JSON bytes."""
  file = cast("pathlib.Path", pathlib.Path(path) if isinstance(path, str) else path)  # or epath's, in a bucket
  stat: Any = file.stat()
  size = stat.st_size if hasattr(stat, "st_size") else stat.length
  if size > LARGEST_JSON:
    raise UserError(f"{source or path} has {size} bytes: expected at most {LARGEST_JSON} of JSON")
  return parse_json(file.read_bytes(), source=source or path)


def read_mapping(path: str | os.PathLike[str], kind: formats.Kind, *, source: Any = "") -> dict[str, Any]:
  """A file of ours in today's format, without its `format`. Errors as of read_json and formats.migrate."""
  return formats.migrate(read_json(path, source=source), kind, source=source or path)


def as_spec(cls: type[T], found: Mapping[str, Any], *, source: Any) -> T:
  """The spec that a file's contents describe; UserError with the file's name as of convert.from_dict."""
  try:
    return convert.from_dict(cls, found)
  except UserError as error:
    raise UserError(f"{source}: {error}") from None


def read_spec(cls: type[T], path: str | os.PathLike[str], kind: formats.Kind, *, source: Any = "") -> T:
  """The spec in a file of ours. Errors as of read_mapping and as_spec."""
  return as_spec(cls, read_mapping(path, kind, source=source), source=source or path)


def _deeper(value: Any, levels: int) -> bool:
  """Whether there are more than so many lists and dictionaries one inside the other."""
  layer: list[Any] = [value]
  for _ in range(levels):
    layer = [item for one in layer if isinstance(one, dict | list) for item in _items(one)]
    layer = [item for item in layer if isinstance(item, dict | list)]
    if not layer:
      return False
  return True


def _items(nested: Any) -> Iterable[Any]:
  return cast("dict[Any, Any]", nested).values() if isinstance(nested, dict) else nested
