"""`ivid evaluate --watch`: each checkpoint of a run once, whatever ends the watching; with curves in place of sampling."""

import dataclasses
import json
import os
import shutil
import signal

import pytest

from ivid.__main__ import main
from ivid.config import load_run
from ivid.runs import curves, watching
from ivid.runs.workdir import CONFIG, run_json, write_status
from ivid.train.metrics import read_rows
from ivid.weights.ema import Damaged


class Run:
  """A work folder whose checkpoints are empty folders, and what was measured of them."""

  def __init__(self, tmp_path, monkeypatch):
    self.folder, self.out, self.asked = tmp_path / "run", tmp_path / "eval", []
    self.before = {}  # by metric and step: what happens before it is measured
    self.folder.mkdir()
    monkeypatch.setattr(watching, "finished_steps", self.steps)
    monkeypatch.setattr(watching, "load_ema", lambda path: (load_run("tiny:base").cascade.stage("base"), f"weights of {path.name}", 0))
    monkeypatch.setattr(watching, "open_text", lambda *_, **__: None)
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(watching, "NAP_SECONDS", 0.01)
    for name, kind in curves.CURVES.items():
      monkeypatch.setitem(curves.CURVES, name, dataclasses.replace(kind, make=self.maker(name, kind.headline)))

  def maker(self, name, headline):
    def make(stage, run, encoder):
      self.train = run.train

      def call(step, state):
        self.before.get((name, step), lambda: None)()
        self.asked.append((name, step, state.ema))
        return {f"{name}{headline}": step / 100}

      return [call]

    return make

  def steps(self, folder):
    assert folder == self.folder
    return sorted((int(path.name) for path in self.folder.glob("checkpoints/*")), reverse=True)

  def begin(self):
    (self.folder / CONFIG).write_text(run_json(load_run("tiny:base")))

  def save(self, *steps):
    for step in steps:
      (self.folder / "checkpoints" / str(step)).mkdir(parents=True)

  def end(self):
    write_status(self.folder, done=True, step=30)

  def watch(self, *options, metrics="adherence,fvd"):
    return main(["evaluate", f"--watch={self.folder}", f"--metrics={metrics}", f"--out={self.out}", *options])


@pytest.fixture
def run(tmp_path, monkeypatch):
  return Run(tmp_path, monkeypatch)


def test_each_checkpoint_once_until_the_run_ends(run, capsys):
  run.begin()
  run.save(10, 20)
  run.before["fvd", 20] = lambda: (run.save(30), run.end())
  assert run.watch() == 0
  assert run.asked == [(name, step, f"weights of {step}") for step in (10, 20, 30) for name in ("adherence", "fvd")]
  shown = capsys.readouterr()
  assert [line.split(" (")[0] for line in shown.out.splitlines()][:2] == ["step 10: adherence/all 0.1", "step 10: fvd/value 0.1"]
  assert f"the run is done: 3 checkpoints are measured in {run.out}" in shown.err
  rows = list(read_rows(run.out))
  assert [(row["step"], row.get("fvd/value")) for row in rows] == [(10, None), (10, 0.1), (20, None), (20, 0.2), (30, None), (30, 0.3)]
  assert any((run.out / "tb").iterdir())
  assert run.watch() == 0 and len(run.asked) == 6
  run.save(40)
  assert run.watch(metrics="fvd") == 0 and run.asked[6:] == [("fvd", 40, "weights of 40")]


@pytest.mark.parametrize("ending", ["SIGTERM", "killed"])
def test_what_was_measured_before_it_ended_stays(run, capsys, ending):
  """A signal ends it behind the metric that it is in; a process that is killed has lost that metric alone."""
  run.begin()
  run.save(10, 20)
  run.end()

  def stop():
    if ending == "killed":
      raise SystemError
    os.kill(os.getpid(), signal.SIGTERM)

  run.before["adherence", 20] = stop
  if ending == "killed":
    with pytest.raises(SystemError):
      run.watch()
  else:
    assert run.watch() == 0 and "stopped; the same command goes on" in capsys.readouterr().err
  have = [(name, step) for name, step, _ in run.asked]
  assert have == [("adherence", 10), ("fvd", 10), ("adherence", 20)][: 2 + (ending == "SIGTERM")]
  run.before.clear()
  assert run.watch() == 0
  assert sorted((name, step) for name, step, _ in run.asked) == [(name, step) for name in ("adherence", "fvd") for step in (10, 20)]
  assert len(list(read_rows(run.out))) == 4


