"""Going back to an earlier checkpoint: what came later is set aside, and the same command goes on afterwards."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from ivid.runs.rollback import go_back, step_to_resume
from ivid.runs.training import train
from ivid.spec.errors import UserError
from ivid.weights import ema
from tests.train.test_phases import tiny_run


def work_folder(folder, *steps):
  """As a run leaves it, without arrays."""
  for step in steps:
    for name in ("checkpoints", "snapshots"):
      (folder / name / str(step)).mkdir(parents=True)
      (folder / name / str(step) / "what").write_text(str(step))
  (folder / "samples").mkdir()
  for name in ("00000010.png", "00000010.mp4", "00000030.png"):
    (folder / "samples" / name).touch()
  (folder / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "train/loss": 1.0}}\n' for step in range(5, 36, 5)))
  (folder / "wandb.json").write_text('{"format": 2, "id": "abc"}')
  return folder


def files(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_came_later_is_set_aside_whole(tmp_path, capsys):
  folder = work_folder(tmp_path / "run", 10, 20, 30)
  before = (folder / "metrics.jsonl").read_text()
  go_back(folder, 10, "{}")
  aside = folder / "set_aside" / "after_10"
  said = f"going back to step 10: the checkpoints of steps 20, 30 and metrics up to step 35 set aside in {aside}\n"
  assert capsys.readouterr().err == said
  later = [f"{name}/{step}/what" for name in ("checkpoints", "snapshots") for step in (20, 30)]
  assert files(aside) == sorted([*later, "metrics.jsonl", "samples/00000030.png", "wandb.json"])
  assert (aside / "metrics.jsonl").read_text() == before == (folder / "metrics.jsonl").read_text()  # which the writer cuts
  assert [path.name for path in (folder / "checkpoints").iterdir()] == ["10"] and not (folder / "wandb.json").exists()
  assert files(folder / "samples") == ["00000010.mp4", "00000010.png"]


def test_the_same_command_goes_on_and_another_goes_back_again(tmp_path):
  folder = work_folder(tmp_path / "run", 10, 20, 30)
  assert step_to_resume(folder, 0, "{}") == 0
  assert step_to_resume(folder, 10, "{}") == 10
  go_back(folder, 10, "{}")
  (folder / "checkpoints" / "15").mkdir()
  shutil.rmtree(folder / "checkpoints" / "10")  # as the run does in time
  assert step_to_resume(folder, 10, "{}") == 0
  assert step_to_resume(folder, 15, "{}") == 15
  with pytest.raises(UserError, match=f"^--resume_step=10: {folder} keeps the checkpoints of steps 15: expected one of them, the nearest"):
    step_to_resume(folder, 10, '{"train": 2}')


def test_what_was_ended_in_the_middle_is_done_again(tmp_path, monkeypatch):
  folder = work_folder(tmp_path / "run", 10, 20, 30)
  moved, original = [], pathlib.Path.rename

  def rename(path, target):
    if len(moved) == 1:
      raise KeyboardInterrupt
    moved.append(path.name)
    return original(path, target)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
      go_back(folder, 10, "{}")
  assert moved == ["30"] and step_to_resume(folder, 10, "{}") == 10
  go_back(folder, 10, "{}")
  assert [path.name for path in (folder / "checkpoints").iterdir()] == ["10"]
  assert files(folder / "set_aside" / "after_10-2")[0] == "checkpoints/20/what"
  assert step_to_resume(folder, 10, "{}") == 0


def test_steps_that_are_not_kept(tmp_path):
  folder = work_folder(tmp_path / "run", 10, 20, 30)
  with pytest.raises(UserError, match="^--resume_step=24: .*run keeps the checkpoints of steps 10, 20, 30: .* the nearest is 20$"):
    step_to_resume(folder, 24, "{}")
  with pytest.raises(UserError, match="^--resume_step=24: no checkpoint in .*none/checkpoints: expected"):
    step_to_resume(tmp_path / "none", 24, "{}")
  assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_run_that_goes_back_comes_to_the_same_or_goes_another_way(tmp_path, capsys):
  run, _ = tiny_run(phases=(), steps=4)
  keep = dataclasses.replace(run.train.checkpoint, every=1, max_to_keep=4)
  run = dataclasses.replace(run, train=dataclasses.replace(run.train, checkpoint=keep))
  folder = tmp_path / "run"
  assert train(run, folder)
  first, rows = ema.load_ema(folder)[1], (folder / "metrics.jsonl").read_text().splitlines()
  capsys.readouterr()

  assert train(run, folder, resume_step=2)
  said = capsys.readouterr().err
  assert f"resuming {folder} at step 2\n" in said and "changed" not in said
  aside = folder / "set_aside" / "after_2"
  for again in (ema.load_ema(folder), ema.load_ema(folder / "checkpoints" / "4"), ema.load_ema(aside / "checkpoints" / "4")):
    assert again[2] == 4 and all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(again[1]), jax.tree.leaves(first), strict=True))
  assert (aside / "metrics.jsonl").read_text().splitlines() == rows
  assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]

  assert train(run, folder, resume_step=2)  # the same command
  said = capsys.readouterr().err
  assert "this command went back to step 2 before: it goes on" in said and f"{folder} is complete at step 4" in said
  assert not (folder / "set_aside" / "after_2-2").exists()

  optimizer = dataclasses.replace(run.train.optimizer, learning_rate=0.5)
  other = dataclasses.replace(run, train=dataclasses.replace(run.train, optimizer=optimizer, batch_size=16))
  assert train(other, folder, resume_step=3)
  said = capsys.readouterr().err
  was = run.train.optimizer.learning_rate
  assert f"changed since the last command here: train.batch_size=16 (was 8), train.optimizer.learning_rate=0.5 (was {was})\n" in said
  assert "the batches up to here held 24 examples, of today's size 48: indices count on from there" in said
  (last,) = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[3:])
  assert last["train/examples"] == 24 + 16
  assert not np.array_equal(jax.tree.leaves(ema.load_ema(folder)[1])[0], jax.tree.leaves(first)[0])
