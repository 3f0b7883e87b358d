"""Distil a trained stage: guidance into one evaluation a step, then half the steps again and again; the same command resumes.

  ivid distill --config=nano:base --teacher=runs/base --workdir=runs/base_distilled

Every student has a folder of its own in the work folder, such as ddim_0008, which `ivid bundle` takes like any run's. report.md and the
pictures beside it compare each with its teacher.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from ivid.runs.cache import enable_compilation_cache
from ivid.config import config_json, define_config, find_cascade, load_config, parse_flags, split_overrides
from ivid.bin.hosts import define_hosts, join_hosts
from ivid.runs.workdir import local_path, shared_folder, write_status
from ivid.spec import convert
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec


def define_flags(values: flags.FlagValues) -> None:
  """Adds the flags of `ivid distill`."""
  define_config(values)
  define_hosts(values)
  flags.DEFINE_string(
    "teacher", None, "Work folder of the stage's training, or a cascade: a folder, or one that ships.", flag_values=values
  )
  flags.DEFINE_string("workdir", None, "Folder of the distillation: a folder for each student, and the report.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  """Distils as argv (program name first) says. Wrong input is a ValueError before any work is done."""
  plain, overrides = split_overrides(argv)
  values = parse_flags(plain, define_flags)
  config = load_config(values.config, overrides)
  run = convert.run_from_config(config)
  for name in ("teacher", "workdir"):
    if not values[name].value:
      raise ValueError(f"--{name} is missing: expected a folder, such as --{name}=runs/{run.stage}")
  enable_compilation_cache()
  workdir = local_path(values.workdir)
  join_hosts(values)
  from ivid.parallel.distributed import is_first
  from ivid.train.checkpoint import latest_step
  from ivid.train.distill import check_teacher, plan_phases, student_stage

  stage = run.cascade.stage(run.stage)
  teacher, params = load_teacher(values.teacher, run.stage)
  check_teacher(teacher, stage)
  phases = plan_phases(run.distill, teacher)
  for phase in phases:
    student_stage(stage, phase, "")  # refuses now what it would refuse later
  with shared_folder(workdir, config_json(config)):
    done = _distill(run, stage, workdir, teacher, params)
    if is_first():
      write_status(workdir, done=done, step=sum(latest_step(workdir / phase.name) for phase in phases))


def load_teacher(source: str, stage: str) -> tuple[StageSpec, Any]:
  """Spec and EMA weights of a run's work folder, or of `stage` in a cascade.

  Raises:
    ValueError: neither is there, or it cannot be read.
  """
  from ivid.train import checkpoint

  if (pathlib.Path(source) / checkpoint.FOLDER).is_dir():
    return checkpoint.load_ema(source)[:2]
  try:
    cascade = find_cascade(source)
  except ValueError:
    raise ValueError(f"--teacher={source}: expected a work folder with checkpoints, a cascade's folder or a shipped cascade") from None
  return cascade.check(stage).spec, cascade.load_stage(stage)


def _distill(run: RunSpec, stage: StageSpec, workdir: pathlib.Path, teacher: StageSpec, params: Any) -> bool:
  """Whether all students are made; False where one was stopped, after saving."""
  import jax

  from ivid.runs.distill_report import Report
  from ivid.runs.training import fit
  from ivid.parallel.distributed import is_first, wait_for_all
  from ivid.train import checkpoint
  from ivid.train.distill import phase_run, plan_phases, student_stage
  from ivid.train.run import Lesson
  from ivid.weights.tensors import tree_hash

  params = jax.device_get(params)  # weights wait on the host: a device has the training state to hold
  report = Report(run, stage, workdir, teacher, params) if is_first() else None
  made, phases = {"": (teacher, params)}, plan_phases(run.distill, teacher)
  for i, phase in enumerate(phases):
    folder = workdir / phase.name
    taught_by, weights = made[phase.taught_by]
    student = student_stage(stage, phase, tree_hash(weights))
    wait_for_all(f"before {phase.name}")  # that all read the same of the folder
    if checkpoint.latest_step(folder) < phase.updates:
      if report:
        print(f"{phase.name}: {phase.updates} updates, taught by {phase.taught_by or 'the teacher'}", file=sys.stderr)
      folder.mkdir(parents=True, exist_ok=True)
      lesson = Lesson(taught_by, run.distill.loss_weight)
      if not fit(phase_run(run, phase), student, folder, lesson=lesson, teacher=weights):
        return False
    else:
      _check_finished(checkpoint.load_spec(folder), student, folder)
    made[phase.name] = (dataclasses.replace(student, text_encoder=teacher.text_encoder), jax.device_get(checkpoint.load_ema(folder)[1]))
    if report:
      report.add(phase, made[phase.name], (taught_by, weights))
    still = {later.taught_by for later in phases[i + 1 :]}
    made = {name: one for name, one in made.items() if name in still}
  if report:
    report.write()
    print(workdir / "report.md")
  wait_for_all("report")
  return True


def _check_finished(have: StageSpec, want: StageSpec, folder: pathlib.Path) -> None:
  """ValueError if the student that lies there is not the one that this command would make."""
  from ivid.spec.compare import stage_difference

  difference = stage_difference(have, want, text_encoder=False)
  if difference:
    raise ValueError(f"{folder} holds another student: {difference}; expected a new --workdir")
