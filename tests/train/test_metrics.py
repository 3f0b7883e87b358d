"""Metrics in a bucket: objects that are written once, and what a run that goes on from a checkpoint keeps of them."""

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from ivid.train import metrics, tensorboard
from ivid.train.metrics import OBJECTS, MetricWriter, metrics_file, read_rows
from ivid.train.tensorboard import BOARD


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  """A folder that is taken for one in a bucket."""
  for module in (metrics, tensorboard):
    monkeypatch.setattr(module, "is_remote", lambda path: True)
  return tmp_path


def names(workdir):
  return sorted(path.name for path in (workdir / OBJECTS).iterdir())


def test_an_object_for_each_flush(workdir):
  with MetricWriter(workdir) as writer:
    writer.write_scalars(2, {"train/loss": 1.0})
    writer.write_scalars(4, {"train/loss": 0.5})
    assert not list(read_rows(workdir))
    writer.flush()
    writer.flush()  # nothing new: no object
    writer.write_scalars(4, {"eval/loss": 0.75})
    writer.write_image(4, "samples", np.zeros((8, 8, 3), np.uint8))
  assert names(workdir) == ["000000002-000000004-000000.jsonl", "000000004-000000004-000001.jsonl"]
  want = [{"step": 2, "train/loss": 1.0}, {"step": 4, "train/loss": 0.5}, {"step": 4, "eval/loss": 0.75}]
  assert list(read_rows(workdir)) == want
  with metrics_file(workdir) as path:
    assert len(path.read_text().splitlines()) == 3
  assert events(workdir) == [(2, "train/loss"), (4, "train/loss"), (4, "eval/loss"), (4, "samples")]
  assert len(list((workdir / BOARD).iterdir())) == 2


def test_a_resumed_run_keeps_what_is_before_its_checkpoint(workdir):
  writer = MetricWriter(workdir)
  for step in (2, 4, 6, 8):
    writer.write_scalars(step, {"train/loss": float(step)})
    if step in (2, 6):
      writer.flush()
  writer.flush()  # and the process dies
  with MetricWriter(workdir, from_step=4) as writer:
    writer.write_scalars(6, {"train/loss": -6.0})
  assert [(row["step"], row["train/loss"]) for row in read_rows(workdir)] == [(2, 2.0), (4, 4.0), (6, -6.0)]
  assert names(workdir) == ["000000002-000000002-000000.jsonl", "000000004-000000004-000001.jsonl", "000000006-000000006-000003.jsonl"]


def test_an_object_each_interval(workdir, monkeypatch):
  seconds = [0.0]
  monkeypatch.setattr(metrics.time, "monotonic", lambda: seconds[0])
  writer = MetricWriter(workdir)
  for step in range(6):
    seconds[0] = 12.0 * step
    writer.write_scalars(step, {"x": 0.0})
  assert names(workdir) == ["000000000-000000003-000000.jsonl"]


def events(workdir):
  """Steps and tags of all events, file after file as TensorBoard reads them."""
  found = []
  for path in sorted((workdir / BOARD).iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], "little")
      event, data = event_pb2.Event.FromString(data[12 : 12 + size]), data[16 + size :]
      found += [(event.step, value.tag) for value in event.summary.value]
  return found
