"""`ivid train`: what a wrong command prints, and the dry run."""

import json
import os
import pathlib
import shutil

import jax
import pytest

from ivid.__main__ import main
from ivid.runs.workdir import claim
from ivid.spec.formats import FORMAT
from ivid.stage import Stage, unbox
from ivid.train import trackers
from ivid.weights.opening import open_stage

TINY = "--config=tiny:base"
FORMAT0 = pathlib.Path(__file__).parents[1] / "fixtures" / "format0"


def fails(capsys, *args):
  status = main(["train", *args])
  lines = capsys.readouterr().err.strip().splitlines()
  usage = ("is missing", "Unknown command line flag", "unexpected argument")
  assert status == (2 if any(text in lines[0] for text in usage) else 1) and len(lines) == 1, lines
  return lines[0]


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ([], "--config is missing: expected a file and a stage such as nano:base"),
    ([TINY], "--workdir is missing"),
    (["--config=tiny:bose"], "unknown stage 'bose': did you mean 'base'?"),
    ([TINY, "--config.train.batchsize=3"], "unknown key 'config.train.batchsize': did you mean 'batch_size'?"),
    ([TINY, "--config.train.batch_size=-1"], "train.batch_size=-1: expected 1 or more"),
    ([TINY, "--config.train.steps=0"], "train.steps=0: expected 1 or more"),
    ([TINY, "--config.train.checkpoint.every=0"], "train.checkpoint.every=0: expected 1 or more"),
    ([TINY, "--config.train.checkpoint.max_to_keep=0"], "train.checkpoint.max_to_keep=0: expected 1 or more"),
    (
      [TINY, "--workdir=a", "config.train.steps=5"],
      "'config.train.steps=5': expected flags alone, such as --config.train.steps=5",
    ),
    ([TINY, "--wrokdir=a"], "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
    ([TINY, "--dry_run", "--config.mesh.data=3"], "mesh data=3 x fsdp=1 x tensor=1 does not divide 8 device(s)"),
    ([TINY, "--dry_run", "--config.train.batch_size=12"], "train.batch_size=12 in 1 microbatch(es) does not divide over the mesh's"),
    ([TINY, "--dry_run", "--config.train.learning_rate=1"], "there is config.train.optimizer.learning_rate and config.distill.learning"),
    (
      ["--config=nano:base", "--dry_run", "--config.train.frames=4"],
      "every phase has its own value: expected train.phases[0].fr",
    ),
    ([TINY, "--dry_run", "--train.steps=2"], "'train.steps' (an override of the config: --config.train.steps=2)"),
    ([TINY, "--dry_run", "--config.cascade.stages.ssr1.unet.levels[1].channels=9"], "(in config.cascade.stages.ssr1.unet)"),
    (["--config=tests/fixtures/small_casade.py:base", "--dry_run"], "did you mean 'tests/fixtures/small_cascade.py'?"),
    ([TINY, "--dry_run", "--config.train.optimizer.b2=1"], "train.optimizer.b2=1: expected 0 up to but not 1"),
    ([TINY, "--dry_run", "--config.cascade.stages.base.sampling.guidance.weight=-7"], "guidance.weight=-7: expected 0 or more"),
    ([TINY, "--dry_run", "--config.train.frames=9"], "train.frames=9 does not divide the 4 frames of stage base: nearest 4"),
    ([TINY, "--workdir=a", "--trackers=tensorbord"], "--trackers=tensorbord: did you mean 'tensorboard'?"),
    ([TINY, "--workdir=a", "--profile_steps=5"], "--profile_steps=5: expected two steps, such as 100:105"),
    ([TINY, "--workdir=a", "--profile_steps=5:9", "--config.train.steps=4"], "--profile_steps=5:9: the run has 4 steps: expected earlier"),
    ([TINY, "--workdir=a", "--max_minutes=-1"], "--max_minutes=-1: expected a positive number, or 0 for no limit"),
    ([TINY, "--workdir=nowhere", "--resume_step=5"], "--resume_step=5: no checkpoint in "),
    (["--config=tiny:tsr1", "--dry_run", "--config.train.crop.frames=3"], "training on 3 frames: stage tsr1 needs a multiple of 2, or 1"),
  ],
)
def test_bad_input_is_one_line(capsys, args, message):
  assert message in fails(capsys, *args)


def test_work_folder_that_cannot_be_made(capsys, tmp_path):
  (tmp_path / "file").write_text("in the way")
  assert "is not writable" in fails(capsys, TINY, f"--workdir={tmp_path / 'file' / 'run'}")


