"""A list of settings to compare, as a user writes it: cascades, and how their stages are sampled."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, cast

from ivid.spec.errors import UserError, shown
from ivid.spec.files import as_spec, read_json
from ivid.spec.paths import check_file

MOST_ROWS = 1000
DRAWN = "moving_shapes"  # in place of a cascade: ground truth, drawn of the same prompts


@dataclasses.dataclass(frozen=True)
class TableRow:
  """One setting; all but the first two are as the flags of `ivid sample`, by stage too: base=64,ssr1=16.

  Attributes:
    name: of the row.
    cascade: a folder, a work folder, or the name of one that ships; DRAWN, and nothing else, for ground truth.
    stop_stage: the last one that runs; empty: the last trained one.
    guidance: 6 for all stages, base=15:1 oscillates.
  """

  name: str
  cascade: str = "nano"
  stop_stage: str = ""
  guidance: str = ""
  steps: str = ""
  sampler: str = ""
  threshold: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """The file."""

  rows: tuple[TableRow, ...]


def read_table(path: str | os.PathLike[str]) -> tuple[TableRow, ...]:
  """The rows of a JSON file {"rows": [{"name": ..., "cascade": ..., ...}]}; numbers stand for their texts.

  Raises:
    UserError: no such file, no JSON, an unknown key or one of another type, no rows, too many, or two of one name.
  """
  found: Any = read_json(check_file(path, "table"))
  if isinstance(found, dict):
    entries = cast(dict[str, Any], found)
    listed = entries.get("rows")
    if isinstance(listed, list):
      found = entries | dict(rows=[_texts(row) for row in cast(list[Any], listed)])
  rows = as_spec(Table, cast(Any, found), source=path).rows
  if not 1 <= len(rows) <= MOST_ROWS:
    raise UserError(f"{path} has {len(rows)} rows: expected 1 to {MOST_ROWS}")
  names = [row.name for row in rows]
  if twice := [name for name in names if names.count(name) > 1]:
    raise UserError(f"{path}: two rows are named {shown(twice[0])}: expected a name of its own for each")
  return rows


def _texts(row: Any) -> Any:
  if not isinstance(row, dict):
    return row
  entries = cast(dict[str, Any], row)
  return {key: f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value for key, value in entries.items()}
