"""Phases of a run: their specs, their order, where they begin, and that a run through them is the same however often it is stopped."""

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ivid.config import load_run
from ivid.data.mixture import Drawn, Mixture
from ivid.data.pipeline import Split, make_pipeline
from ivid.parallel import distributed
from ivid.runs.training import train_stage
from ivid.spec import convert
from ivid.spec.phase import PhaseSpec
from ivid.spec.run import OptimizerSpec, TrainSpec
from ivid.spec.session import Session
from ivid.spec.stage import LevelSpec, TimeMixing
from ivid.spec.view import make_view
from ivid.train import phases
from ivid.weights import ema
from ivid.weights.kept import latest_step

IMAGES = PhaseSpec("images", steps=4, frames=1, batch_size=16, learning_rate=2e-3, logsnr_shift=1.0)
SPREAD = PhaseSpec("spread", steps=3, frames=2, batch_size=8, image_fraction=0.5)
NEAR = PhaseSpec("near", steps=2, frames=2, neighbours=True)
WHOLE = PhaseSpec("whole", steps=3)
TRAIN = TrainSpec(
  phases=(IMAGES, SPREAD, NEAR, WHOLE),
  batch_size=8,
  eval_every=0,
  sample_every=0,
  optimizer=OptimizerSpec(warmup_steps=2, final_fraction=0.1),
)


def tiny_run(**changes):
  """tiny:base on a level of convolutions, which compiles quickest, through two phases of two steps, each of another size."""
  run = load_run("tiny:base")
  stage = run.cascade.stage("base")
  stage = dataclasses.replace(stage, unet=dataclasses.replace(stage.unet, levels=(LevelSpec(8, time=TimeMixing.CONVOLUTION),), given=True))
  cascade = dataclasses.replace(run.cascade, stages=(stage, *run.cascade.stages[1:]))
  short = tuple(dataclasses.replace(phase, steps=2) for phase in (IMAGES, SPREAD))
  given = dict(phases=short, steps=None, batch_size=8, image_fraction=0.0, eval_every=0, sample_every=0, log_every=1)
  every = dataclasses.replace(run.train.checkpoint, every=100)  # each stop saves, and saving takes most of these tests' time
  train = dataclasses.replace(run.train, checkpoint=every, **(given | changes))
  return dataclasses.replace(run, cascade=cascade, train=train), stage


def test_phases_take_the_run_s_values_where_they_have_none():
  images, spread, near, whole = phases.resolve(TRAIN)
  assert (images.train.frames, images.train.batch_size, images.train.optimizer.learning_rate, images.train.logsnr_shift) == (
    1,
    16,
    2e-3,
    1.0,
  )
  assert (spread.train.frames, spread.train.image_fraction, spread.train.optimizer.learning_rate) == (2, 0.5, 1e-3)
  assert (near.train.frames, near.train.crop.frames, near.train.batch_size) == (0, 2, 8)
  assert (whole.train.frames, whole.train.crop.frames, whole.train.logsnr_shift, whole.train.phases) == (0, 0, None, ())


def test_steps_and_examples_count_on_over_phases():
  found = phases.resolve(TRAIN)
  assert [(phase.first_step, phase.end, phase.first_index) for phase in found] == [(0, 4, 0), (4, 7, 64), (7, 9, 88), (9, 12, 104)]
  assert found[1].index_at(6) == 64 + 2 * 8
  assert [phases.phase_at(found, step).name for step in (0, 3, 4, 8, 9, 12)] == ["images", "images", "spread", "near", "whole", "whole"]


@pytest.mark.parametrize(
  ("step", "total", "names", "ends"),
  [
    (0, 12, "images spread near whole", [4, 7, 9, 12]),
    (4, 12, "spread near whole", [7, 9, 12]),
    (5, 8, "spread near", [7, 8]),
    (12, 12, "", []),
  ],
)
def test_remaining(step, total, names, ends):
  left = phases.remaining(phases.resolve(TRAIN), step, total)
  assert ([phase.name for phase in left], [phase.end for phase in left]) == (names.split(), ends)


def test_a_run_without_phases_is_one():
  (only,) = phases.resolve(TrainSpec(steps=7, batch_size=3))
  assert (only.name, only.end, only.index_at(5)) == ("", 7, 15)


def test_each_phase_warms_up_from_where_the_last_one_ended():
  rate = phases.learning_rate(phases.resolve(TRAIN))
  values = [float(rate(step)) for step in range(12)]
  assert values[0] == 0.0 and values[2] == pytest.approx(2e-3)
  assert values[4] == pytest.approx(2e-4) and values[6] == pytest.approx(1e-3)  # from a tenth of 2e-3 to the run's own peak
  assert float(rate(12)) == pytest.approx(1e-4)


