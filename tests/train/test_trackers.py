"""Trackers: what is sent to them, and what is said of those that are not there."""

import json
import struct
import sys
import types

import numpy as np
import pytest

from ivid.spec.errors import UserError
from ivid.spec.session import Watch
from ivid.train.metrics import MetricWriter
from ivid.train.trackers import check_trackers, open_trackers

CONFIG = {"stage": "base", "train": {"seed": 3}}


class Fake(types.ModuleType):
  """In place of wandb: keeps what it is told."""

  def __init__(self):
    super().__init__("wandb")
    self.errors = types.SimpleNamespace(Error=type("Error", (Exception,), {}))
    self.Image = lambda array: ("image", array.shape)
    self.inits, self.logged, self.ended, self.refuse, self.broken = [], [], [], "", False

  def init(self, **options):
    if self.refuse:
      raise self.errors.Error(self.refuse)
    self.inits.append(options)
    return self

  def define_metric(self, name, *, step_metric):
    self.axis = (name, step_metric)

  def log(self, row):
    if self.broken:
      raise self.errors.Error("the service is gone\nand more")
    self.logged.append(row)

  def finish(self, *, exit_code):
    self.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
  fake = Fake()
  monkeypatch.setitem(sys.modules, "wandb", fake)
  for name in ("WANDB_PROJECT", "WANDB_NAME"):
    monkeypatch.delenv(name, raising=False)
  return fake


def writer(folder, *names, from_step=0):
  return MetricWriter(folder, from_step=from_step, trackers=open_trackers(names, CONFIG))


def test_what_wandb_is_told(wandb, tmp_path):
  folder = tmp_path / "runs" / "base"
  folder.mkdir(parents=True)
  with writer(folder, "tensorboard", "wandb") as metrics:
    metrics.write_scalars(5, {"train/loss": np.float32(0.5)})
    metrics.write_image(5, "samples", np.zeros((2, 3, 3), np.uint8))
  (init,) = wandb.inits
  assert (init["project"], init["name"], init["config"], init["resume"]) == ("ivid", "runs/base", CONFIG, "allow")
  assert init["dir"] == str(folder) and wandb.axis == ("*", "step")
  assert wandb.logged == [{"step": 5, "train/loss": 0.5}, {"step": 5, "samples": ("image", (2, 3, 3))}]
  assert wandb.ended == [0]
  assert list((folder / "tb").glob("events*")) and json.loads((folder / "metrics.jsonl").read_text()) == {"step": 5, "train/loss": 0.5}


def test_the_next_command_goes_on_in_the_same_run_and_a_failure_is_told(wandb, tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_PROJECT", "mine")
  monkeypatch.setenv("WANDB_NAME", "first")
  for step in (0, 5):
    with pytest.raises(RuntimeError), writer(tmp_path, "wandb", from_step=step) as metrics:
      metrics.open()
      raise RuntimeError
  one, other = wandb.inits
  assert one["id"] == other["id"] and one["project"] == "mine" and "name" not in one
  assert wandb.ended == [1, 1] and not (tmp_path / "tb").exists()


def test_without_trackers_there_is_the_file_alone(wandb, tmp_path):
  with writer(tmp_path) as metrics:
    metrics.write_scalars(1, {"train/loss": 1.0})
  assert not wandb.inits and [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_nobody_is_logged_in(wandb, tmp_path):
  wandb.refuse = "api_key not configured (no-tty). call wandb.login(key=[your_api_key])"
  with pytest.raises(UserError, match=r"^--trackers=wandb: api_key not .*; expected `wandb login` before, or WANDB_MODE=offline$"):
    writer(tmp_path, "wandb").open()


def test_a_service_that_is_lost_does_not_end_the_run(wandb, tmp_path, capsys):
  with writer(tmp_path, "wandb") as metrics:
    metrics.write_scalars(1, {"train/loss": 1.0})
    wandb.broken = True
    metrics.write_scalars(2, {"train/loss": 2.0})
    metrics.write_scalars(3, {"train/loss": 3.0})
  assert capsys.readouterr().err.splitlines() == ["wandb: the service is gone; going on without it, metrics.jsonl has everything"]
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3 and len(wandb.logged) == 1


def test_wandb_that_is_not_installed(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  check_trackers(Watch())
  with pytest.raises(UserError, match=r"^--trackers=tensorboard,wandb: wandb is not installed: expected `pip install 'ivid\[wandb\]'`"):
    check_trackers(Watch(trackers="tensorboard,wandb"))


def log_records(data, header=7, block=32768):
  """What lies in an offline run's file: LevelDB's log format behind a header of its own."""
  at, parts = header, []
  while at + 7 <= len(data):
    size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
    if kind:
      parts.append(data[at + 7 : at + 7 + size])
    if kind in (1, 4):  # whole, or its last part
      yield b"".join(parts)
      parts = []
    at += 7 + size
    at += block - at % block if block - at % block < 7 else 0


def test_an_offline_run_of_wandb_itself_opens(tmp_path, monkeypatch):
  wandb = pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  with writer(tmp_path, "wandb") as metrics:
    metrics.write_scalars(7, {"train/loss": 0.25})
    metrics.write_image(7, "samples", np.zeros((2, 3, 3), np.uint8))
  (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
  from wandb.proto import wandb_internal_pb2

  config, items = {}, {}
  for data in log_records(path.read_bytes()):
    record = wandb_internal_pb2.Record.FromString(data)
    if record.WhichOneof("record_type") == "run":
      config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    if record.WhichOneof("record_type") == "history":
      items |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
  assert {name: config.get(name) for name in CONFIG} == CONFIG
  assert items["train/loss"] == 0.25 and items["step"] == 7 and wandb.run is None
  assert list(path.parent.glob("files/media/images/samples_*.png"))
