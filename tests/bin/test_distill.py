"""`ivid distill`: killed and resumed, its folders bundled and sampled, and what it answers to wrong input."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tensorstore  # noqa: F401  Orbax's array reader, named here because a missing one shows as a hang

from ivid.__main__ import main
from ivid.spec.formats import FORMAT
from tests.compiling import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
UPDATES = 4
OPTIONS = (
  "train.eval_every=0",
  "train.image_fraction=0.0",
  "train.checkpoint.every=2",
  "train.log_every=2",
  "distill.teacher_steps=4",
  "distill.final_steps=1",
  f"distill.updates={UPDATES}",
  f"distill.last_updates={UPDATES}",
  f"distill.guidance_updates={UPDATES}",
  "distill.num_samples=1",
)
PHASES = ("guidance", "ddim_0002", "ddim_0001")


@pytest.fixture(scope="module")
def config():
  return f"--config={ROOT / 'tests' / 'fixtures' / 'one_level.py'}:base"


def arguments(config, workdir, teacher, *more):
  options = [f"--config.{option}" for option in OPTIONS]
  return ["distill", config, f"--teacher={teacher}", f"--workdir={workdir}", *options, *more]


def start(*args):
  environment = dict(os.environ, PYTHONWARNINGS="ignore", XLA_FLAGS=xla_flags(1))
  quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  return subprocess.Popen([sys.executable, "-m", "ivid", *args], cwd=ROOT, env=environment, **quiet)


def kill_when(process, found):
  """Kills with SIGKILL as soon as `found()`."""
  deadline = time.monotonic() + 900
  while not found():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()


def arrays(folder):
  """Every array of a student's last checkpoint: params, EMA and optimizer."""
  import orbax.checkpoint as ocp

  found = {}
  for item in ("params", "ema", "optimizer"):
    with ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.restore(folder / "checkpoints" / str(UPDATES) / item)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
  return found


@pytest.fixture(scope="module")
def teacher(config, tmp_path_factory):
  """A tiny base after two updates."""
  workdir = tmp_path_factory.mktemp("teacher")
  options = [f"--config.{option}" for option in OPTIONS if option.startswith("train")]
  assert start("train", config, f"--workdir={workdir}", "--config.train.steps=2", *options).wait(timeout=900) == 0
  return workdir


