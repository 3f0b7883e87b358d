"""A distillation: guidance into one evaluation per step, then half the steps again and again; each student beside its teacher."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from typing import Any

import jax

from ivid.parallel.distributed import is_first, wait_for_all
from ivid.runs.cache import enable_compilation_cache
from ivid.runs.distill_report import Report
from ivid.runs.training import train_stage
from ivid.runs.workdir import local_path, run_json, shared_folder, write_status
from ivid.spec.compare import stage_difference
from ivid.spec.errors import UserError
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec
from ivid.train.distill import check_teacher, phase_run, plan_phases, student_stage
from ivid.train.phases import check_phases, resolve
from ivid.train.run import Lesson
from ivid.weights import ema
from ivid.weights.opening import open_stage
from ivid.weights.tensors import tree_hash


def distill(run: RunSpec, teacher: str, workdir: str | os.PathLike) -> bool:
  """Distils the stage of a run as `run.distill` says; `ivid distill` without its flags. The same call resumes.

  Args:
    teacher: work folder of the stage's training, a cascade's folder, or a cascade that ships.
    workdir: a folder for each student, and the report.

  Returns: whether all students are made; False where SIGTERM stopped one, after saving.

  Raises:
    UserError: before any work: what does not fit together, a folder that another trainer writes.
  """
  enable_compilation_cache()
  folder, stage = local_path(workdir), run.cascade.stage(run.stage)
  spec, params, _ = open_stage(teacher, run.stage, flag="--teacher")
  check_teacher(spec, stage)
  phases = plan_phases(run.distill, spec)
  for phase in phases:
    student_stage(stage, phase, "")  # refuses now what it would refuse later
    check_phases(resolve(phase_run(run, phase).train), stage)
  with shared_folder(folder, run_json(run)):
    done = _distill(run, stage, folder, spec, params)
    if is_first():
      write_status(folder, done=done, step=sum(ema.latest_step(folder / phase.name) for phase in phases))
  return done


def _distill(run: RunSpec, stage: StageSpec, workdir: pathlib.Path, teacher: StageSpec, params: Any) -> bool:
  """Whether all students are made; False where one was stopped, after saving."""
  params = jax.device_get(params)  # weights wait on the host: a device has the training state to hold
  report = Report(run, stage, workdir, teacher, params) if is_first() else None
  made, phases = {"": (teacher, params)}, plan_phases(run.distill, teacher)
  for i, phase in enumerate(phases):
    folder = workdir / phase.name
    taught_by, weights = made[phase.taught_by]
    student = student_stage(stage, phase, tree_hash(weights))
    wait_for_all(f"before {phase.name}")  # that all read the same of the folder
    if ema.latest_step(folder) < phase.updates:
      if report:
        print(f"{phase.name}: {phase.updates} updates, taught by {phase.taught_by or 'the teacher'}", file=sys.stderr)
      folder.mkdir(parents=True, exist_ok=True)
      lesson = Lesson(taught_by, run.distill.loss_weight if phase.student.steps else run.distill.guidance_loss_weight)
      if not train_stage(phase_run(run, phase), student, folder, lesson=lesson, teacher=weights):
        return False
    else:
      _check_finished(ema.load_spec(folder), student, folder)
    made[phase.name] = (dataclasses.replace(student, text_encoder=teacher.text_encoder), jax.device_get(ema.load_ema(folder)[1]))
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
  """UserError if the student that lies there is not the one that this command would make."""
  difference = stage_difference(have, want, text_encoder=False)
  if difference:
    raise UserError(f"{folder} holds another student: {difference}; expected a new --workdir")