def test_every_wait_is_one_line(run, capsys, monkeypatch):
  """For a run that has not begun, then for its first checkpoint; a signal ends a wait too."""
  naps = []

  def nap(seconds):
    naps.append(seconds)
    {5: run.begin, 10: lambda: run.save(10), 20: lambda: os.kill(os.getpid(), signal.SIGTERM)}.get(len(naps), lambda: None)()

  monkeypatch.setattr(watching.time, "sleep", nap)
  assert run.watch(metrics="adherence") == 0
  lines = capsys.readouterr().err.splitlines()
  waits = [line for line in lines if line.startswith("waiting")]
  whats = ["a run to begin", "a checkpoint after step 0", "a checkpoint after step 10"]
  assert waits == [f"waiting for {what} in {run.folder}" for what in whats]
  assert lines[-1].startswith("stopped; the same command goes on") and len(naps) == 20 and len(run.asked) == 1


def test_checkpoints_that_are_gone_or_damaged_are_passed_over(run, capsys, monkeypatch):
  run.begin()
  run.save(10, 20, 30)
  run.end()
  load = watching.load_ema

  def one(path):
    if path.name == "10":
      shutil.rmtree(path)
      raise watching.UserError("not kept")
    if path.name == "20":
      raise Damaged("checkpoint 20 is damaged")
    return load(path)

  monkeypatch.setattr(watching, "load_ema", one)
  assert run.watch(metrics="adherence") == 0 and [step for _, step, _ in run.asked] == [30]
  shown = capsys.readouterr().err
  assert "the checkpoint of step 10 is gone" in shown and shown.count("checkpoint 20 is damaged") == 1


def test_flags_take_the_place_of_what_the_run_says(run, capsys):
  run.begin()
  run.save(10)
  run.end()
  assert run.watch("--prompts=3", "--steps=5", "--batch_size=4", "--real_clips=9") == 0
  train = run.train
  assert (train.adherence_prompts, train.sample_steps, train.num_samples, train.fvd_clips, train.phases) == (3, 5, 4, 9, ())
  record = json.loads((run.out / watching.WATCHED).read_text())
  assert record["run"] == str(run.folder) and record["adherence_prompts"] == 3
  capsys.readouterr()
  assert run.watch("--prompts=4", "--steps=5", "--real_clips=9") == 1
  lines = capsys.readouterr().err.strip().splitlines()
  assert (
    len(lines) == 1 and "has figures of adherence_prompts=3, these would be of adherence_prompts=4: expected another folder" in lines[0]
  )


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--metrics=upsampling"], "--watch with metric upsampling: expected adherence, fvd"),
    (["--cascade=nano"], "--cascade beside --watch="),
    (["--process=0/2"], "--process beside --watch="),
    (["--steps=base=3"], "--steps=base=3 beside --watch: expected a whole number"),
    (["--real_clips=7"], "train.fvd_clips=7: expected 8 or more"),
  ],
)
def test_bad_input_is_one_line(run, capsys, options, message):
  run.begin()
  assert run.watch(*options) in (1, 2)
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and message in lines[0] and not run.out.exists(), lines


def test_no_run_there(run, capsys):
  assert main(["evaluate", f"--watch={run.folder / 'x'}"]) == 1
  assert "no such folder: expected the work folder of a run" in capsys.readouterr().err
  (run.folder / "guidance" / "checkpoints").mkdir(parents=True)
  assert run.watch() == 1
  assert "(a distillation: one of its folders guidance)" in capsys.readouterr().err