def test_neighbouring_frames_follow_each_other_and_spread_ones_do_not():
  run, stage = tiny_run()
  for spec, fps in ((SPREAD, stage.output.fps / 2), (NEAR, stage.output.fps)):
    train = phases.resolve(dataclasses.replace(TRAIN, phases=(dataclasses.replace(spec, image_fraction=0.0),)))[0].train
    batch = next(make_pipeline(data=run.data, train=train, stage=stage))
    assert batch["video"].shape[1] == 2 and batch["fps"] == pytest.approx(fps)


def test_rows_of_images_are_counted_from_the_phase_s_first_example():
  run, stage = tiny_run()
  train = phases.resolve(dataclasses.replace(TRAIN, phases=(SPREAD,)))[0].train
  batch = next(make_pipeline(data=run.data, train=train, stage=stage, first_index=25))
  assert batch["is_video"].tolist() == [False, True] * 4
  assert batch["index"][:, 0].tolist() == list(range(25, 33))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"phases": [{"name": "a", "steps": 0}]}, "phases: phase 'a' has steps=0: expected 1 or more"),
    ({"phases": [{"name": "a"}]}, "missing key 'train.phases[0].steps'"),
    ({"phases": [{"name": "a", "steps": 1, "frame": 2}]}, "unknown key 'train.phases[0].frame'"),
    ({"phases": [{"name": "a", "steps": 1, "neighbours": True}]}, "neighbours=True and frames=None"),
    ({"phases": [{"name": "a", "steps": 1}] * 2}, "a name of its own"),
    ({"phases": [{"name": "a", "steps": 1, "logsnr_std": 0}]}, "phase 'a' has logsnr_std=0: expected a positive number such as 2.0"),
    ({"logsnr_std": -1.0}, "train.logsnr_std=-1: expected a positive number such as 2.0, or None"),
    ({"phases": [{"name": "a", "steps": 3}], "steps": 4}, "train.steps=4: expected at most the 3"),
  ],
)
def test_bad_phases_are_refused_in_one_line(change, message):
  with pytest.raises(ValueError) as error:
    convert.from_dict(TrainSpec, change, "train")
  assert message in str(error.value) and "\n" not in str(error.value)


def test_frames_that_do_not_divide_the_clip_name_their_phase(tmp_path):
  run, stage = tiny_run(phases=(IMAGES, dataclasses.replace(SPREAD, frames=3)))
  with pytest.raises(ValueError, match=r"phase 'spread': train.frames=3 does not divide the 4 frames of stage base: nearest"):
    train_stage(run, stage, tmp_path)


def test_a_run_through_phases_stopped_anywhere_ends_the_same(tmp_path):
  run, stage = tiny_run()
  assert train_stage(run, stage, tmp_path / "whole")
  for steps in (1, 2, 4):  # inside a phase, and at a change
    part = dataclasses.replace(run, train=dataclasses.replace(run.train, steps=steps))
    assert train_stage(part, stage, tmp_path / "parts")
  assert latest_step(tmp_path / "parts") == 4
  whole, parts = (ema.load_ema(tmp_path / name)[1] for name in ("whole", "parts"))
  assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True))
  rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
  assert [row["train/examples"] for row in rows] == [16, 32, 40, 48]


@pytest.mark.slow
def test_indices_count_on_through_other_batches_wherever_it_is_stopped(tmp_path, capsys):
  run, stage = tiny_run()
  smaller = tuple(dataclasses.replace(phase, batch_size=8) for phase in run.train.phases)

  def to(steps, phases, folder):
    assert train_stage(dataclasses.replace(run, train=dataclasses.replace(run.train, phases=phases, steps=steps)), stage, folder)

  to(1, run.train.phases, tmp_path / "whole")
  shutil.copytree(tmp_path / "whole", tmp_path / "parts")
  capsys.readouterr()
  to(4, smaller, tmp_path / "whole")
  assert "the batches up to here held 16 examples, of today's size 8: indices count on from there\n" in capsys.readouterr().err
  for steps in (2, 3, 4):
    to(steps, smaller, tmp_path / "parts")
  whole, parts = (ema.load_ema(tmp_path / name)[1] for name in ("whole", "parts"))
  assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True))
  for name in ("whole", "parts"):
    rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/examples"] for row in rows] == [16, 24, 32, 40]
    seen = json.loads((tmp_path / name / "checkpoints" / "4" / "data" / "metadata").read_text())
    assert seen["next_index"] == 40 and seen["drawn"] == {"clips": 8, "images": 16 + 8 + 2 * 8}  # spread: half of the rows, of two images


