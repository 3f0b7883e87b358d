"""launch/local.py: two processes of two devices that are killed, stopped and started again end like a run that was left alone."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tensorstore  # noqa: F401  Orbax's array reader, named here because a missing one shows as a hang

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = [sys.executable, str(ROOT / "launch" / "local.py")]
WORKER = "tests.launch.worker"
STEPS, EVERY = 20, 5


def environment(**more):
  return dict(os.environ, PYTHONWARNINGS="ignore", PYTHONPATH=str(ROOT), **more)


class Launch:
  """The launcher with two workers in a work folder, and what it printed."""

  def __init__(self, workdir, seconds):
    self._log = workdir.with_suffix(f".{time.monotonic_ns()}.log")
    options = ["--processes=2", "--devices=2", "--heartbeat_seconds=3", "--grace=15", f"--module={WORKER}", "--"]
    line = [*LAUNCHER, *options, f"--workdir={workdir}", f"--steps={STEPS}", f"--seconds={seconds}"]
    with self._log.open("w") as log:
      self.process = subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=log, stderr=log)

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


def arrays(workdir, step=STEPS):
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


def metrics(workdir):
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return {row["step"]: row["eval/norm"] for row in rows if "eval/norm" in row}, rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole") / "run"
  launch = Launch(workdir, seconds=0.0)
  assert launch.process.wait(timeout=120) == 0, launch.printed
  assert "process 0 read rows [0, 1, 2, 3];" in launch.printed and "process 1 read rows [4, 5, 6, 7];" in launch.printed
  return workdir


def test_killed_stopped_and_started_again(whole, tmp_path):
  """One work folder through it all, as each start is seconds of imports."""
  workdir = tmp_path / "run"
  checkpoint = lambda step: (workdir / "checkpoints" / str(step)).is_dir  # noqa: E731

  for victim, step in ((1, EVERY), (0, 2 * EVERY)):
    launch = Launch(workdir, seconds=0.2)
    launch.until(checkpoint(step))
    assert launch.killed(victim) < 60
    assert not checkpoint(STEPS)(), "the run ended before it could be killed"
    assert step == EVERY or f"resuming at step {step - EVERY}" in launch.printed

  launch = Launch(workdir, seconds=0.2)
  launch.until(lambda: max(metrics(workdir)[0], default=0) > 2 * EVERY)
  os.kill(launch.pid(1), signal.SIGTERM)  # to one of them: all agree
  assert launch.process.wait(timeout=60) == 0, launch.printed
  stopped = int(re.search(r"step (\d+), stopped: True", launch.printed)[1])
  assert 2 * EVERY < stopped < STEPS and checkpoint(stopped)()
  assert launch.printed.count(f"step {stopped}, stopped: True") == 2

  one = tmp_path / "one"
  shutil.copytree(workdir, one)
  launch = Launch(workdir, seconds=0.0)
  assert launch.process.wait(timeout=120) == 0, launch.printed
  assert f"resuming at step {stopped}" in launch.printed
  want, have = arrays(whole), arrays(workdir)
  assert want.keys() == have.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(have[name], value, err_msg=name)
  assert metrics(workdir)[0] == metrics(whole)[0]  # each step once, by process 0 alone

  line = [sys.executable, "-m", WORKER, f"--workdir={one}", f"--steps={STEPS}", "--multihost=off", "--expected_devices=1"]
  alone = subprocess.run(line, cwd=ROOT, env=environment(XLA_FLAGS=""), capture_output=True, text=True, timeout=120)
  assert alone.returncode == 0 and f"resuming at step {stopped}" in alone.stdout, alone.stderr
  assert "process 0 read rows [0, 1, 2, 3, 4, 5, 6, 7];" in alone.stdout
  for name, value in arrays(one).items():
    np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-6, err_msg=name)
