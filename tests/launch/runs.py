"""Runs of launch/local.py in tests, and what they leave behind."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import tensorstore  # noqa: F401  Orbax's array reader, named here because a missing one shows as a hang

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = [sys.executable, str(ROOT / "launch" / "local.py")]


def environment(**more):
  return dict(os.environ, PYTHONWARNINGS="ignore", PYTHONPATH=str(ROOT), **more)


class Launch:
  """The launcher with two processes, and what it printed."""

  def __init__(self, log, *command, devices=2, module="ivid", **more):
    self._log = log.with_suffix(f".{time.monotonic_ns()}.log")
    options = ["--processes=2", f"--devices={devices}", "--heartbeat_seconds=3", "--grace=15", f"--module={module}", "--"]
    with self._log.open("w") as out:
      self.process = subprocess.Popen([*LAUNCHER, *options, *command], cwd=ROOT, env=environment(**more), stdout=out, stderr=out)

  @property
  def printed(self):
    return self._log.read_text()

  def pid(self, index):
    return int(re.search(rf"\b{index} is pid (\d+)", self.printed)[1])

  def until(self, found):
    deadline = time.monotonic() + 120
    while not found():
      assert self.process.poll() is None and time.monotonic() < deadline, self.printed
      time.sleep(0.02)

  def killed(self, index):
    """Kills one worker with SIGKILL; seconds until the launcher has ended."""
    started = time.monotonic()
    os.kill(self.pid(index), signal.SIGKILL)
    assert self.process.wait(timeout=60) == 1
    assert f"launch: process {index} was killed by SIGKILL (kill -9, or out of memory" in self.printed
    assert "start the same command again: it goes on from the last checkpoint" in self.printed
    return time.monotonic() - started


def arrays(workdir, step):
  """Every array of a checkpoint, whole, without asking for the devices that wrote it."""
  import orbax.checkpoint as ocp

  found = {}
  for item in ("params", "ema", "optimizer"):
    reader, path = ocp.PyTreeCheckpointer(), workdir / "checkpoints" / str(step) / item
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(path).item_metadata.tree)
    for name, leaf in jax.tree_util.tree_leaves_with_path(reader.restore(path, restore_args=as_numpy)):
      found[item + jax.tree_util.keystr(name)] = leaf
  found["next_index"] = np.asarray(json.loads((workdir / "checkpoints" / str(step) / "data" / "metadata").read_text())["next_index"])
  return found


def metrics(workdir, name):
  """The values of one metric by step; a step that was written twice is an error."""
  path = workdir / "metrics.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
  found = [(row["step"], row[name]) for row in rows if name in row]
  assert len(found) == len(dict(found)), f"steps of {name} were written twice"
  return dict(found)
