"""launch/local.py: two processes of two devices that are killed, stopped and started again end like a run that was left alone."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.launch.runs import ROOT, Launch, arrays, environment, metrics

WORKER = "tests.launch.worker"
STEPS, EVERY = 20, 5


def start(workdir, seconds):
  return Launch(workdir, f"--workdir={workdir}", f"--steps={STEPS}", f"--seconds={seconds}", module=WORKER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole") / "run"
  launch = start(workdir, seconds=0.0)
  assert launch.process.wait(timeout=300) == 0, launch.printed
  assert "process 0 read rows [0, 1, 2, 3];" in launch.printed and "process 1 read rows [4, 5, 6, 7];" in launch.printed
  return workdir


@pytest.mark.slow
def test_killed_stopped_and_started_again(whole, tmp_path):
  """One work folder through it all, as each start is seconds of imports."""
  workdir = tmp_path / "run"
  checkpoint = lambda step: (workdir / "checkpoints" / str(step)).is_dir  # noqa: E731

  for victim, step in ((1, EVERY), (0, 2 * EVERY)):
    launch = start(workdir, seconds=0.2)
    launch.until(checkpoint(step))
    assert launch.killed(victim) < 60
    assert not checkpoint(STEPS)(), "the run ended before it could be killed"
    assert step == EVERY or f"resuming at step {step - EVERY}" in launch.printed

  # Its own metrics: the run before may have written as many, which the new one takes out when it starts.
  launched, log = time.time(), workdir / "metrics.jsonl"
  launch = start(workdir, seconds=0.2)
  launch.until(lambda: log.stat().st_mtime > launched and max(metrics(workdir, "eval/norm"), default=0) > 2 * EVERY)
  os.kill(launch.pid(1), signal.SIGTERM)  # to one of them: all agree
  assert launch.process.wait(timeout=60) == 0, launch.printed
  stopped = int(re.search(r"step (\d+), stopped: True", launch.printed)[1])
  assert 2 * EVERY < stopped < STEPS and checkpoint(stopped)()
  assert launch.printed.count(f"step {stopped}, stopped: True") == 2

  one = tmp_path / "one"
  shutil.copytree(workdir, one)
  launch = start(workdir, seconds=0.0)
  assert launch.process.wait(timeout=300) == 0, launch.printed
  assert f"resuming at step {stopped}" in launch.printed
  want, have = arrays(whole, STEPS), arrays(workdir, STEPS)
  assert want.keys() == have.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(have[name], value, err_msg=name)
  assert metrics(workdir, "eval/norm") == metrics(whole, "eval/norm")  # each step once, by process 0 alone

  line = [sys.executable, "-m", WORKER, f"--workdir={one}", f"--steps={STEPS}", "--multihost=off", "--expected_devices=1"]
  alone = subprocess.run(line, cwd=ROOT, env=environment(XLA_FLAGS=""), capture_output=True, text=True, timeout=300)
  assert alone.returncode == 0 and f"resuming at step {stopped}" in alone.stdout, alone.stderr
  assert "process 0 read rows [0, 1, 2, 3, 4, 5, 6, 7];" in alone.stdout
  for name, value in arrays(one, STEPS).items():
    np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_an_error_of_the_run_itself_is_left_to_its_own_words(tmp_path):
  """Found by each process before it looks for the others."""
  log = tmp_path / "run"
  launch = Launch(log, "train", "--config=tiny:base", f"--workdir={log}", "--config.train.batchsize=3")
  assert launch.process.wait(timeout=60) == 1
  assert re.search(r"\[[01]\] ivid train: error: unknown key 'config.train.batchsize': did you mean 'batch_size'\?", launch.printed)
  assert re.search(r"launch: process ([01]) ended with status 1 (.|\n)*launch: lines marked \[\1\] say why", launch.printed)
  assert "start the same command again" not in launch.printed and not log.exists()
