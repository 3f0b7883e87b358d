"""The course of a distillation: guidance, then halvings, each taught by the previous student (Imagen Video, section 2.7)."""

from __future__ import annotations

import dataclasses
from typing import Any

from ivid.spec.compare import stage_difference
from ivid.spec.distill import DistillSpec
from ivid.spec.errors import UserError
from ivid.spec.run import Decay, RunSpec
from ivid.spec.sampling import GuidanceSpec, SamplerKind, StudentSpec
from ivid.spec.stage import StageSpec

GUIDANCE = "guidance"


@dataclasses.dataclass(frozen=True)
class Phase:
  """One student.

  Attributes:
    name: also of its folder, such as guidance, ddim_0016, stochastic_0008.
    student: what it learns; the teacher's hash is filled in once the teacher exists.
    taught_by: the phase whose student is the teacher; empty: the user's teacher.
    teacher_steps: steps of the teacher's sampler.
    updates: number of training updates.
    second_way_up: whether its network has a second way up (unet.second_way_up).
  """

  name: str
  student: StudentSpec
  taught_by: str
  teacher_steps: int
  updates: int
  second_way_up: bool = False


def plan_phases(spec: DistillSpec, teacher: StageSpec) -> tuple[Phase, ...]:
  """The phases from this teacher to spec.final_steps. Each comes after the phase that teaches it.

  Raises:
    UserError: a distilled teacher already has so few steps, is for the stochastic sampler, or was not trained for all weights.
  """
  have = teacher.student
  steps = spec.teacher_steps
  if have is not None:
    _check_student(have, spec, teacher.name)
    steps = have.steps or steps
  w: dict[str, Any] = dict(w_min=spec.w_min, w_max=spec.w_max)
  guides = have is None and spec.w_max > 0
  net: dict[str, Any] = dict(second_way_up=spec.second_way_up if guides else teacher.unet.second_way_up)
  phases: list[Phase] = []
  if guides:
    phases.append(Phase(GUIDANCE, StudentSpec("", **w), "", steps, spec.total_guidance_updates, **net))
  before = phases[-1].name if phases else ""
  while steps > spec.final_steps:
    steps //= 2
    updates = spec.last_updates if steps <= 2 else spec.updates
    name = f"ddim_{steps:04d}"
    phases.append(Phase(name, StudentSpec("", steps, SamplerKind.DDIM, **w), before, 2 * steps, updates, **net))
    before = name
    if steps in spec.stochastic:
      # Its jumps of 2/N are two jumps of 1/N of the DDIM student, which is its teacher.
      phases.append(Phase(f"stochastic_{steps:04d}", StudentSpec("", steps, SamplerKind.STOCHASTIC, **w), name, steps, updates, **net))
  return tuple(phases)


def check_teacher(teacher: StageSpec, stage: StageSpec) -> None:
  """Raises UserError unless the teacher is `stage`, distilled or not."""
  difference = stage_difference(plain_stage(teacher), plain_stage(stage), text_encoder=False)
  if difference:
    raise UserError(f"--teacher is of another stage than {stage.name}: {difference}")


def plain_stage(spec: StageSpec) -> StageSpec:
  """The stage that `spec` was distilled from."""
  if spec.student is None:
    return spec
  unet, sampling = dataclasses.replace(spec.unet, second_way_up=False), dataclasses.replace(spec.sampling, sampler=SamplerKind.DDIM)
  return dataclasses.replace(spec, student=None, unet=unet, sampling=sampling)


def student_stage(stage: StageSpec, phase: Phase, teacher_hash: str) -> StageSpec:
  """The student's stage, with what it learned; by default it is sampled in the one way that it was made for.

  Raises:
    UserError: the stage's guidance weights lie outside the range that is distilled.
  """
  student = dataclasses.replace(phase.student, teacher=teacher_hash)
  sampling = plain_stage(stage).sampling
  if student.steps:
    sampling = dataclasses.replace(sampling, sampler=student.sampler, steps=student.steps)
  elif sampling.steps < phase.teacher_steps:
    sampling = dataclasses.replace(sampling, steps=phase.teacher_steps)
  unet = dataclasses.replace(stage.unet, second_way_up=phase.second_way_up)
  return dataclasses.replace(stage, student=student, unet=unet, sampling=sampling)


def teacher_stage(spec: StageSpec, steps: int, guidance: GuidanceSpec) -> StageSpec:
  """The teacher as its student is compared with it: with the DDIM sampler and so many steps."""
  sampling = dataclasses.replace(spec.sampling, sampler=SamplerKind.DDIM, steps=steps, guidance=guidance)
  return dataclasses.replace(spec, sampling=sampling)


def phase_run(run: RunSpec, phase: Phase) -> RunSpec:
  """The run of one phase: the stage's training with the distiller's updates and learning rate, which falls to 0."""
  distill, guidance = run.distill, phase.student.steps == 0
  rate = distill.learning_rate
  if guidance and distill.guidance_learning_rate is not None:
    rate = distill.guidance_learning_rate
  warmup = min(run.train.optimizer.warmup_steps, phase.updates // 10)
  optimizer = dataclasses.replace(run.train.optimizer, learning_rate=rate, warmup_steps=warmup, decay=Decay.COSINE, final_fraction=0.0)
  train = dataclasses.replace(
    run.train,
    steps=phase.updates,
    phases=distill.guidance_phases if guidance else (),
    optimizer=optimizer,
    init_from="",
    logsnr_std=None,
    image_fraction=0.0,
    sample_every=0,
    adherence_every=0,
    fvd_every=0,
    retrieval_every=0,
    ema_widths=(),
  )
  return dataclasses.replace(run, train=train)


def _check_student(have: StudentSpec, spec: DistillSpec, stage: str) -> None:
  if have.sampler is SamplerKind.STOCHASTIC:
    raise UserError(f"--teacher is a student of stage {stage} for the stochastic sampler: expected one for ddim, or one not distilled")
  if have.steps and have.steps <= spec.final_steps:
    raise UserError(
      f"--teacher is distilled to {have.steps} steps already: distill.final_steps={spec.final_steps}, expected fewer than {have.steps}"
    )
  if not have.w_min <= spec.w_min <= spec.w_max <= have.w_max:
    raise UserError(
      f"--teacher knows guidance from {have.w_min:g} to {have.w_max:g}: distill.w_min={spec.w_min:g}, w_max={spec.w_max:g} is not within"
    )
