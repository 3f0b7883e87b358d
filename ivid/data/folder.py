"""Reads the files of a prepared TFDS data set. Descriptions are checked before TFDS reads them, and damage is reported by name."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow
import tensorflow_datasets as tfds
from pyarrow import parquet

from ivid.data import records
from ivid.spec.errors import UserError, first_line, shown
from ivid.spec.files import as_spec, read_json
from ivid.spec.names import LONGEST_FILE, check_name

DESCRIPTION, FEATURES = "dataset_info.json", "features.json"
CLASS, CLASSES = "pythonClassName", "tensorflow_datasets."  # TFDS imports the modules that features.json names; only its own are allowed
USED = (records.CLIP, records.SHAPE, "video", records.MEDIA, records.SECONDS, records.CAPTION, records.CAPTIONS)
MOST_SHARDS = 1 << 20  # of a split
LARGEST_COUNT = 1 << 48  # records of a shard
TABLE = {
  "frames": pyarrow.int64(),
  "seconds": pyarrow.float64(),
  "height": pyarrow.int64(),
  "width": pyarrow.int64(),
  records.CAPTIONS: pyarrow.list_(pyarrow.string()),
}


@dataclasses.dataclass(frozen=True)
class SplitInfo:
  """The parts of a split in dataset_info.json that determine file names and numbers of records."""

  name: str
  shardLengths: tuple[str, ...] = ()
  filepathTemplate: str = ""

  def __post_init__(self):
    check_name(self.name, "split")
    if self.filepathTemplate:
      check_name(self.filepathTemplate, f"split {self.name}: filepathTemplate", longest=LONGEST_FILE)
    if len(self.shardLengths) > MOST_SHARDS:
      raise UserError(f"split {self.name} has {len(self.shardLengths)} shards: expected at most {MOST_SHARDS}")
    for length in self.shardLengths:
      if not (length.isascii() and length.isdecimal() and len(length) < 20 and int(length) <= LARGEST_COUNT):
        raise UserError(f"split {self.name}: shardLengths has {shown(length)}: expected a number of records")

  @property
  def items(self) -> int:
    """The number of records in all of its shards."""
    return sum(map(int, self.shardLengths))


@dataclasses.dataclass(frozen=True)
class _Info:
  splits: tuple[SplitInfo, ...]
  name: str = ""

  def __post_init__(self):
    if self.name:
      check_name(self.name, "data set")


def read_splits(folder: pathlib.Path) -> tuple[SplitInfo, ...]:
  """The splits in dataset_info.json.

  Raises:
    UserError: it is not JSON, or does not describe a data set.
  """
  path = folder / DESCRIPTION
  found = read_json(path)
  if not isinstance(found, dict) or not isinstance(found.get("splits"), list):
    raise UserError(f"{path} describes no splits: expected a file that TFDS wrote")
  known = {field.name for field in dataclasses.fields(SplitInfo)}
  splits = [_chosen(split, known) for split in found["splits"]]
  return as_spec(_Info, {"splits": splits} | ({"name": found["name"]} if "name" in found else {}), source=path).splits


def _chosen(found: Any, known: set[str]) -> Any:
  """The known entries of a dictionary, since every version of TFDS adds new ones."""
  return {key: value for key, value in found.items() if key in known} if isinstance(found, dict) else found


def open_builder(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
  """TFDS's reader of the folder.

  Raises:
    UserError: dataset_info.json or features.json is missing or damaged, or would import modules outside TFDS.
  """
  read_splits(folder)
  if not (folder / FEATURES).is_file():
    raise UserError(f"{folder} has no {FEATURES}: expected a folder that TFDS or `ivid data prepare` wrote")
  for name in _classes(read_json(folder / FEATURES)):
    if not isinstance(name, str) or not name.startswith(CLASSES):
      raise UserError(f"{folder / FEATURES}: {CLASS}={shown(name)}: expected a feature of TFDS, {CLASSES}...")
  try:
    builder = tfds.builder_from_directory(folder)
    features = dict(builder.info.features)  # pyright: ignore[reportArgumentType, reportCallIssue]  TFDS declares less than it offers
  except Exception as error:  # TFDS raises many classes for descriptions that are damaged
    raise UserError(f"{folder} cannot be read as a data set: {first_line(error)}") from None
  for one, other in ((records.CLIP, records.SHAPE), (records.MEDIA, records.SECONDS)):
    if one in features and other not in features:
      raise UserError(f"{folder / FEATURES} has {one!r} without {other!r}: expected the features that `ivid data prepare` writes")
  return builder


def _classes(value: Any) -> Iterator[Any]:
  if isinstance(value, list | dict):
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
      yield from [item] if key == CLASS else _classes(item)


class Records(Sequence[Mapping[str, Any]]):
  """The records of a split, by position."""

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str, *, decoders: Mapping[str, Any] | None = None):
    """Raises UserError: shards are missing."""
    folder = pathlib.Path(builder.data_dir)
    self._said = f"split {split} of {folder}"
    try:
      self._source = builder.as_data_source(split=split, decoders=decoders)  # pyright: ignore[reportCallIssue]  TFDS declares less than it offers
      self._count = len(self._source)
    except Exception as error:  # TFDS and array_record raise many classes for files that are damaged
      raise UserError(f"{self._said} cannot be read: {first_line(error)}") from None

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, place: int) -> Mapping[str, Any]:
    """The record. Raises UserError if it is damaged, or missing because its shard is shorter than dataset_info.json says."""
    if not 0 <= place < len(self):
      raise IndexError(place)
    try:
      record = self._source[place]
    except Exception as error:  # as above, and what numpy raises of bytes that are no array
      raise UserError(f"record {place} of {self._said} cannot be read: {first_line(error)}") from None
    # For a truncated shard, array_record returns nothing, which TFDS turns into a record without values.
    if empty := next((name for name in USED if name in record and record[name] is None), None):
      raise UserError(f"record {place} of {self._said} is damaged: it has no {empty!r}")
    return record


def read_table(path: pathlib.Path, columns: Sequence[str], *, rows: int) -> Iterator[pyarrow.RecordBatch]:
  """Yields parts of a split's index with these columns of TABLE.

  Raises:
    UserError: the file is damaged, has another number of rows, or a column is missing, empty or of another type.
  """
  try:
    file = parquet.ParquetFile(path)
    if file.metadata.num_rows != rows:
      raise UserError(f"{path} has {file.metadata.num_rows} rows: expected the {rows} of the records")
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
      raise UserError(f"{path} has no column {missing[0]!r}: expected a file that `ivid data prepare` wrote")
    seen = 0
    for batch in file.iter_batches(columns=list(columns)):
      found = pyarrow.Table.from_batches([batch]).select(list(columns)).cast(pyarrow.schema([(name, TABLE[name]) for name in columns]))
      found.validate(full=True)  # this also finds texts that are not UTF-8
      seen += len(found)
      if any(column.null_count for column in found.columns):
        raise UserError(f"{path} has rows without a value: expected a file that `ivid data prepare` wrote")
      yield from found.to_batches()
    if seen != rows:
      raise UserError(f"{path} cannot be read: it ends after {seen} of {rows} rows")
  except (pyarrow.ArrowException, OSError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path} cannot be read: {first_line(error)}") from None
