"""The prepared data sets of a run, remembered in its work folder: on other records an example's index would mean something else."""

from __future__ import annotations

import hashlib
import json
import pathlib

from ivid.media.files import write_whole
from ivid.parallel.distributed import is_first
from ivid.spec import formats
from ivid.spec.errors import UserError
from ivid.spec.run import DataSpec

FILE = "sources.json"
DESCRIPTION = "dataset_info.json"  # TFDS's, with the records of every file


def check_sources(data: DataSpec, workdir: pathlib.Path, *, resuming: bool) -> dict[str, dict[str, str]]:
  """What there is to remember of the run's data sets, compared with those that it began with.

  Raises:
    UserError: a data set that has other records than it had, named.
  """
  found = {}
  for number, source in enumerate(data.named()):
    if source.is_prepared:
      from ivid.data.prepared import find_folder  # TFDS takes seconds to import

      found[f"{number} {source.name}"] = _described(find_folder(source.name, source.dir) / DESCRIPTION)
  path = workdir / FILE
  if resuming and path.is_file():
    before = formats.migrate(json.loads(path.read_text(encoding="utf-8")), formats.Kind.DATA, source=path)
    for key, now in found.items():
      was, name = before.get(key, now), key.partition(" ")[2]
      if was != now:
        raise UserError(
          f"{name} had {was['records']} when {workdir} began and has {now['records']}{' others' * (was['records'] == now['records'])}: "
          "expected the same data, or a new --workdir and train.init_from"
        )
  return found


def remember_sources(found: dict[str, dict[str, str]], workdir: pathlib.Path) -> None:
  """Writes what `check_sources` found; of process 0."""
  if found and is_first():
    write_whole(workdir / FILE, json.dumps(formats.stamped(found), indent=1) + "\n")


def _described(path: pathlib.Path) -> dict[str, str]:
  text = path.read_text(encoding="utf-8")
  splits = json.loads(text)["splits"]
  records = ", ".join(f"{sum(map(int, split.get('shardLengths', [])))} of {split['name']}" for split in splits)
  return {"records": records, "sha256": hashlib.sha256(text.encode()).hexdigest()}
