"""Worker processes: the same batches as without them, and an end in every case."""

import dataclasses
import itertools
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ivid.data import workers
from ivid.data.pipeline import Split, make_pipeline
from ivid.data.rows import Feed
from ivid.spec.clip import ClipShape
from ivid.spec.run import DataSpec, Draw, TrainSpec
from ivid.spec.stage import LevelSpec, StageSpec, Task, UNetSpec

ROOT = pathlib.Path(__file__).parents[2]
STAGE = StageSpec("base", Task.BASE, ClipShape(4, 12, 20, 0.75), UNetSpec(levels=(LevelSpec(channels=8),)))
TRAIN = TrainSpec(batch_size=4, image_fraction=0.25)


def batches(*, data, stage=STAGE, **options):
  return make_pipeline(data=data, train=TRAIN, stage=stage, **options)


@pytest.fixture
def started(monkeypatch):
  """The processes that are started, in order."""
  found = []

  class Popen(subprocess.Popen):
    def __init__(self, *args, **options):
      super().__init__(*args, **options)
      found.append(self)

  monkeypatch.setattr(workers.subprocess, "Popen", Popen)
  return found


@pytest.mark.parametrize("draw", Draw)
def test_batches_are_those_of_one_process(draw, started):
  """From the middle of a phase on, some of the rows, more batches than workers."""
  data, place = DataSpec(draw=draw), dict(start_step=3, first_index=40, rows=[0, 2, 3])
  alone, shared = batches(data=data, **place), batches(data=dataclasses.replace(data, workers=2), **place)
  for _ in range(5):
    want, have = next(alone), next(shared)
    assert want.keys() == have.keys() and want.pop("captions") == have.pop("captions")
    for name, array in want.items():
      np.testing.assert_array_equal(have[name], array, err_msg=name)
      assert have[name].dtype == array.dtype
  shared.close()
  assert [process.returncode for process in started] == [0, 0]  # waited for: no zombies


def test_signals_are_for_the_training_process_and_a_dead_worker_is_named(started):
  shared = batches(data=DataSpec(workers=1))
  next(shared)
  for number in (signal.SIGTERM, signal.SIGINT):
    started[0].send_signal(number)
  for _ in range(50):  # more than are on their way
    next(shared)
  started[0].kill()
  with pytest.raises(RuntimeError, match="data worker 0 of 1 was killed by SIGKILL: the machine may be out of memory"):
    for _ in range(50):
      next(shared)
  assert started[0].returncode == -signal.SIGKILL


def test_what_an_example_raises_is_raised():
  high = dataclasses.replace(STAGE, output=ClipShape(4, 20, 12, 0.75))
  with pytest.raises(ValueError, match="width/height=0.6"):
    next(batches(data=DataSpec(workers=1), stage=high))
  with pytest.raises(ValueError, match="data.workers=-1: expected 0 or more"):
    DataSpec(workers=-1)


ORPHANED = """
import pickle, sys, time
from ivid.data import workers
shared = workers.from_workers(pickle.load(sys.stdin.buffer), 1)
next(shared)
print(shared.gi_frame.f_locals["workers"][0]._process.pid, flush=True)
time.sleep(600)
"""


def test_workers_end_with_a_training_process_that_was_killed():
  feed = Feed(DataSpec(), TRAIN, STAGE, Split.TRAIN, first_index=0, start=0, rows=(0, 1, 2, 3))
  with subprocess.Popen([sys.executable, "-c", ORPHANED], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
    pickle.dump(feed, parent.stdin)
    parent.stdin.close()
    worker = int(parent.stdout.readline())
    assert _lives(worker)
    parent.kill()
  deadline = time.monotonic() + 20
  while _lives(worker):
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _lives(pid):
  """Whether the process is there, and more than a zombie that nobody in this container waits for."""
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False


def test_workers_import_neither_jax_nor_grain():
  code = "import sys, ivid.data.workers; assert not {'jax', 'grain', 'tensorflow_datasets'} & sys.modules.keys(), sys.modules.keys()"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_validation_and_pictures_start_none(started):
  data = DataSpec(workers=3, draw=Draw.DEVICE).in_process()
  assert next(iter(itertools.islice(batches(data=data), 1)))["video"].dtype == np.uint8 and not started
