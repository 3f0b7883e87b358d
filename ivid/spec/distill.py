"""How a stage is distilled."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from ivid.spec.errors import UserError
from ivid.spec.limits import LARGEST_NUMBER, MOST_SAMPLES
from ivid.spec.phase import Clips, PhaseSpec, Rate, Updates, check_course
from ivid.spec.ranges import Range, check_ranges
from ivid.spec.sampling import Steps, is_power_of_two
from ivid.spec.stage import LossWeight

DEFAULT_UPDATES = 10_000
Weight = Annotated[float, Range(0, LARGEST_NUMBER)]


@dataclasses.dataclass(frozen=True)
class DistillSpec:
  """Distillation of one stage: guidance first, then halving from teacher_steps to final_steps (Imagen Video, section 2.7).

  Batches, crops, data and everything else that is not named here are the same as in the training of the stage.
  """

  teacher_steps: Steps = 256  # N0, the steps of the DDIM sampler that the first halving starts from; a distilled teacher has its own
  final_steps: Steps = 8
  stochastic: tuple[Steps, ...] = ()  # step counts for which there is also a student for the stochastic sampler
  w_min: Weight = 0.0  # training draws guidance weights from this range; with oscillation it must include both
  w_max: Weight = 0.0  # both 0: the stage is sampled without guidance, so guidance is not distilled
  loss_weight: LossWeight = LossWeight.TRUNCATED_SNR  # of the halvings
  # Loss weight of guidance distillation, divided by (1 + w)^2. Guidance adds most where there is most noise, and weights by SNR hardly
  # count those levels. Its square grows with w, so without the division large w would drown out small ones.
  guidance_loss_weight: LossWeight = LossWeight.X
  guidance_phases: tuple[PhaseSpec, ...] = ()  # like train.phases, but for guidance only: single frames are cheap and teach most of it
  guidance_updates: Updates | None = None  # None: those of guidance_phases, or DEFAULT_UPDATES without any; fewer end it early
  # The student has a way up of its own beside the teacher's, and guidance distillation trains nothing else (unet.second_way_up). At w = 0
  # the student equals its teacher; it costs one and a half evaluations, where guidance takes two. False: the whole network learns, given w.
  second_way_up: bool = False
  guidance_learning_rate: Rate | None = None  # None: learning_rate
  updates: Updates = DEFAULT_UPDATES  # of each halving
  last_updates: Updates = 20_000  # of the halvings to 2 steps and to 1 (Progressive Distillation, section 5, doubles the updates there)
  learning_rate: Rate = 3e-4
  num_samples: Clips = 4  # clips of the report
  adherence_prompts: Annotated[int, Range(0, MOST_SAMPLES)] = 0  # per group and student; for moving_shapes only

  def __post_init__(self):
    check_ranges(self, "distill.")
    for name in ("teacher_steps", "final_steps"):
      value = getattr(self, name)
      if not is_power_of_two(value):
        raise UserError(f"distill.{name}={value}: expected a power of two, the nearest is {nearest_power_of_two(value)}")
    if self.final_steps >= self.teacher_steps:
      raise UserError(f"distill.final_steps={self.final_steps}: expected fewer than teacher_steps={self.teacher_steps}")
    if self.w_min > self.w_max:
      raise UserError(f"distill.w_min={self.w_min}, w_max={self.w_max} is an empty range: expected 0 <= w_min <= w_max")
    if self.loss_weight not in (LossWeight.TRUNCATED_SNR, LossWeight.V):
      raise UserError(f"distill.loss_weight={self.loss_weight.value}: expected truncated_snr or v (SNR + 1)")
    if self.guidance_loss_weight not in (LossWeight.X, LossWeight.TRUNCATED_SNR, LossWeight.V):
      raise UserError(f"distill.guidance_loss_weight={self.guidance_loss_weight.value}: expected x, truncated_snr or v (SNR + 1)")
    for phase in self.guidance_phases:
      if phase.logsnr_std is not None:
        raise UserError(f"distill.guidance_phases: phase {phase.name!r} has logsnr_std={phase.logsnr_std:g}: expected None, the schedule's")
    check_course(self.guidance_phases, self.guidance_updates, names=("distill.guidance_phases", "distill.guidance_updates"))
    for steps in self.stochastic:
      if not (is_power_of_two(steps) and max(2, self.final_steps) <= steps < self.teacher_steps):
        raise UserError(
          f"distill.stochastic: {steps} steps; expected a power of two from {max(2, self.final_steps)} to {self.teacher_steps // 2}"
        )

  @property
  def total_guidance_updates(self) -> int:
    """Updates of guidance distillation."""
    return self.guidance_updates or sum(phase.steps for phase in self.guidance_phases) or DEFAULT_UPDATES


def nearest_power_of_two(value: int) -> int:
  return 1 << max(0, round(math.log2(max(value, 1))))
