"""An evaluation cut into shares for processes that know nothing of each other but the folder they write to.

What was seen of each clip is kept in a file of its own, parts/KEY/NUMBER.npz, where KEY follows from all that the evaluation depends on:
another one in the same folder has other files. What is there is not made again, and whoever finds all of it there writes the report. Clips
are computed in batches of the whole evaluation, so the report depends neither on the number of processes nor on what was there.
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
Kept = tuple[dict[str, Any], dict[str, np.ndarray]]  # what JSON can hold of an item, and its arrays by name


@dataclasses.dataclass(frozen=True)
class Work:
  """An evaluation of `count` items.

  Attributes:
    key: all that the items depend on, as JSON has it.
    batch: items that are computed together, and so belong to one process.
    make: the items of these numbers, in their order.
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
    folder: of the report.
    process: which one of how many; each takes the batches whose number leaves its own as the rest. None: makes all items and keeps none.
    keep, restore: an item as its file holds it, and back, given its number.

  Raises:
    UserError: a file that cannot be written, or is damaged; and whatever `make` raises.
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