@pytest.mark.parametrize("sizes", [(8, 12), (12, 8), (16, 8)])
@pytest.mark.parametrize("step", [1, 3])
def test_every_source_goes_on_where_it_was_when_the_batches_change(sizes, step):
  """No clip and no image is left out or comes twice, and rows of images stay where the batch has them."""
  stage = load_run("tiny:base").cascade.stage("base")
  old, new = (TrainSpec(steps=6, batch_size=size, image_fraction=0.25) for size in sizes)
  counts = []

  class Member:
    clips = images = None

    def clip(self, count):
      counts.append(("clip", count))
      return np.zeros((4, 1, 1, 3), np.uint8), ""

    def image(self, count):
      counts.append(("image", count))
      return np.zeros((1, 1, 3), np.uint8), ""

  def read(course, train, indices):
    view = make_view(train, stage)
    at = dict(first_index=course[0].first_index, before=phases.drawn_before(course, course[0], stage))
    mixture = Mixture([Member()], clips=[1.0], images=[1.0], train=train, view=view, **at)
    return [mixture[index].is_video for index in indices]

  next_index = step * old.batch_size
  read(phases.resolve(old), old, range(next_index))
  course = phases.counted_on(phases.resolve(new), step, next_index, None, stage)
  rows = read(course, new, range(next_index, next_index + new.batch_size))
  assert rows == [not new.is_image(row) for row in range(new.batch_size)]
  for kind in ("clip", "image"):
    seen = [count for what, count in counts if what == kind]
    assert seen == list(range(len(seen))) and seen
  later = phases.drawn_at(course, course[0], step + 2, stage)  # what a checkpoint says after two of these
  assert phases.counted_on(phases.resolve(new), step + 2, course[0].index_at(step + 2), later, stage) == course
  assert phases.counted_on(phases.resolve(old), step, next_index, None, stage) == phases.resolve(old)


def test_other_batches_of_an_earlier_phase_count_in_proportion():
  stage = load_run("tiny:base").cascade.stage("base")
  course = phases.counted_on(phases.resolve(TRAIN), 4, 32, None, stage)  # half of its batches of images
  assert course[1].index_at(4) == 32 and phases.drawn_at(course, course[1], 4, stage) == Drawn(0, 32)


def test_a_run_ends_after_its_time_and_goes_on(tmp_path, monkeypatch):
  run, stage = tiny_run(phases=(dataclasses.replace(SPREAD, steps=6),))
  clock = itertools.count()  # a second for every look at it
  monkeypatch.setattr(distributed, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
  assert not train_stage(run, stage, tmp_path / "parts", session=Session(max_minutes=3.5 / 60))
  assert latest_step(tmp_path / "parts") == 3
  assert train_stage(run, stage, tmp_path / "parts")
  assert latest_step(tmp_path / "parts") == 6


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_each_phase_and_between(tmp_path, number):
  """A run that is killed again and again ends with the very weights, moments and places in the data of one that never was."""
  command = [sys.executable, "-m", "ivid", "train", f"--config={pathlib.Path(__file__).with_name('phased.py')}:base"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
  subprocess.run([*command, f"--workdir={tmp_path / 'whole'}"], env=environment, check=True, capture_output=True)
  killed = tmp_path / "killed"
  for until in (2, 4, 5, 8, 10):
    run = subprocess.Popen([*command, f"--workdir={killed}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None and latest_step(killed) < until:
      time.sleep(0.01)
    run.send_signal(number)
    assert run.wait() in ((0,) if number is signal.SIGTERM else (0, -signal.SIGKILL))
  subprocess.run([*command, f"--workdir={killed}"], env=environment, check=True, capture_output=True)
  whole, parts = (saved(tmp_path / name) for name in ("whole", "killed"))
  assert len(whole) > 100 and all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


def saved(workdir):
  """Every array of a run's last checkpoint."""
  assert latest_step(workdir) == 12
  folder = workdir / "checkpoints" / "12"
  with ocp.StandardCheckpointer() as checkpointer:
    return jax.tree.leaves([checkpointer.restore(folder / item) for item in ("params", "ema", "optimizer")])


def test_evaluation_batches_are_of_the_phase(tmp_path):
  """The validation set has the phase's frames, and starts at its own first example whatever came before."""
  run, stage = tiny_run()
  for phase in phases.resolve(run.train):
    first = next(make_pipeline(data=run.data, train=phase.train, stage=stage, split=Split.EVAL))
    assert first["index"][0, 0] == 0 and first["video"].shape[1] == (phase.train.frames or stage.output.frames)
