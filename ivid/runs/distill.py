"""A distillation: guidance into one evaluation per step, then repeated halvings of the steps; each student is compared to its teacher."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax

from ivid.media.places import open_folder
from ivid.parallel import signals
from ivid.parallel.distributed import is_first, wait_for_all
from ivid.runs.cache import enable_compilation_cache
from ivid.runs.distill_report import Report
from ivid.runs.training import train_stage, until_stopped
from ivid.runs.workdir import run_json, shared_folder, write_status
from ivid.spec.compare import stage_difference
from ivid.spec.errors import UserError
from ivid.spec.run import RunSpec
from ivid.spec.session import TENSORBOARD, Session
from ivid.spec.stage import StageSpec
from ivid.train.distill import Phase, check_teacher, phase_run, plan_phases, student_stage
from ivid.train.phases import check_phases, resolve
from ivid.train.run import Lesson
from ivid.train.trackers import check_trackers
from ivid.weights import ema
from ivid.weights.kept import latest_step
from ivid.weights.opening import open_stage
from ivid.weights.tensors import tree_hash


def distill(run: RunSpec, teacher: str, workdir: str | os.PathLike[str], *, trackers: str = TENSORBOARD, profile_steps: str = "") -> bool:
  """Distils the stage of a run as `run.distill` says. `ivid distill` calls this. The same call resumes.

  Args:
    teacher: work folder of the stage's training, a cascade's folder, or the name of a shipped cascade.
    workdir: gets one folder per student, and the report.
    trackers, profile_steps: as in ivid.spec.session.Watch, for each student.

  Returns: whether all students are made; False if SIGTERM or SIGINT stopped one, after saving.

  Raises:
    UserError: before any work, if settings do not fit together or another trainer writes into the folder.
  """
  session = Session(trackers=trackers, profile_steps=profile_steps)
  check_trackers(session)
  enable_compilation_cache()
  folder, stage = open_folder(workdir, "--workdir"), run.cascade.stage(run.stage)
  spec, params, _ = open_stage(teacher, run.stage, flag="--teacher")
  check_teacher(spec, stage)
  phases = plan_phases(run.distill, spec)
  session.check_profiled(max(phase_run(run, phase).train.total_steps for phase in phases))
  for phase in phases:
    student_stage(stage, phase, "")  # fails now instead of later
    check_phases(resolve(phase_run(run, phase).train), stage)
    _check_begun(folder / phase.name, stage, phase)
  with signals.listening(), shared_folder(folder, run_json(run)) as begin:
    done = until_stopped(_distill, run, stage, folder, begin, spec, params, session)
    if is_first():
      write_status(folder, done=done, step=sum(latest_step(folder / phase.name) for phase in phases))
  return done


def _distill(
  run: RunSpec,
  stage: StageSpec,
  workdir: pathlib.Path,
  begin: Callable[[], None],
  teacher: StageSpec,
  params: Any,
  session: Session,
) -> bool:
  """Whether all students are made; False if one was stopped, after saving."""
  params = jax.device_get(params)  # the weights wait on the host, because the devices hold the training state
  report = Report(run, stage, workdir, teacher, params) if is_first() else None
  made, phases = {"": (teacher, params)}, plan_phases(run.distill, teacher)
  for i, phase in enumerate(phases):
    folder = workdir / phase.name
    taught_by, weights = made[phase.taught_by]
    student = student_stage(stage, phase, tree_hash(weights))
    wait_for_all(f"before {phase.name}")  # so that all processes see the same folder
    finished = _finished(folder, phase.updates)
    if finished is None:
      if report:
        print(f"{phase.name}: {phase.updates} updates, taught by {phase.taught_by or 'the teacher'}", file=sys.stderr)
      folder.mkdir(parents=True, exist_ok=True)
      lesson = Lesson(taught_by, run.distill.loss_weight if phase.student.steps else run.distill.guidance_loss_weight)
      if not train_stage(phase_run(run, phase), student, folder, begin, lesson=lesson, teacher=weights, session=session):
        return False
      finished = ema.load_ema(folder)
    else:
      _check_finished(finished[0], student, folder)
    made[phase.name] = (dataclasses.replace(student, text_encoder=teacher.text_encoder), jax.device_get(finished[1]))
    begin()  # from here on, the folder belongs to this command, which may write a report
    if report:
      report.add(phase, made[phase.name], (taught_by, weights))
    still = {later.taught_by for later in phases[i + 1 :]}
    made = {name: one for name, one in made.items() if name in still}
  if report:
    report.write()
    print(workdir / "report.md")
  wait_for_all("report")
  return True


def _check_begun(folder: pathlib.Path, stage: StageSpec, phase: Phase) -> None:
  """Raises UserError if the folder has another kind of student. Its teacher is checked once that is known."""
  with contextlib.suppress(ema.Damaged):
    if latest_step(folder):
      have = ema.load_spec(folder)
      _check_finished(have, student_stage(stage, phase, have.student.teacher if have.student else ""), folder)


def _finished(folder: pathlib.Path, updates: int) -> tuple[StageSpec, Any, int] | None:
  """A student's stage, weights and step; None if there is none, or its last checkpoint is unreadable, so that training continues."""
  if latest_step(folder) < updates:
    return None
  try:
    found = ema.load_ema(folder)
  except ema.Damaged:  # the training reports this if it is the only checkpoint
    return None
  return found if found[2] >= updates else None


def _check_finished(have: StageSpec, want: StageSpec, folder: pathlib.Path) -> None:
  """Raises UserError if the existing student is not the one that this command would make."""
  difference = stage_difference(have, want, text_encoder=False)
  if difference:
    raise UserError(f"{folder} holds another student: {difference}; expected a new --workdir")
