"""ArrayRecord files, written so that a full disk is noticed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from array_record.python import array_record_data_source, array_record_module  # pyright: ignore[reportAttributeAccessIssue]  a compiled module without stubs

OPTIONS = "group_size:1,uncompressed"  # read at random; neither media nor numbers of a network compress


@contextlib.contextmanager
def writing_records(path: str | os.PathLike[str]) -> Iterator[Callable[[bytes], None]]:
  """Gives what writes a record to a new file.

  Raises:
    OSError: a disk that is full, or in the end another number of records than were written.
  """
  count = 0
  writer = array_record_module.ArrayRecordWriter(os.fspath(path), OPTIONS)

  def write(record: bytes) -> None:
    nonlocal count
    with _as_os_error():
      writer.write(record)
    count += 1

  yield write
  with _as_os_error():
    writer.close()
  try:
    have = len(array_record_data_source.ArrayRecordDataSource([os.fspath(path)])) if count else 0
  except Exception as error:  # whatever an unfinished file causes
    raise OSError(f"an unfinished file: {error}") from None
  if have != count:
    raise OSError(f"{have} of {count} records: is the disk full?")


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
  try:
    yield
  except RuntimeError as error:  # as the library says that a disk is full
    raise OSError(str(error).partition(";")[0]) from None
