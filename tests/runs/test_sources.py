"""A run knows the data sets that it began with."""

import json

import pytest

from ivid.runs.sources import FILE, check_sources, remember_sources
from ivid.spec.errors import UserError
from ivid.spec.run import DataSpec, SourceSpec


def described(folder, *counts, note=""):
  folder.mkdir(parents=True, exist_ok=True)
  splits = [{"name": "train", "shardLengths": [str(count) for count in counts]}]
  (folder / "dataset_info.json").write_text(json.dumps({"splits": splits, "description": note}))


def test_a_source_that_has_grown_is_named(tmp_path):
  for name in ("one", "two"):
    described(tmp_path / "data" / name / "1.0.0", 10, 5)
  data = DataSpec(sources=(SourceSpec("tfds:one"), SourceSpec("moving_shapes"), SourceSpec("tfds:two")), dir=str(tmp_path / "data"))
  work = tmp_path / "work"
  work.mkdir()
  remember_sources(check_sources(data, work, resuming=False), work)
  check_sources(data, work, resuming=True)
  described(tmp_path / "data" / "two" / "1.0.0", 10, 7)
  with pytest.raises(UserError, match="^tfds:two had 15 of train when .*work began and has 17 of train: expected the same data, or a new"):
    check_sources(data, work, resuming=True)
  described(tmp_path / "data" / "two" / "1.0.0", 10, 5, note="prepared anew")
  with pytest.raises(UserError, match="has 15 of train others: expected"):
    check_sources(data, work, resuming=True)
  check_sources(data, tmp_path / "work", resuming=False)  # a new run


def test_runs_without_prepared_data_remember_none(tmp_path):
  remember_sources(check_sources(DataSpec(), tmp_path, resuming=True), tmp_path)
  assert not (tmp_path / FILE).exists()
