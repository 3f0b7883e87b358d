"""The work folder of a run: one trainer at a time, shared by its processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator
from typing import IO


def local_path(workdir: str) -> pathlib.Path:
  """The work folder; ValueError for the address of a bucket, which would become a folder named `gs:`."""
  scheme, found, name = workdir.partition("://")
  if found:
    raise ValueError(f"--workdir={workdir}: expected a path, such as /{scheme}/{name}, where the bucket is mounted (launch/README.md)")
  return pathlib.Path(workdir)


def claim(workdir: pathlib.Path, config_json: str) -> IO:
  """Makes the work folder and records the config and the process id (to pause a background run: kill -STOP).

  Returns:
    An open file whose lock keeps other trainers out of the folder; the system lets go of it however this process ends.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = open(workdir / ".lock", "a", encoding="utf-8")
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.close()
      pid = (workdir / "pid").read_text(encoding="utf-8")
      raise ValueError(f"--workdir={workdir} is in use by process {pid}: expected a folder that no other trainer writes") from None
    for name, text in (("config.json", config_json), ("pid", str(os.getpid()))):
      temporary = workdir / f".{name}.{os.getpid()}"
      temporary.write_text(text, encoding="utf-8")
      os.replace(temporary, workdir / name)
  except OSError as error:
    raise ValueError(f"--workdir={workdir} is not writable: {error.strerror}") from None
  return lock


@contextlib.contextmanager
def shared_folder(workdir: pathlib.Path, config_json: str) -> Iterator[None]:
  """Process 0 claims the work folder; the others go on when it has."""
  from ivid.parallel.distributed import is_first, wait_for_all

  with claim(workdir, config_json) if is_first() else contextlib.nullcontext():
    wait_for_all("work folder")
    yield
