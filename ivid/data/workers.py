"""Batches made by other processes of this machine. Worker k of n makes batches k, k + n, k + 2 n, ... whole, so that their order and
contents do not depend on how many there are.

A worker is an interpreter of its own that is given its feed by its standard input and writes batches to a pipe, which lets it be about one
ahead. It knows nothing of the devices, holds none of the training process's locks, hears no signals (the training process decides what
a signal means), and ends when the pipe does, however the training process ended. Grain's own workers deal out examples, so that batches
depend on their number, and stay when the training process is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Generator
from typing import IO, Any, cast

from ivid.data.rows import Feed
from ivid.parallel.signals import held_back

# No signals from the very first, then what takes time to import.
CODE = "from signal import *; signal(SIGTERM, SIG_IGN), signal(SIGINT, SIG_IGN); from ivid.data.workers import serve; serve()"
END_SECONDS = 5  # a worker that is told to end may be in the middle of a batch
PROTOCOL = 5


def from_workers(feed: Feed, count: int) -> Generator[dict[str, Any]]:
  """The feed's batches in order, from `count` processes that begin with the first one asked for and end with the generator.

  Raises:
    UserError: what an example raises, in its turn.
    RuntimeError: a worker has ended.
  """
  with contextlib.ExitStack() as stack:
    workers = [_Worker(feed, number, count) for number in range(count)]
    for worker in workers:
      stack.callback(worker.wait)  # called last, when all of them have been told
    for worker in workers:
      stack.callback(worker.tell)
    for worker in itertools.cycle(workers):
      yield worker.next()


class _Worker:
  """Worker `number` of `count`."""

  def __init__(self, feed: Feed, number: int, count: int):
    self._name = f"data worker {number} of {count}"
    # Where ivid is found is where this process found it; none of the user's own script is run again.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    with held_back():
      self._process = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which `next` finds
      pickle.dump((feed, number, count), cast("IO[bytes]", self._process.stdin), PROTOCOL)
      self._process.stdin.close()

  def next(self) -> dict[str, Any]:
    """Its next batch."""
    try:
      found = pickle.load(cast("IO[bytes]", self._process.stdout))
    except (EOFError, pickle.UnpicklingError):
      status = self._process.wait()
      how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
      raise RuntimeError(f"{self._name} {how}: the machine may be out of memory; the same command resumes") from None
    if isinstance(found, Exception):
      raise found
    return found

  def tell(self) -> None:
    """Ends the pipe, and with it the worker, when it next writes."""
    self._process.stdout.close()

  def wait(self) -> None:
    """Returns when it has ended."""
    try:
      self._process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def serve() -> None:
  """What a worker does."""
  feed, first, stride = pickle.load(sys.stdin.buffer)
  out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get between the batches

  def send(found: Any) -> None:
    try:
      pickle.dump(found, out, PROTOCOL)
      out.flush()
    except BrokenPipeError:
      os._exit(0)  # nobody reads any more, and there is nothing to clean up

  try:
    rows = feed.open()
    for number in itertools.count(first, stride):
      send(rows.batch(number))
  except Exception as error:  # whatever it is, the training process raises it
    send(error)
