#!/usr/bin/env python3
"""Runs several ivid commands on this machine, one after the other. The same command again continues with the first that is not done.

  python launch/queue.py --state=runs/queue.json --cores=0 -- \\
    "train --config=nano:base --workdir=runs/base" "train --config=nano:tsr1 --workdir=runs/tsr1"

--state holds what became of each, rewritten as it changes; --status prints it. SIGTERM and Ctrl-C are passed on to the command that runs:
it saves, and the queue ends. A queue that is killed leaves it running; the next one finds it by a lock that it holds, and waits for it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from local import JOINING, how
from queue_child import POLL_SECONDS, Left, left_running, spawn
from queue_state import Run, Status, lock, now, read_state, table, write_state

MOST_CORES = 1024


class Parser(argparse.ArgumentParser):
  def error(self, message: str) -> None:
    raise ValueError(message)


def main(argv: Sequence[str] | None = None) -> int:
  """Exit status: 0 if every run is done, or stopped and saved; 1 if one failed; 2 for wrong input, in one line."""
  try:
    options, runs = parse(sys.argv[1:] if argv is None else argv)
    if options.status:
      print(table(options.state))
      return 0
    with lock(options.state):
      return Queue(options, runs).work()
  except ValueError as error:
    print(f"launch: error: {error}", file=sys.stderr)
    return 2


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[Run]]:
  """The queue's options, and the runs in --runs_file and after `--`."""
  parser = Parser(description=(__doc__ or "").partition("\n")[0], usage='queue.py [options] -- "train FLAGS" "train FLAGS" ...')
  parser.add_argument("--state", type=pathlib.Path, required=True, help="JSON file that holds what became of each run")
  parser.add_argument("--runs_file", type=pathlib.Path, help="a file with one run per line, run before those after --; # starts a comment")
  parser.add_argument("--cores", type=cores, default=(), help="such as 0,1 or 2-5: one virtual CPU device each; without it what JAX finds")
  parser.add_argument("--nice", type=int, default=0, choices=range(20), metavar="N", help="of the runs: 0 to 19 (0)")
  parser.add_argument("--retries", type=int, default=2, help="how often a run that fails is started again (2)")
  parser.add_argument("--pause", type=float, default=10.0, help="seconds before that (10)")
  parser.add_argument("--stop_on_failure", action="store_true", help="end when a run has failed; otherwise the next one starts")
  parser.add_argument("--write_seconds", type=float, default=10.0, help="--state is rewritten this often (10)")
  parser.add_argument("--say_seconds", type=float, default=60.0, help="a line of progress is printed this often (60)")
  parser.add_argument("--module", default="ivid", help="what `python -m` runs (ivid); another one takes the same flags")
  parser.add_argument("--status", action="store_true", help="print --state as a table, and end")
  split = list(argv).index("--") if "--" in argv else len(argv)
  options, texts = parser.parse_args(argv[:split]), list(argv[split + 1 :])
  if options.status:
    return options, []
  for name in ("retries", "pause", "write_seconds", "say_seconds"):
    if getattr(options, name) < 0:
      raise ValueError(f"--{name}={getattr(options, name)}: expected 0 or more")
  if options.runs_file:
    try:
      lines = [re.split(r"(?:^|\s)#", line)[0].strip() for line in options.runs_file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
      raise ValueError(f"--runs_file={options.runs_file}: {getattr(error, 'strerror', None) or 'is not text'}") from None
    texts = [line for line in lines if line] + texts
  runs = [read_run(text, number, options) for number, text in enumerate(texts, 1)]
  if not runs:
    raise ValueError('no runs: expected some after --, such as "train --config=nano:base --workdir=runs/base", or --runs_file')
  for i, run in enumerate(runs):
    for other in runs[:i]:
      if (run.workdir or run.command) == (other.workdir or other.command):
        raise ValueError(f"{run.command!r} has the same work folder as {other.command!r}: expected one per run")
  return options, runs


def read_run(text: str, number: int, options: argparse.Namespace) -> Run:
  """The run of one command line, the `number`th."""
  try:
    words = shlex.split(text)
  except ValueError as error:
    raise ValueError(f"run {number}, {text!r}: {error}") from None
  words = words[1:] if words[:1] == ["ivid"] else words
  if options.module == "ivid" and (not words or words[0] not in JOINING):
    raise ValueError(f"run {number} is {text!r}: expected one of {', '.join(JOINING)} and its flags, in one pair of quotes")
  flags = Parser(add_help=False, allow_abbrev=False)
  flags.add_argument("--workdir", "-workdir", default="")
  workdir = flags.parse_known_args(words)[0].workdir
  if "://" in workdir:
    raise ValueError(f"run {number}, --workdir={workdir}: expected a folder on this machine")
  log = pathlib.Path(workdir, "log.txt") if workdir else options.state.with_suffix(f".{number}.log")
  return Run(shlex.join(words), os.path.realpath(workdir) if workdir else "", os.path.realpath(log))


def cores(text: str) -> tuple[int, ...]:
  """The cores named by a text such as 0,2-4."""
  if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
    raise argparse.ArgumentTypeError(f"{text!r}: expected numbers, such as 0,1 or 2-5")
  if not hasattr(os, "sched_setaffinity"):
    raise argparse.ArgumentTypeError(f"{text}: this system cannot tie a process to cores; without --cores a run uses all of them")
  pairs = [part.partition("-") for part in text.split(",")]
  wanted = {core for low, _, high in pairs for core in range(int(low), min(int(high or low), MOST_CORES) + 1)}
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, range(MOST_CORES))  # all that this process may use, whatever it uses now
  have = os.sched_getaffinity(0)
  os.sched_setaffinity(0, before)
  if not wanted or wanted - have:
    missing = ", ".join(map(str, sorted(wanted - have))) or "nothing"
    raise argparse.ArgumentTypeError(f"{text} asks for {missing}: expected some of {', '.join(map(str, sorted(have)))}")
  return tuple(sorted(wanted))


