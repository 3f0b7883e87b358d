"""Training and distillation killed with SIGKILL at random moments end bit for bit like runs that were left alone."""

import json

import pytest

from ivid.spec.formats import FORMAT
from tests.faults.trials import CONFIG, assert_same_run, finish, killed, within

STEPS = 9
TRAIN = ("steps=9", "image_fraction=0.0", "checkpoint.every=3", "log_every=1", "eval_every=3", "sample_every=4", "num_samples=1")
DISTILL = ("teacher_steps=4", "final_steps=1", "updates=4", "last_updates=4", "guidance_updates=4", "num_samples=1")
STUDENTS = ("guidance", "ddim_0002", "ddim_0001")


def train(workdir, *more):
  return ["train", CONFIG, f"--workdir={workdir}", *(f"--config.train.{option}" for option in (*TRAIN, *more))]


def distill(workdir, teacher):
  options = [f"--config.distill.{option}" for option in DISTILL]
  quick = [f"--config.train.{option}" for option in (*TRAIN[1:2], "checkpoint.every=2", "log_every=2", "eval_every=0")]
  return ["distill", CONFIG, f"--teacher={teacher}", f"--workdir={workdir}", *quick, *options]


def folders(tmp_path):
  return (tmp_path / f"run{n}" for n in range(1000))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  """Compiled programs, warm after the first run."""
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
  """A run that was left alone, and the seconds that it took, with programs to compile."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  return workdir, finish(train(workdir), cache)[1]


def is_done(workdir, step):
  assert json.loads((workdir / "status.json").read_text()) == {"format": FORMAT, "state": "done", "step": step}


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "cold"), [(15, False), (15, True)])
def test_a_training_run(whole, cache, tmp_path, kills, cold):
  want, seconds = whole

  def check(workdir):
    assert_same_run(workdir, want)
    is_done(workdir, STEPS)

  compiled = (lambda number: tmp_path / f"cache{number}") if cold else lambda number: cache
  span = seconds if cold else seconds / 2
  killed(train, folders(tmp_path), kills=kills, moment=within(span), seed=kills + cold, cache=compiled, check=check)


@pytest.mark.slow
def test_a_distillation(whole, cache, tmp_path):
  teacher, want = whole[0], tmp_path / "whole"
  finish(distill(tmp_path / "cold", teacher), cache)
  _, seconds = finish(distill(want, teacher), cache)

  def check(workdir):
    for name in STUDENTS:
      assert_same_run(workdir / name, want / name)
    is_done(workdir, 4 * len(STUDENTS))
    assert (workdir / "report.md").is_file()

  command = lambda workdir: distill(workdir, teacher)  # noqa: E731
  killed(command, folders(tmp_path), kills=10, moment=within(seconds * 1.1), seed=10, cache=lambda number: cache, check=check)
