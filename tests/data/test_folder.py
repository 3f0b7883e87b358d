"""A prepared data set that is cut, emptied or edited is named in one line before anything is drawn from it."""

import json
import pathlib
import shutil

import pytest

from ivid.data.prepared import all_captions, find_folder
from ivid.spec.errors import UserError
from tests.faults.doors import make_drawn, make_prepared, read_data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folders = {}
  for name, make in (("drawn", make_drawn), ("prepared", make_prepared)):
    folders[name] = tmp_path_factory.mktemp(name)
    make(folders[name])
    read_data(folders[name])
  return folders


def cut(path, share=2):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // share])


def changed(**values):
  def change(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))

  return change


def fewer(path):
  """Says that a split has a record more than it has."""
  found = json.loads(path.read_text())
  for split in found["splits"]:
    split["shardLengths"] = [str(int(n) + 1) for n in split["shardLengths"]]
  path.write_text(json.dumps(found))


@pytest.mark.parametrize("kind", ["drawn", "prepared"])
@pytest.mark.parametrize(
  "pattern, change, message",
  [
    ("dataset_info.json", cut, "dataset_info.json is no JSON"),
    ("dataset_info.json", lambda path: path.write_text(""), "dataset_info.json is no JSON"),
    ("dataset_info.json", lambda path: path.write_text("[]"), "dataset_info.json describes no splits"),
    ("dataset_info.json", changed(splits=None), "dataset_info.json describes no splits"),
    ("dataset_info.json", changed(splits=[None]), r"splits\[0\]=None: expected a section"),
    ("dataset_info.json", changed(splits=[{"name": "../train"}]), "split '../train': expected a name without slashes"),
    ("dataset_info.json", changed(splits=[{"name": "train", "shardLengths": ["1e9"]}]), "shardLengths has '1e9': expected a number"),
    (
      "dataset_info.json",
      changed(splits=[{"name": "train", "filepathTemplate": "../../{SPLIT}"}]),
      "filepathTemplate .*: expected a name without slashes",
    ),
    ("dataset_info.json", fewer, r"record 3 of split train of .* cannot be read|index-train.parquet has 3 rows: expected the 4"),
    ("features.json", cut, "features.json is no JSON"),
    ("features.json", lambda path: path.unlink(), "has no features.json"),
    ("features.json", changed(pythonClassName="os.path.join"), "pythonClassName='os.path.join': expected a feature of TFDS"),
    ("features.json", lambda path: path.write_text("{}"), "cannot be read as a data set"),
    ("*train*array_record*", cut, r"record \d of split train of .* (is damaged: it has no|cannot be read: )"),
    ("*train*array_record*", lambda path: path.write_bytes(b""), "split train of .* cannot be read: "),
    ("*train*array_record*", lambda path: path.unlink(), "split train of .* cannot be read: "),
    ("index-train.parquet", cut, "index-train.parquet cannot be read: "),
    ("index-train.parquet", lambda path: path.write_bytes(b""), "index-train.parquet cannot be read: "),
  ],
)
def test_damage_is_named(made, tmp_path, kind, pattern, change, message):
  folder = tmp_path / kind
  shutil.copytree(made[kind], folder)
  files = [path for path in pathlib.Path(folder).rglob(pattern) if path.is_file()]
  if not files:
    assert kind == "drawn" and pattern.endswith("parquet")
    return
  for path in files:
    change(path)
  with pytest.raises(UserError, match=message) as error:
    read_data(folder)
  assert "\n" not in str(error.value)


def test_an_index_of_another_shape(made, tmp_path):
  import pyarrow
  from pyarrow import parquet

  path = next((made["prepared"]).rglob("index-train.parquet"))
  table = parquet.read_table(path)
  for change, message in (
    (table.slice(1), "rows: expected the"),
    (table.drop_columns(["seconds"]), "has no column 'seconds'"),
    (table.set_column(table.column_names.index("seconds"), "seconds", [["a"] * len(table)]), "cannot be read: "),
    (
      table.set_column(table.column_names.index("height"), "height", [pyarrow.array([None] * len(table), pyarrow.int64())]),
      "has rows without a value",
    ),
  ):
    folder = tmp_path / message[:8]
    shutil.copytree(made["prepared"], folder)
    parquet.write_table(change, next(folder.rglob("index-train.parquet")))
    with pytest.raises(UserError, match=message):
      read_data(folder)


@pytest.mark.parametrize("name", ["tfds:../x", "tfds:/etc", "tfds:", "tfds:a/../../b", "tfds:.hidden"])
def test_names_of_data_sets(tmp_path, name):
  with pytest.raises(UserError, match="data set .*expected a name without slashes"):
    find_folder(name, str(tmp_path))
  with pytest.raises(UserError, match="expected a name without slashes"):
    list(all_captions(name, str(tmp_path)))
