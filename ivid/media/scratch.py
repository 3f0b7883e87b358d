"""Hidden folders in which files are written until they are complete, and the cleaning up after dead processes.

A scratch folder lies beside what is written, is named `.writing-HOST-...` and is locked by its process. The system frees the locks of dead
processes, and the next process that writes there removes what is left over.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pathlib
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from errno import EINVAL, ENOSYS, ENOTSUP

from ivid.spec.errors import UserError

SCRATCH, BEFORE = ".writing-", ".before-"
DEAD_SECONDS = 86_400  # another host's scratch counts as left over after so long without a change, because its locks are not visible here
POLL_SECONDS = 0.5
AT_FDCWD, EXCHANGE = -100, 2  # of Linux's renameat2
SWAP = 2  # of macOS's renamex_np
_swept: set[str] = set()  # folders that this process has already swept


@contextlib.contextmanager
def scratch_folder(beside: str | os.PathLike[str] | None) -> Iterator[pathlib.Path]:
  """A new hidden folder in `beside` (None: the system's temporary folder), removed at the end or after the death of this process."""
  if beside is None:
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as place:
      yield pathlib.Path(place)
    return
  sweep(beside)
  place, lock = _locked_folder(pathlib.Path(beside))
  try:
    yield place
  finally:
    try:
      remove(place)
    finally:
      os.close(lock)


def remove(path: pathlib.Path) -> None:
  """Removes a folder, or a link to one, if it is there and can be removed."""
  if path.is_symlink():
    path.unlink()
  else:
    shutil.rmtree(path, ignore_errors=True)


def is_scratch(path: pathlib.Path) -> bool:
  """Whether the path is in a scratch folder, and thus only temporary."""
  return any(part.startswith(SCRATCH) for part in path.parts[:-1])


def sweep(folder: str | os.PathLike[str]) -> None:
  """Removes what dead processes were writing in the folder, once per process. What they had renamed but not replaced gets its name back."""
  folder = os.path.realpath(folder)
  if folder in _swept:
    return
  _swept.add(folder)
  with contextlib.suppress(OSError):
    for name in os.listdir(folder):
      if name.startswith((SCRATCH, BEFORE)):
        _bury(pathlib.Path(folder, name))


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Lets only one of the processes on this machine that lock this folder proceed at a time."""
  file = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # a file system without locks
      fcntl.flock(file, fcntl.LOCK_EX)
    yield
  finally:
    os.close(file)


@contextlib.contextmanager
def lock_file(path: str | os.PathLike[str], waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
  """Lets one process at a time go on of those that lock this file, on all machines that share the disk; an empty file stays.

  Args:
    waiting: called repeatedly while another process has the lock.

  Raises:
    UserError: the file cannot be created.
  """
  path = pathlib.Path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
  except OSError as error:
    raise UserError(f"cannot write {path.parent}: {error.strerror}") from None
  sweep(path.parent)
  with file:
    while True:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        waiting()
        time.sleep(POLL_SECONDS)
    yield


def put(fresh: pathlib.Path, target: pathlib.Path) -> None:
  """Gives the folder `fresh` the name `target`. A folder of that name becomes `fresh` at the same moment, or is removed.

  If the system cannot exchange names (NFS, some mounted buckets), the old folder has a temporary name between two renames. If this process
  dies then, `sweep` restores the name.
  """
  if not target.exists():
    os.rename(fresh, target)
  elif not _exchange(fresh, target):
    old = target.with_name(BEFORE + target.name)
    shutil.rmtree(old, ignore_errors=True)
    with locked(target):
      os.rename(target, old)
      os.rename(fresh, target)
      shutil.rmtree(old, ignore_errors=True)


def _locked_folder(beside: pathlib.Path) -> tuple[pathlib.Path, int]:
  """A new scratch folder and the open file that holds its lock."""
  while True:
    place = beside / f"{_prefix()}{secrets.token_hex(6)}"
    os.mkdir(place)
    try:
      lock = os.open(place, os.O_RDONLY)
    except FileNotFoundError:  # swept just before it was locked
      continue
    with contextlib.suppress(OSError):  # a file system without locks
      fcntl.flock(lock, fcntl.LOCK_EX)
    if place.exists():
      return place, lock
    os.close(lock)


def _prefix() -> str:
  return f"{SCRATCH}{platform.node().replace('/', '_') or 'localhost'}-"


def _bury(place: pathlib.Path) -> None:
  """Removes a scratch folder, or gives a renamed one its name back, if its process is dead."""
  with contextlib.suppress(OSError):
    lock = os.open(place, os.O_RDONLY)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      before = place.name.startswith(BEFORE)
      target = place.with_name(place.name.removeprefix(BEFORE))
      if before and not target.exists():
        os.rename(place, target)
      elif before or place.name.startswith(_prefix()) or time.time() - _changed(place) > DEAD_SECONDS:
        shutil.rmtree(place, ignore_errors=True)
    finally:
      os.close(lock)


def _changed(place: pathlib.Path) -> float:
  """The time of the last change in a folder."""
  return max(path.lstat().st_mtime for path in (place, *place.rglob("*")))


def _exchange(a: pathlib.Path, b: pathlib.Path) -> bool:
  """Exchanges two names atomically; returns False if the system or the file system cannot."""
  library = ctypes.CDLL(None, use_errno=True)
  if hasattr(library, "renameat2"):
    failed = library.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), EXCHANGE)
  elif hasattr(library, "renamex_np"):
    failed = library.renamex_np(os.fsencode(a), os.fsencode(b), SWAP)
  else:
    return False
  number = ctypes.get_errno()
  if failed and number not in (EINVAL, ENOSYS, ENOTSUP):
    raise OSError(number, os.strerror(number))
  return not failed
