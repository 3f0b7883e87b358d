"""`ivid train` of tiny:base in two processes: killed, started again, stopped by SIGTERM, and taken over by one device."""

import json
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from ivid.spec.formats import FORMAT
from ivid.weights.ema import load_snapshot, snapshot_steps
from tests.compiling import QUICK
from tests.launch.runs import ROOT, Launch, arrays, environment, metrics

pytestmark = pytest.mark.slow  # minutes of two cores; test_local.py has the same with an update that compiles at once

STEPS, EVERY = 12, 3
XLA_FLAGS = " ".join(QUICK)
TRAIN = [f"steps={STEPS}", f"checkpoint.every={EVERY}", "log_every=1", "eval_every=6", "sample_every=6", "num_samples=1"]
TRAIN += ["ema_widths=(0.1,)", "ema_snapshot_every=6"]
OPTIONS = ["--config=tiny:base", "--config.cascade.text.max_tokens=32", *(f"--config.train.{option}" for option in TRAIN)]


def start(workdir, *more):
  return Launch(workdir, "train", *OPTIONS, f"--workdir={workdir}", *more, XLA_FLAGS=XLA_FLAGS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole") / "run"
  launch = start(workdir)
  assert launch.process.wait(timeout=600) == 0, launch.printed
  return workdir


def assert_equal(want, have):
  assert want.keys() == have.keys() and len(want) > 100
  for name, value in want.items():
    np.testing.assert_array_equal(have[name], value, err_msg=name)


def snapshot(workdir, step):
  (average,) = load_snapshot(workdir, step)
  return {jax.tree_util.keystr(name): leaf for name, leaf in jax.tree_util.tree_leaves_with_path(average)}


def test_a_run_of_two_processes(whole, tmp_path):
  workdir = tmp_path / "run"
  launch = start(workdir)
  launch.until((workdir / "checkpoints" / str(EVERY)).is_dir)
  assert launch.killed(1) < 60

  launch = start(workdir)
  launch.until(lambda: max(metrics(workdir, "train/loss"), default=0) > 2 * EVERY)
  launch.process.send_signal(signal.SIGTERM)
  assert launch.process.wait(timeout=120) == 0, launch.printed
  assert "SIGTERM: passed on" in launch.printed and "and saved; the same command resumes" in launch.printed
  assert json.loads((workdir / "status.json").read_text())["state"] == "stopped"
  one = tmp_path / "one"
  shutil.copytree(workdir, one)

  launch = start(workdir)
  assert launch.process.wait(timeout=600) == 0, launch.printed
  assert json.loads((workdir / "status.json").read_text()) == {"format": FORMAT, "state": "done", "step": STEPS}
  assert_equal(arrays(whole, STEPS), arrays(workdir, STEPS))
  for name in ("train/loss", "eval/loss"):
    assert metrics(workdir, name) == metrics(whole, name)
  assert (workdir / "samples" / "00000012.png").read_bytes() == (whole / "samples" / "00000012.png").read_bytes()
  assert json.loads((workdir / "config.json").read_text())["stage"] == "base"
  assert snapshot_steps(workdir) == snapshot_steps(whole) == [6, STEPS]
  for step in (6, STEPS):
    assert_equal(snapshot(whole, step), snapshot(workdir, step))

  line = [sys.executable, "-m", "ivid", "train", *OPTIONS, f"--workdir={one}", "--multihost=off", "--expected_devices=1"]
  done = subprocess.run(line, cwd=ROOT, env=environment(XLA_FLAGS=XLA_FLAGS), capture_output=True, text=True, timeout=600)
  assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
  losses = metrics(whole, "eval/loss")
  np.testing.assert_allclose(metrics(one, "eval/loss")[STEPS], losses[STEPS], rtol=1e-3)
