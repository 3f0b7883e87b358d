"""What launch/queue.py knows about its runs: the state file, its lock, and what a run writes into its work folder and its log."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import enum
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

FORMAT = 1
TAIL_BYTES = 65536  # at the end of metrics.jsonl or a log; the newest line lies within them
LATE = 3  # a state older than so many times its write_seconds belongs to a queue that was killed


class Status(enum.StrEnum):
  WAITING = "waiting"
  RUNNING = "running"
  DONE = "done"
  FAILED = "failed"
  STOPPED = "stopped"  # it was asked to stop, and saved before its end


@dataclasses.dataclass
class Run:
  """One command, as --state holds it.

  Attributes:
    workdir: absolute; empty if the command has none.
    exit_status: minus the signal's number if one ended it; None while it runs, and where a queue that was killed had started it.
    restarts: how often it was started after the first time.
    progress: `steps` in all, if known, and the newest line of metrics.jsonl.
  """

  command: str
  workdir: str
  log: str
  status: Status = Status.WAITING
  pid: int | None = None
  started: str | None = None
  ended: str | None = None
  exit_status: int | None = None
  restarts: int = 0
  progress: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    return os.path.basename(self.workdir) or self.command

  def look(self) -> None:
    """Reads the progress of the run. The newest line of a distillation is in the folder of one of its students."""
    if not self.workdir:
      return
    folder = pathlib.Path(self.workdir)
    with contextlib.suppress(OSError, ValueError):  # nothing there yet, or half written: it is found the next time
      path = max([*folder.glob("metrics.jsonl"), *folder.glob("*/metrics.jsonl")], key=os.path.getmtime)
      with path.open("rb") as file:
        file.seek(max(os.path.getsize(path) - TAIL_BYTES, 0))
        newest = json.loads(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2])
      if path.parent == folder:
        self.progress = {"steps": _steps(folder), **newest}
      else:
        self.progress = {"student": path.parent.name, **newest}

  def ending(self) -> Status | None:
    """DONE or STOPPED, as ivid wrote it since the command was started; None if it wrote nothing."""
    path = pathlib.Path(self.workdir, "status.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      if self.workdir and self.started and path.stat().st_mtime >= datetime.datetime.fromisoformat(self.started).timestamp():
        return Status(json.loads(path.read_text(encoding="utf-8"))["state"])
    return None

  def last_words(self) -> str:
    """The last line of the log, which says why the run failed."""
    with contextlib.suppress(OSError), open(self.log, "rb") as file:
      file.seek(max(os.path.getsize(self.log) - TAIL_BYTES, 0))
      return file.read().decode(errors="replace").rstrip().rpartition("\n")[2].rpartition("\r")[2]
    return ""

  def where(self) -> str:
    """The progress of the run in words."""
    if "step" not in self.progress:
      return ""
    steps, student = self.progress.get("steps"), self.progress.get("student")
    words = [f"{student}:" if student else "", f"step {self.progress['step']}", f"of {steps}" if steps else ""]
    loss = next((f", {name} {value:.4g}" for name, value in self.progress.items() if name.endswith("loss")), "")
    return " ".join(filter(None, words)) + loss


def _steps(folder: pathlib.Path) -> int | None:
  """How many steps the run in this work folder has, if its config says so."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["train"]["steps"])
  return None


@contextlib.contextmanager
def lock(state: pathlib.Path) -> Iterator[None]:
  """Locks the state against other queues. The system releases the lock however this process ends."""
  try:
    state.parent.mkdir(parents=True, exist_ok=True)
    file = open(f"{state}.lock", "a+", encoding="utf-8")
  except OSError as error:
    raise ValueError(f"--state={state} is not writable: {error.strerror}") from None
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise ValueError(f"--state={state} is in use by the queue of process {file.read().strip()}") from None
    file.truncate(0)
    print(os.getpid(), file=file, flush=True)
    yield


def read_state(state: pathlib.Path) -> dict[str, Any]:
  """What --state holds, with Run objects as `runs`; ValueError if it is no queue's."""
  try:
    stored = json.loads(state.read_text(encoding="utf-8"))
    runs = [Run(**{**run, "status": Status(run["status"])}) for run in stored["runs"] if stored["format"] == FORMAT]
  except OSError as error:
    raise ValueError(f"--state={state}: {error.strerror}") from None
  except (ValueError, KeyError, TypeError):
    raise ValueError(f"--state={state} was not written by a queue: expected another name") from None
  if stored["format"] != FORMAT:
    raise ValueError(f"--state={state} has format {stored['format']}: expected {FORMAT}")
  return {**stored, "runs": runs}


def write_state(options: argparse.Namespace, runs: Sequence[Run], *, queue: int | None) -> None:
  """Writes --state. queue: its process number; None when it has ended."""
  stored = dict(format=FORMAT, updated=now(), pid=queue, cores=list(options.cores), write_seconds=options.write_seconds)
  temporary = pathlib.Path(f"{options.state}.{os.getpid()}")
  temporary.write_text(json.dumps({**stored, "runs": [dataclasses.asdict(run) for run in runs]}, indent=1) + "\n", encoding="utf-8")
  os.replace(temporary, options.state)


def now() -> str:
  """ISO 8601 with the time zone, whole seconds."""
  return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def alive(pid: int) -> bool:
  """Whether there is a process of this number."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:  # another user's
    pass
  return True


def table(state: pathlib.Path) -> str:
  """The state for people."""
  stored = read_state(state)
  rows = [("run", "status", "pid", "started", "ended", "exit", "restarts", "progress")]
  for run in stored["runs"]:
    times = [text and text[:16].replace("T", " ") for text in (run.started, run.ended)]
    cells = (run.pid, *times, run.exit_status, run.restarts)
    rows.append((run.name, run.status, *("-" if cell is None else str(cell) for cell in cells), run.where()))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
  age = (datetime.datetime.now().astimezone() - datetime.datetime.fromisoformat(stored["updated"])).total_seconds()
  runs = stored["pid"] and alive(stored["pid"]) and age < LATE * stored["write_seconds"] + 1
  return "\n".join([*lines, f"written {age:.0f} s ago; " + (f"the queue is process {stored['pid']}" if runs else "no queue runs")])
