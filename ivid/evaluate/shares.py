"""An evaluation cut into shares for processes that only share the folder to which they write.

The result of each clip has a file of its own, parts/KEY/NUMBER.npz, where KEY follows from everything on which the evaluation depends:
another evaluation in the same folder has other files. Existing results are not made again, and the process that completes them writes the
report. Clips are computed in batches of the whole evaluation, so the report depends neither on the number of processes nor on existing
results.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ivid.media.files import whole_file
from ivid.sample.groups import batches_of
from ivid.spec import formats
from ivid.spec.errors import UserError, first_line
from ivid.spec.files import parse_json

PARTS, RECORD = "parts", "record"
KEY_CHARACTERS = 16

T = TypeVar("T")
Kept = tuple[dict[str, Any], dict[str, np.ndarray]]  # an item: the part that JSON can hold, and its arrays by name


@dataclasses.dataclass(frozen=True)
class Work:
  """An evaluation of `count` items.

  Attributes:
    key: everything on which the items depend, as JSON has it.
    batch: number of items that are computed together, in one process.
    make: yields the items with these numbers, in this order.
  """

  key: Mapping[str, Any]
  count: int
  batch: int
  make: Callable[[Sequence[int]], Iterator[Any]]


def make_share(
  work: Work, folder: pathlib.Path, process: tuple[int, int] | None, keep: Callable[[T], Kept], restore: Callable[[int, Kept], T]
) -> list[T] | None:
  """All items in order; None while those of other processes are missing.

  Args:
    folder: the folder of the report.
    process: index and number of processes; each takes every n-th batch, starting at its index. None: make all items and keep none.
    keep, restore: an item as its file holds it, and back, given its number.

  Raises:
    UserError: a file cannot be written or is damaged; and whatever `make` raises.
  """
  if process is None:
    return list(work.make(range(work.count)))
  index, count = process
  digest = hashlib.sha256(json.dumps(work.key, sort_keys=True).encode()).hexdigest()[:KEY_CHARACTERS]
  paths = [folder / PARTS / digest / f"{n:06d}.npz" for n in range(work.count)]
  mine = [n for batch in batches_of(work.count, work.batch)[index::count] for n in batch]
  missing = [n for n in mine if not paths[n].exists()]
  said = f"process {index}/{count}: {len(mine)} of {work.count} clips"
  print(f"{said}, {len(mine) - len(missing)} of them there already" if mine else f"{said}: nothing to do", file=sys.stderr, flush=True)
  for n, item in zip(missing, work.make(missing) if missing else (), strict=True):
    _write(paths[n], *keep(item))
  if left := sum(not path.exists() for path in paths):
    print(f"{said} are there; {left} of other processes are missing: the last of them writes the report", file=sys.stderr, flush=True)
    return None
  return [restore(n, _read(path)) for n, path in enumerate(paths)]


def _write(path: pathlib.Path, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
  text = json.dumps(formats.stamped(record), default=lambda value: value.item())  # of numpy
  with whole_file(path) as temporary:
    np.savez_compressed(temporary, **{RECORD: np.frombuffer(text.encode(), np.uint8), **arrays})


def _read(path: pathlib.Path) -> Kept:
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = dict(file)
    record = parse_json(arrays.pop(RECORD).tobytes(), source=path)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f"{path} is damaged: {first_line(error)}; remove it, and the same command makes it again") from None
  return formats.migrate(record, formats.Kind.REPORT, source=path), arrays
