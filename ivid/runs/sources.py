"""The prepared data sets of a run, recorded in its work folder, because the index of an example depends on their records."""

from __future__ import annotations

import json
import pathlib

from ivid.media.files import write_whole
from ivid.parallel.distributed import is_first
from ivid.spec import formats
from ivid.spec.errors import UserError
from ivid.spec.files import read_mapping
from ivid.spec.run import DataSpec
from ivid.weights.cascades import file_sha256

FILE = "sources.json"
DESCRIPTION = "dataset_info.json"  # TFDS's file, with the number of records per file


def check_sources(data: DataSpec, workdir: pathlib.Path, *, resuming: bool) -> dict[str, dict[str, str]]:
  """Compares the run's data sets with those with which it began, and returns what has to be recorded.

  Raises:
    UserError: a data set has other records than before; the error names it.
  """
  found = {}
  for number, source in enumerate(data.named()):
    if source.is_prepared:
      from ivid.data.prepared import find_folder  # TFDS takes seconds to import

      found[f"{number} {source.name}"] = _described(find_folder(source.name, source.dir) / DESCRIPTION)
  path = workdir / FILE
  if resuming and path.is_file():
    before = read_mapping(path, formats.Kind.DATA)
    for key, now in found.items():
      was, name = before.get(key, now), key.partition(" ")[2]
      if was != now:
        had = was.get("records") if isinstance(was, dict) else was
        raise UserError(
          f"{name} had {had} when {workdir} began and has {now['records']}{' others' * (had == now['records'])}: "
          "expected the same data, or a new --workdir and train.init_from"
        )
  return found


def remember_sources(found: dict[str, dict[str, str]], workdir: pathlib.Path) -> None:
  """Writes what `check_sources` found, in process 0."""
  if found and is_first():
    write_whole(workdir / FILE, json.dumps(formats.stamped(found), indent=1) + "\n")


def _described(path: pathlib.Path) -> dict[str, str]:
  from ivid.data.folder import read_splits  # as above

  records = ", ".join(f"{split.items} of {split.name}" for split in read_splits(path.parent))
  return {"records": records, "sha256": file_sha256(path)}
