"""Checkpoints that are kept, and paths that name one of them."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from ivid.runs.bundling import open_named
from ivid.spec.errors import UserError
from ivid.weights.ema import load_ema, load_spec
from ivid.weights.kept import check_kept, is_run, run_and_step, shown_steps
from ivid.weights.opening import open_stage

RUN = pathlib.Path(__file__).parents[1] / "fixtures" / "format0" / "run"


def test_the_folder_of_a_checkpoint_names_the_run_at_that_step(tmp_path):
  assert run_and_step("runs/base/checkpoints/10") == (pathlib.Path("runs/base"), 10)
  assert run_and_step("checkpoints/10/") == (pathlib.Path("."), 10)
  for whole in ("runs/base", "runs/10", "runs/base/checkpoints", "runs/base/checkpoints/last"):
    assert run_and_step(whole) == (pathlib.Path(whole), None)
  (tmp_path / "checkpoints" / "10" / "checkpoints").mkdir(parents=True)  # a run in a folder of that name
  assert run_and_step(tmp_path / "checkpoints" / "10")[1] is None
  assert is_run(RUN) and is_run(RUN / "checkpoints" / "60") and not is_run(tmp_path / "none" / "checkpoints" / "60")


def test_weights_of_that_step_are_opened(tmp_path):
  run = tmp_path / "run"
  shutil.copytree(RUN, run)
  shutil.copytree(run / "checkpoints" / "60", run / "checkpoints" / "70")
  for path in (run / "checkpoints" / "70" / "ema").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")  # later, and of no use: nobody may read it
  one = run / "checkpoints" / "60"
  assert load_spec(one) == load_spec(RUN)
  spec, weights, step = open_stage(str(one), "base", flag="train.init_from")
  assert step == 60 and spec.name == "base"
  assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(load_ema(RUN)[1]), strict=True))
  with pytest.raises(UserError, match="^checkpoint .*70 cannot be read"):  # that one, and no other in its place
    open_stage(str(run / "checkpoints" / "70"), "base", flag="--teacher")
  with pytest.raises(UserError, match=r"65: .*run keeps the checkpoints of steps 60, 70: expected one of them, the nearest is 60$"):
    open_stage(str(run / "checkpoints" / "65"), "base", flag="--teacher")


def test_no_run_there(tmp_path):
  with pytest.raises(UserError, match=r"^--teacher='.*checkpoints/5': expected a work folder with checkpoints"):
    open_stage(str(tmp_path / "checkpoints" / "5"), "base", flag="--teacher")
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(UserError, match="^--resume_step=5: no checkpoint in .*checkpoints: expected"):
    check_kept(tmp_path, 5, "--resume_step=5")
  with pytest.raises(UserError, match="no cascade"):
    open_named(str(tmp_path / "checkpoints" / "5"))


def test_many_steps_show_their_ends():
  assert shown_steps([1, 2]) == "1, 2"
  assert shown_steps(list(range(100))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..., 90, 91, 92, 93, 94, 95, 96, 97, 98, 99"
