"""Runs `ivid` many times, each time in a process of its own that begins with what the commands import: starting takes seconds without it.

`python -m tests.faults.forked` reads lines of JSON, {"args": [...], "stderr": file, "seconds": limit}, and answers each with a line:
{"status": exit status, below 0 the signal that ended it; "memory": the most bytes that it had}.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import signal
import sys
import time

# And not PyArrow, which starts a thread.
IMPORTED = """jax optax orbax.checkpoint tensorflow_datasets tensorstore av ivid.bin.sample ivid.bin.data ivid.bin.bundle ivid.pipeline
ivid.sample.outputs ivid.sample.requests ivid.sample.saving ivid.runs.cache ivid.runs.bundling ivid.runs.text ivid.weights.ema"""
POLL = 0.01  # seconds


def main() -> int:
  """Serves until there are no more lines; of a child, the exit status of its command."""
  from ivid import __main__ as command_line

  for name in IMPORTED.split():
    importlib.import_module(name)
  threads = pathlib.Path("/proc/self/task")
  assert not threads.exists() or len(list(threads.iterdir())) == 1, "a process with threads cannot be forked"
  for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
      said = os.open(asked["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
      for place, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(os.devnull, os.O_WRONLY)), (2, said)):
        os.dup2(file, place)
      return command_line.main(asked["args"])
    status, memory = _waited(child, asked["seconds"])
    print(json.dumps({"status": status, "memory": memory}), flush=True)
  return 0


def _waited(child: int, seconds: float) -> tuple[int, int]:
  end = time.monotonic() + seconds
  while not (ended := os.wait4(child, os.WNOHANG))[0]:
    if time.monotonic() > end:
      os.kill(child, signal.SIGKILL)
      ended = os.wait4(child, 0)
      break
    time.sleep(POLL)
  return os.waitstatus_to_exitcode(ended[1]), ended[2].ru_maxrss << 10


if __name__ == "__main__":
  sys.exit(main())
