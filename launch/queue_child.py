"""The process of one run of launch/queue.py: its cores, its environment, and the lock by which a later queue finds it."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, NamedTuple

from local import IN_ENVIRONMENT, ROOT
from queue_state import FORMAT, Run, alive

POLL_SECONDS = 0.1


class Left(NamedTuple):
  """A run that is still running although its queue was killed."""

  pid: int
  command: str
  workdir: str


def _new_lock(state: pathlib.Path) -> IO:
  """An open file for a run to inherit and to write a Left into: locked until the last process that has it open has ended."""
  temporary = f"{state}.run.new"
  file = open(temporary, "w", encoding="utf-8")
  fcntl.flock(file, fcntl.LOCK_EX)
  os.replace(temporary, f"{state}.run")  # a new file each time, because a helper left behind by an earlier run may hold the old one
  return file


def left_running(state: pathlib.Path) -> Left | None:
  """The run that holds the lock; None if it has ended. A process number alone may by now belong to another process.

  The lock alone may be held by a helper that outlived the run, so both count.
  """
  while True:
    try:
      with open(f"{state}.run", "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
      return None
    except BlockingIOError:
      text = pathlib.Path(f"{state}.run").read_text(encoding="utf-8")
    if text:
      left = _read_left(text, state)
      return left if alive(left.pid) else None
    time.sleep(POLL_SECONDS)  # it has only just started and has not written yet


def _read_left(text: str, state: pathlib.Path) -> Left:
  found = json.loads(text)
  if isinstance(found, list):  # as queues wrote it before files carried a format
    return Left(*found)
  if (written := found.pop("format")) != FORMAT:
    raise ValueError(f"{state}.run was written by another queue: format {written}, expected {FORMAT}")
  return Left(**found)


def spawn(run: Run, options: argparse.Namespace) -> subprocess.Popen:
  """Starts the command in a session of its own, so that Ctrl-C reaches it through the queue alone.

  It holds its lock and its log itself, and goes on if the queue is killed.

  Raises:
    OSError, subprocess.SubprocessError: no log, no process, no such cores any more.
  """
  line = [sys.executable, "-m", options.module, *shlex.split(run.command)]
  line = [*IN_ENVIRONMENT, "cpu", *line] if options.cores else line
  with open(run.log, "ab") as log, _new_lock(options.state) as held:
    log.write(f"launch: {run.started}: {run.command}\n".encode())
    log.flush()

    def prepare() -> None:
      left = Left(os.getpid(), run.command, run.workdir)
      os.write(held.fileno(), json.dumps({"format": FORMAT, **left._asdict()}).encode())
      if options.cores:
        os.sched_setaffinity(0, options.cores)
      os.nice(options.nice)

    return subprocess.Popen(
      line,
      env=environment(options.cores),
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      start_new_session=True,
      pass_fds=[held.fileno()],
      preexec_fn=prepare,
    )


def environment(cores: Sequence[int]) -> dict[str, str]:
  """The environment of a run; with cores, it has as many virtual devices of one thread each.

  XLA on the CPU (jax 0.10) computes for all devices in one pool of max(NPROC, devices) threads, NPROC being the number of cores where it
  is not set. --xla_cpu_multi_thread_eigen=false does not change that, and intra_op_parallelism_threads is no flag of XLA's.
  """
  path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
  # Safe path: started in this folder, `python -m` would take queue.py for the standard library's.
  variables = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
  if cores:
    kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
    variables["XLA_FLAGS"] = " ".join([*kept, f"--xla_force_host_platform_device_count={len(cores)}"])
    variables |= {"JAX_PLATFORMS": "cpu", "NPROC": "1", "OMP_NUM_THREADS": "1"}
  return variables
