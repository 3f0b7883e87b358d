"""The work folder of a run: one trainer at a time, shared by its processes; and how the last one ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import IO

from ivid.media.files import write_whole
from ivid.media.places import is_remote
from ivid.parallel.distributed import is_first, wait_for_all
from ivid.spec import convert, formats
from ivid.spec.compare import changes
from ivid.spec.errors import UserError
from ivid.spec.files import as_spec, parse_json, read_json
from ivid.spec.run import RunSpec

MOST_CHANGES = 8  # number of config changes shown in one line
CONFIG, STATUS = "config.json", "status.json"


def run_json(run: RunSpec) -> str:
  """The run as JSON for the work folder, for people to read."""
  return json.dumps(formats.stamped(convert.to_dict(run)), indent=1) + "\n"


def claim(workdir: pathlib.Path) -> IO | contextlib.AbstractContextManager[None]:
  """Makes the work folder and records the process id (to pause a background run: kill -STOP). What is already there is not changed.

  Returns:
    An open file whose lock keeps other trainers out of the folder; the system releases it however this process ends. A bucket has no
    locks and needs no folder, which the printed line says.
  """
  if is_remote(workdir):
    print(f"{workdir}: a bucket has no locks: see to it that no other trainer writes there", file=sys.stderr, flush=True)
    return contextlib.nullcontext()
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = open(workdir / ".lock", "a", encoding="utf-8")
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.close()
      pid = (workdir / "pid").read_text(encoding="utf-8")
      raise UserError(f"--workdir={workdir} is in use by process {pid}: expected a folder that no other trainer writes") from None
    write_whole(workdir / "pid", str(os.getpid()))
  except OSError as error:
    raise UserError(f"--workdir={workdir} is not writable: {error.strerror}") from None
  return lock


def begin(workdir: pathlib.Path, config_json: str) -> None:
  """Records the config of a run that has passed all checks, prints what has changed in it, and removes status.json.

  Both files belonged to the previous command.
  """
  _say_changes(workdir / CONFIG, config_json)
  (workdir / STATUS).unlink(missing_ok=True)
  write_whole(workdir / CONFIG, config_json)


def _say_changes(path: pathlib.Path, config_json: str) -> None:
  if not path.is_file():
    return
  try:
    found = (read_json(path), parse_json(config_json, source="the config"))
    before, now = (as_spec(RunSpec, formats.migrate(one, formats.Kind.RUN, source=path), source=path) for one in found)
  except UserError:  # written by an older ivid, or edited; only this line depends on it
    return
  if changed := changes(before, now):
    more = f" and {len(changed) - MOST_CHANGES} more" if len(changed) > MOST_CHANGES else ""
    print(f"changed since the last command here: {', '.join(changed[:MOST_CHANGES])}{more}", file=sys.stderr, flush=True)


def write_status(workdir: pathlib.Path, *, done: bool, step: int) -> None:
  """Writes status.json, which says how the command in the folder ended. Without this file, it is running, was killed, or failed.

  Exit status 0 does not tell this, because a run that was asked to stop and has saved also ends with 0.

  Args:
    done: whether the run is finished; otherwise it stopped early, and the same command resumes.
    step: of its last checkpoint.
  """
  write_whole(workdir / STATUS, json.dumps(formats.stamped({"state": "done" if done else "stopped", "step": step})) + "\n")


@contextlib.contextmanager
def shared_folder(workdir: pathlib.Path, config_json: str) -> Iterator[Callable[[], None]]:
  """Process 0 claims the work folder, and the others wait for this. Yields `begin`, to be called before anything is written there."""
  with claim(workdir) if is_first() else contextlib.nullcontext():
    wait_for_all("work folder")
    yield (lambda: begin(workdir, config_json)) if is_first() else lambda: None
