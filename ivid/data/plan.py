"""The plan of a data set, written before anything is prepared: every process reads its slices of it, and changes are detected."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Annotated

import pyarrow
from pyarrow import parquet

from ivid.data.listing import Item, as_unicode, base, items
from ivid.data.store import Store
from ivid.media.files import naming_disk_errors
from ivid.spec import formats
from ivid.spec.errors import UserError
from ivid.spec.files import as_spec, parse_json
from ivid.spec.limits import LARGEST_SEED
from ivid.spec.prepare import PrepareSpec, colour
from ivid.spec.ranges import Range, check_ranges

MANIFEST, PLAN = "manifest.parquet", "plan.json"
VERSION = "1.0.0"
SAME_DATA = ("input", "timeout")  # options that may differ; the items tell where the input lies

_SCHEMA = pyarrow.schema(
  [
    ("media", pyarrow.string()),
    ("captions", pyarrow.list_(pyarrow.string())),
    ("columns", pyarrow.string()),  # JSON
    ("problem", pyarrow.string()),
    ("size", pyarrow.int64()),
  ]
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """A data set to be.

  Attributes:
    folder: of the data set, below the requested one.
    items: number of items in the list, including unusable ones.
    columns: names of the user's columns.
    digest: SHA-256 of all items.
  """

  folder: str
  spec: PrepareSpec
  items: Annotated[int, Range(0, LARGEST_SEED)]
  columns: tuple[str, ...]
  digest: str

  def __post_init__(self):
    check_ranges(self, "")

  @property
  def shards(self) -> int:
    return -(-self.items // self.spec.shard_items)

  @functools.cached_property
  def _base(self) -> str:
    return base(self.spec.input)

  @functools.cached_property
  def store(self) -> Store:
    return Store(self.folder)

  def slice(self, shard: int) -> list[Item]:
    """The items of a shard."""
    with self.store.open(MANIFEST) as file:  # from which a bucket only sends the requested part
      return [_of_row(row) for row in parquet.ParquetFile(file).read_row_group(shard).to_pylist()]

  def group(self, item: Item) -> int:
    """63 bits of the SHA-256 of what keeps items together in one split. Paths are relative to the input, so that a folder may move."""
    column = self.spec.split_by
    text = item.columns.get(column, "") if column else item.media.removeprefix(self._base)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_plan(spec: PrepareSpec, out: str, *, overwrite: bool = False) -> Plan:
  """Lists what spec.input names and writes the list into `out`, or compares it with the list that is already there.

  Args:
    overwrite: whether a data set that was prepared from something else is replaced.

  Raises:
    UserError: there is nothing to prepare, a column is unknown, or something else was prepared there.
  """
  folder = posixpath.join(out, spec.name, VERSION)
  store = Store(folder)
  # Hosts that start together list one after the other: the first writes the plan, and the others check that theirs is the same.
  with store.alone(), naming_disk_errors(folder), tempfile.TemporaryDirectory() as place:
    have = _read(folder) if store.exists(PLAN) else None
    if have is None and store.exists("dataset_info.json") and not overwrite:
      raise UserError(f"{folder} holds a data set of another making: expected another --out or --name, or --overwrite")
    path = os.path.join(place, MANIFEST)
    plan = _written(path, spec, folder)
    change = "" if have is None else _change(have, plan, path)
    if change and not overwrite:
      raise UserError(f"{folder} was prepared from something else: {change}; expected another --out or --name, or --overwrite")
    if have is None or change:
      for name in store.names():
        if overwrite and not name.startswith("."):
          store.remove(name)
      with store.writing(MANIFEST) as target:
        shutil.copyfile(path, target)
      described = dataclasses.asdict(plan)
      del described["folder"]
      store.write(PLAN, json.dumps(formats.stamped(described), indent=1) + "\n")
  return plan


def _read(folder: str) -> Plan:
  source = posixpath.join(folder, PLAN)
  found = formats.migrate(parse_json(Store(folder).read(PLAN), source=source), formats.Kind.PREPARED, source=source)
  return as_spec(Plan, {**found, "folder": folder}, source=source)


def _written(path: str, spec: PrepareSpec, folder: str) -> Plan:
  """Writes the manifest, with one row group per shard."""
  whole, columns, count = hashlib.sha256(), set(), 0
  listed = map(as_unicode, items(spec.input, media_column=spec.media_column, caption_column=spec.caption_column))
  with parquet.ParquetWriter(path, _SCHEMA) as writer:
    while part := list(itertools.islice(listed, spec.shard_items)):
      rows = [dataclasses.asdict(item) | {"columns": json.dumps(item.columns, sort_keys=True)} for item in part]
      for row in rows:
        whole.update(json.dumps(row, sort_keys=True).encode())
      columns.update(*(item.columns for item in part))
      count += len(part)
      writer.write_table(pyarrow.Table.from_pylist(rows, _SCHEMA), row_group_size=spec.shard_items)
  for column, flag in ((spec.split_by, "--split_by"), ("" if colour(spec.background) else spec.background, "--background")):
    if column and column not in columns:
      raise UserError(f"{flag}={column}: {spec.input} has no such column, expected one of {', '.join(sorted(columns)) or 'none'}")
  return Plan(folder, spec, count, tuple(sorted(columns)), whole.hexdigest())


def _change(have: Plan, plan: Plan, path: str) -> str:
  """The first difference between the new request and the earlier one; empty if there is none."""
  for field in dataclasses.fields(PrepareSpec):
    old, new = getattr(have.spec, field.name), getattr(plan.spec, field.name)
    if old != new and field.name not in SAME_DATA:
      return f"--{field.name} was {old!r}, now {new!r}"
  if have.digest == plan.digest:
    return ""
  with have.store.open(MANIFEST) as before:
    for number, (old, new) in enumerate(itertools.zip_longest(_rows(before), _rows(path)), 1):
      if old != new:
        return f"item {number} was {_shown(old)}, now {_shown(new)}"
  return "its items"


def _rows(path: str | IO[bytes]) -> Iterator[dict]:
  for batch in parquet.ParquetFile(path).iter_batches():
    yield from batch.to_pylist()


def _shown(row: dict | None) -> str:
  return "none" if row is None else f"{row['media']}, {row['problem'] or ' | '.join(row['captions'])!r}, {row['size']} bytes"


def _of_row(row: dict) -> Item:
  return Item(row["media"], tuple(row["captions"] or ()), json.loads(row["columns"]), row["problem"], row["size"])