@pytest.fixture(scope="module")
def whole(config, teacher, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  assert start(*arguments(config, workdir, teacher)).wait(timeout=900) == 0
  return workdir


@pytest.mark.slow
def test_killed_inside_a_halving_and_between_two_it_ends_like_a_run_that_was_not(config, whole, teacher, tmp_path):
  inside = tmp_path / "ddim_0002" / "checkpoints"
  kill_when(start(*arguments(config, tmp_path, teacher)), (inside / "2").is_dir)
  assert not (inside / str(UPDATES)).exists(), "the halving ended before it could be killed"
  kill_when(start(*arguments(config, tmp_path, teacher)), (inside / str(UPDATES)).is_dir)
  assert not (tmp_path / "ddim_0001" / "checkpoints" / "2").exists(), "the next halving had begun before it could be killed"
  assert start(*arguments(config, tmp_path, teacher)).wait(timeout=900) == 0
  # A student whose last checkpoint is damaged is not the one before it: it is trained on.
  (tmp_path / PHASES[-1] / "checkpoints" / str(UPDATES) / "_CHECKPOINT_METADATA").unlink()
  assert start(*arguments(config, tmp_path, teacher)).wait(timeout=900) == 0
  assert (tmp_path / PHASES[-1] / "damaged" / str(UPDATES)).is_dir()
  for phase in PHASES:
    want, have = arrays(whole / phase), arrays(tmp_path / phase)
    assert want.keys() == have.keys() and len(want) > 100
    for name, value in want.items():
      np.testing.assert_array_equal(have[name], value, err_msg=f"{phase} {name}")


def test_each_student_says_what_it_is_and_is_compared(whole, teacher):
  from ivid.weights.ema import load_ema
  from ivid.weights.tensors import tree_hash

  teachers = [load_ema(teacher)[1]]
  for phase, steps in zip(PHASES, (0, 2, 1), strict=True):
    spec, params, step = load_ema(whole / phase)
    assert (spec.student.steps, spec.student.w_max, step) == (steps, 4.0, UPDATES)
    assert spec.student.teacher == tree_hash(teachers[-1])
    assert spec.sampling.steps == (steps or 4)
    teachers.append(params)
    assert (whole / phase / "samples.png").stat().st_size > 1000
    assert (whole / phase / "metrics.png").stat().st_size > 1000
  report = json.loads((whole / "report.json").read_text())
  rows = report["rows"]
  assert report["format"] == FORMAT and [json.loads((whole / phase / "report.json").read_text()) for phase in PHASES] == [
    {"format": FORMAT, **row} for row in rows
  ]
  assert [row["student"] for row in rows] == list(PHASES)
  assert [row["evaluations"] for row in rows] == [4, 2, 1]
  assert all(0 <= row["rms_to_teacher"] < 2 and row["seconds"] > 0 and np.isfinite(row["loss_last"]) for row in rows)
  guidance = rows[0]["guidance"]
  assert list(guidance) == ["0", "1", "2", "3", "4"] and not rows[1]["guidance"]
  assert all(0 <= found["error"] < 2 for found in guidance.values())
  assert guidance["0"]["untrained"] < 1e-6 and guidance["0"]["of_guidance"] is None
  for found in guidance.values():  # after so few updates the teacher may not have learnt to read
    assert found["of_guidance"] == (pytest.approx(found["error"] / found["untrained"], rel=1e-5) if found["untrained"] else None)
  assert json.loads((whole / "status.json").read_text()) == {"format": FORMAT, "state": "done", "step": len(PHASES) * UPDATES}
  table = (whole / "report.md").read_text()
  assert all(f"| {phase} |" in table for phase in PHASES)


def test_a_student_is_bundled_and_sampled_in_its_own_way_alone(config, whole, tmp_path, capsys):
  out = tmp_path / "cascade"
  options = [config, f"--out={out}"]
  assert main(["bundle", *options, f"base={whole}"]) == 1
  line = capsys.readouterr().err.strip()
  assert line.count("\n") == 0 and "one of its folders ddim_0001, ddim_0002, guidance" in line
  assert main(["bundle", *options, f"base={whole / 'ddim_0002'}"]) == 0
  sample = ["sample", f"--cascade={out}", "--prompt=a red circle", f"--out={tmp_path / 'clips'}"]
  capsys.readouterr()
  assert main([*sample, "--steps=4"]) == 1
  assert "stage base was distilled for 2 steps: steps=4, expected 2" in capsys.readouterr().err
  assert main([*sample, "--guidance=9"]) == 1
  assert "distilled for guidance from 0 to 4: guidance=9 is outside" in capsys.readouterr().err
  assert main([*sample, "--guidance=3", "--format=png"]) == 0
  record = json.loads(next((tmp_path / "clips").glob("*.json")).read_text())
  assert record["stages"][0]["sampling"]["steps"] == 2


def fails(capsys, *args):
  capsys.readouterr()
  status = main(list(args))
  lines = capsys.readouterr().err.strip().splitlines()
  assert status == (2 if "is missing" in lines[0] else 1) and len(lines) == 1, lines
  return lines[0]


@pytest.mark.slow
def test_with_a_second_way_up_the_teacher_stays_in_its_student_to_the_bit(config, teacher, tmp_path):
  from ivid.weights.ema import load_ema

  options = ["--config.distill.second_way_up=True", "--config.distill.final_steps=2", "--config.train.optimizer.weight_decay=0.1"]
  assert main(arguments(config, tmp_path, teacher, *options)) == 0
  taught, (spec, guided, _), (halved, fewer, _) = load_ema(teacher)[1], load_ema(tmp_path / "guidance"), load_ema(tmp_path / "ddim_0002")
  assert spec.unet.second_way_up and halved.unet.second_way_up and guided.keys() == fewer.keys()
  for name, tree in guided.items():
    same = jax.tree.map(np.array_equal, tree, taught[name.removeprefix("second_")])
    assert all(jax.tree.leaves(same)) != name.startswith("second_"), name
  assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, fewer, guided)))
  row = json.loads((tmp_path / "guidance" / "report.json").read_text())
  assert row["guidance"]["0"]["error"] < 1e-6 < row["guidance"]["4"]["error"]


def test_wrong_input_is_one_line(config, whole, teacher, tmp_path, capsys):
  work = tmp_path / "work"
  assert "--teacher is missing" in fails(capsys, "distill", config, f"--workdir={work}")
  assert "--workdir is missing" in fails(capsys, "distill", config, f"--teacher={teacher}")
  assert "expected a work folder with checkpoints" in fails(capsys, *arguments(config, work, tmp_path / "nothing"))
  line = fails(capsys, *arguments(config, work, whole / "ddim_0001"))
  assert "distilled to 1 steps already: distill.final_steps=1" in line
  assert "--teacher is of another stage than base: " in fails(capsys, *arguments(config, work, "nano"))
  line = fails(capsys, *arguments(config, work, teacher, "--config.distill.teacher_steps=12"))
  assert "distill.teacher_steps=12: expected a power of two, the nearest is 16" in line
  line = fails(capsys, *arguments(config, work, teacher, "--config.distill.w_min=5.0"))
  assert "w_min=5.0, w_max=4.0 is an empty range" in line
  assert "unknown key 'config.distill.update': did you mean 'updates'" in fails(
    capsys, *arguments(config, work, teacher, "--config.distill.update=3")
  )
  assert not work.exists()


def test_another_teachers_students_are_not_taken_for_its_own(config, whole, teacher, tmp_path, capsys):
  work = tmp_path / "work"
  shutil.copytree(whole / "ddim_0002", work / "guidance")
  assert f"{work / 'guidance'} holds another student: student." in fails(capsys, *arguments(config, work, teacher))


def test_a_teacher_of_another_text_encoder(config, teacher, tmp_path, capsys):
  other = shutil.copytree(teacher, tmp_path / "other")
  (path,) = other.glob("checkpoints/*/meta/metadata")
  path.write_text(re.sub(r'("text_encoder": ")\w+', r"\g<1>0123456789abcdef", path.read_text()))
  assert main(arguments(config, tmp_path / "work", other)) == 1
  assert "--teacher was trained with the text encoder 0123456789ab, data.text_encoder=nano is" in capsys.readouterr().err