def test_work_folder_of_another_stage(capsys, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(FORMAT0 / "run", workdir)
  options = ("data.text_encoder=" + str(FORMAT0 / "cascade" / "text"), "cascade.stages.base.diffusion.prediction=v")
  message = fails(capsys, f"--config={FORMAT0 / 'small.py'}:base", f"--workdir={workdir}", *(f"--config.{option}" for option in options))
  assert f"checkpoint {workdir / 'checkpoints' / '60'} is of another stage: diffusion.prediction='x', expected 'v'" in message
  assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["60"]


def test_a_step_that_is_not_kept(capsys, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(FORMAT0 / "run", workdir)
  line = fails(capsys, f"--config={FORMAT0 / 'small.py'}:base", f"--workdir={workdir}", "--resume_step=40")
  assert f"--resume_step=40: {workdir} keeps the checkpoints of steps 60: expected one of them, the nearest is 60" in line
  assert not (workdir / "pid").exists()


def test_a_tracker_that_is_not_installed(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
  line = fails(capsys, TINY, f"--workdir={tmp_path / 'run'}", "--trackers=tensorboard,wandb")
  assert "--trackers=tensorboard,wandb: wandb is not installed: expected `pip install 'ivid[wandb]'`, or --trackers=tensorboard" in line
  assert not (tmp_path / "run").exists()


def test_text_encoder_that_is_nowhere(capsys, tmp_path):
  assert "nowhere" in fails(capsys, TINY, f"--workdir={tmp_path / 'run'}", "--config.data.text_encoder=nowhere")


def test_work_folder_of_a_running_trainer(capsys, tmp_path):
  with claim(tmp_path):
    assert f"is in use by process {os.getpid()}" in fails(capsys, TINY, f"--workdir={tmp_path}")
  claim(tmp_path).close()  # free again


@pytest.mark.parametrize(("done", "state"), [(True, "done"), (False, "stopped")])
def test_how_the_run_ended_is_left_in_the_work_folder(monkeypatch, tmp_path, done, state):
  status, checkpoint = tmp_path / "status.json", tmp_path / "checkpoints" / "7"
  status.write_text("of the command before")

  def train_stage(run, stage, workdir, begin, *, session):
    assert status.exists()  # nothing has been checked yet
    begin()
    assert not status.exists()
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    checkpoint.mkdir()
    return done

  monkeypatch.setattr("ivid.runs.training.train_stage", train_stage)
  assert main(["train", TINY, f"--workdir={tmp_path}"]) == 0
  assert json.loads(status.read_text()) == {"format": FORMAT, "state": state, "step": 7}
  assert not list(tmp_path.glob(".status*"))


def test_dry_run_of_phases(capsys, tmp_path):
  path = tmp_path / "report.json"
  config = str(pathlib.Path(__file__).parents[1] / "train" / "phased.py")
  assert main(["train", f"--config={config}:base", "--dry_run", f"--json={path}", "--config.train.phases[1].steps=5"]) == 0
  reports = json.loads(path.read_text())["phases"]
  assert [(r["phase"], r["first_step"], r["steps"], r["examples"]) for r in reports] == [
    ("images", 0, 4, 64),
    ("spread", 4, 5, 104),
    ("whole", 9, 4, 136),
  ]
  assert [r["batch"]["video"][:2] for r in reports] == [[16, 1], [8, 2], [8, 4]]
  assert "phase       spread: steps 4 to 9, 104 examples at its end" in capsys.readouterr().out


def test_dry_run(capsys, tmp_path):
  path = tmp_path / "report.json"
  assert main(["train", "--config=tiny:ssr1", "--dry_run", f"--json={path}"]) == 0
  printed = capsys.readouterr().out
  report = json.loads(path.read_text())
  assert report["input"] == "8x12x20@1.5fps" and report["output"] == "8x24x40@1.5fps"
  assert f"{report['parameters']:,}" in printed
  assert report["batch"]["video"] == [8, 8, 24, 40, 3, "uint8"]
  assert report["gflop_per_step"] > 3 * 8 * report["gflop_per_evaluation"] * 0.8
  assert not list(tmp_path.glob("report.json.*"))


def test_weights_to_start_from_in_a_shipped_cascade():
  spec, have, _ = open_stage("nano", "tsr1", flag="train.init_from")
  want = unbox(Stage(spec).abstract_params())
  assert jax.tree.map(lambda a: a.shape, have) == jax.tree.map(lambda a: a.shape, want)
  assert any(abs(leaf).max() > 0 for leaf in jax.tree.leaves(have))


def test_weights_to_start_from_that_are_nowhere():
  with pytest.raises(ValueError, match="train.init_from='nona': expected a work folder with checkpoints"):
    open_stage("nona", "base", flag="train.init_from")
