"""`ivid train` killed with SIGKILL and started again ends bit for bit like a run that was not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorstore  # noqa: F401  Orbax's array reader, named here because a missing one shows as a hang

from ivid.config import load_run
from ivid.data.pipeline import make_pipeline
from ivid.weights.ema import snapshot_steps
from tests.compiling import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
STEPS, HALF = 20, 10


def command(workdir):
  options = [
    f"train.steps={STEPS}",
    f"train.checkpoint.every={HALF}",
    "train.phases=()",
    "train.image_fraction=0.25",
    "train.ema_widths=(0.05,0.1)",
    "train.ema_snapshot_every=5",
    "train.optimizer.kind=muon",
    "cascade.text.max_tokens=32",
  ]
  config = pathlib.Path(__file__).with_name("phased.py")
  return [sys.executable, "-m", "ivid", "train", f"--config={config}:base", f"--workdir={workdir}", *(f"--config.{o}" for o in options)]


def environment():
  return dict(os.environ, XLA_FLAGS=xla_flags(2), PYTHONWARNINGS="ignore")


def run(workdir):
  subprocess.run(command(workdir), cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=900)


def arrays(workdir):
  """Every array of the last checkpoint, params, EMA and optimizer alike."""
  import jax
  import orbax.checkpoint as ocp

  folder = workdir / "checkpoints" / str(STEPS)
  found = {}
  for item in ("params", "ema", "optimizer", "averages"):
    with ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.restore(folder / item)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
  seen = json.loads((folder / "data" / "metadata").read_text())
  assert seen["flops"] > 0
  found |= {name: np.asarray(value) for name, value in seen.items()}
  return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  run(workdir)
  return workdir


def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path):
  process = subprocess.Popen(command(tmp_path), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 900
  while not (tmp_path / "checkpoints" / str(HALF)).is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (tmp_path / "checkpoints" / str(STEPS)).exists(), "the run ended before it could be killed"
  run(tmp_path)
  want, have = arrays(whole), arrays(tmp_path)
  assert want.keys() == have.keys() and len(want) > 100
  for name, value in want.items():
    np.testing.assert_array_equal(have[name], value, err_msg=name)
  assert snapshot_steps(tmp_path) == snapshot_steps(whole) == [5, 10, 15, 20]
  steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert steps == sorted(steps) and len(steps) == len(set(steps))


def test_next_batch_is_the_uninterrupted_ones():
  spec = load_run("tiny:base")
  stage = spec.cascade.stage("base")
  whole = make_pipeline(data=spec.data, train=spec.train, stage=stage)
  for _ in range(3):
    next(whole)
  resumed = make_pipeline(data=spec.data, train=spec.train, stage=stage, start_step=3)
  one, other = next(whole), next(resumed)
  assert one["captions"] == other["captions"]
  for name in ("video", "index", "fps", "is_video"):
    np.testing.assert_array_equal(one[name], other[name])