class Queue:
  """Runs the commands in their order, one at a time, and keeps a file that says what became of them."""

  def __init__(self, options: argparse.Namespace, runs: Sequence[Run]):
    """Takes over what --state holds about the runs. Raises ValueError if a run that is not among them is still running."""
    self._options, self._runs, self._asked = options, runs, False
    left = left_running(options.state)
    self._left = next((run for run in runs if left and left == Left(left.pid, run.command, run.workdir)), None)
    if left and not self._left:
      raise ValueError(
        f"--state={options.state}: process {left.pid} still runs {left.command!r}: expected it among the runs, or end it first"
      )
    stored = read_state(options.state)["runs"] if options.state.exists() else []
    known = {(run.command, run.workdir): run for run in stored}
    for run in runs:
      before = known.get((run.command, run.workdir), run)
      vars(run).update(vars(before), log=run.log)
      if run is self._left:
        run.pid, run.status = left.pid, Status.RUNNING
        continue
      ending = run.ending() if run.status is Status.RUNNING else run.status  # it may have ended well after its queue was killed
      kept = not run.workdir or os.path.isdir(run.workdir)
      run.pid, run.status = None, Status.DONE if ending is Status.DONE and kept else Status.WAITING
      run.look()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does with SIGHUP
        signal.signal(number, self._ask)

  def work(self) -> int:
    """Runs all commands that are not done; returns 1 if one failed, else 0."""
    waiting = [run for run in self._runs if run.status is Status.WAITING]
    say(f"{len(waiting)} of {len(self._runs)} runs to start; --state={self._options.state} --status shows them")
    for run in [self._left, *waiting] if self._left else waiting:
      if self._asked:
        break
      self._finish(run)
      if run.status is Status.FAILED and self._options.stop_on_failure:
        break
    self._write(ended=True)
    counts = {status: sum(run.status is status for run in self._runs) for status in Status}
    say(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    return int(counts[Status.FAILED] > 0)

  def _finish(self, run: Run) -> None:
    """Starts the run, again if it fails, until it ends in another way or no try is left."""
    tries = 1 + self._options.retries
    for number in range(1, tries + 1):
      self._once(run)
      if run.status is not Status.FAILED or self._asked or number == tries:
        return
      say(f"{run.name}: try {number + 1} of {tries} in {self._options.pause:g} s")
      until = time.monotonic() + self._options.pause
      while time.monotonic() < until and not self._asked:
        time.sleep(POLL_SECONDS)
      if self._asked:
        return

  def _once(self, run: Run) -> None:
    """Starts the run and waits for its end. If a killed queue left the run behind, this only waits for it."""
    if run is self._left:
      self._left = None
      say(f"{run.name}: is already running, as process {run.pid}; waiting for it")
      self._watch(run, lambda: left_running(self._options.state) is not None)
      code = None  # only the parent process learns the code
    else:
      try:
        process = self._start(run)
      except (OSError, subprocess.SubprocessError) as error:
        run.status, run.ended = Status.FAILED, now()
        self._write()
        say(f"{run.name}: cannot start: {error}")
        return
      self._watch(run, lambda: process.poll() is None)
      code = process.returncode
    run.look()
    run.exit_status, run.ended, run.pid, run.status = code, now(), None, self._became(run, code)
    self._write()
    say(f"{run.name}: {run.status}, {'ended' if code is None else how(code)}{run.where() and ' at '}{run.where()}")
    if run.status is Status.FAILED:
      say(f"{run.name}: {run.log} ends with: {run.last_words()}")

  def _became(self, run: Run, code: int | None) -> Status:
    """The status of a run that ended with this code. A command that was asked to stop and has saved also ends with 0."""
    ending = run.ending()
    if ending and not code:
      return ending
    if self._asked and code in (None, 0, -signal.SIGTERM):  # it ended before it could save, or it writes no status.json
      return Status.STOPPED
    return Status.DONE if code == 0 else Status.FAILED

  def _start(self, run: Run) -> subprocess.Popen:
    os.makedirs(os.path.dirname(run.log), exist_ok=True)
    run.restarts += run.started is not None
    run.started, run.ended, run.exit_status, run.status = now(), None, None, Status.RUNNING
    self._write()  # before it runs, so that the time is known even if the queue is killed now
    process = spawn(run, self._options)
    run.pid = process.pid
    self._write()
    say(f"{run.name}: started as process {run.pid}{' once more' if run.restarts else ''}: {run.command}")
    return process

  def _watch(self, run: Run, running: Callable[[], bool]) -> None:
    """Waits until the run has ended; passes a request to stop on once."""
    passed, wrote, said, told = False, time.monotonic(), time.monotonic(), None
    while running():
      if self._asked and not passed:
        passed = True
        with contextlib.suppress(ProcessLookupError):  # it is not our child, and it has just ended
          os.kill(run.pid, signal.SIGTERM)
        say(f"{self._asked}: passed on to {run.name}, process {run.pid}, which saves and ends")
      time.sleep(POLL_SECONDS)
      if time.monotonic() - wrote >= self._options.write_seconds:
        run.look()
        self._write()
        wrote = time.monotonic()
      if time.monotonic() - said >= self._options.say_seconds and run.where() not in ("", told):
        told, said = run.where(), time.monotonic()
        say(f"{run.name}: {told}")

  def _ask(self, number: int, frame: object) -> None:
    del frame
    self._asked = signal.Signals(number).name

  def _write(self, *, ended: bool = False) -> None:
    try:
      write_state(self._options, self._runs, queue=None if ended else os.getpid())
    except OSError as error:  # a full disk must not end the run beside it
      say(f"--state={self._options.state} cannot be written: {error.strerror}")


def say(text: str) -> None:
  """Prints a line; a terminal that is gone does not end the queue."""
  with contextlib.suppress(OSError):
    print(f"launch: {text}", flush=True)


if __name__ == "__main__":
  sys.exit(main())
