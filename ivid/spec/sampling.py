"""How a stage is sampled, and what a distilled stage was made for."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated

from ivid.spec.errors import UserError
from ivid.spec.limits import LARGEST_NUMBER, MOST_SAMPLING_STEPS
from ivid.spec.ranges import Range, Share, check_ranges

Steps = Annotated[int, Range(1, MOST_SAMPLING_STEPS)]
_GUIDANCE = Range(0, LARGEST_NUMBER, words="0 or more; 0 is the model as it was trained")


class SamplerKind(enum.Enum):
  DDIM = "ddim"
  ANCESTRAL = "ancestral"
  DPM_SOLVER_PP_2M = "dpmpp_2m"
  STOCHASTIC = "stochastic"  # for distilled stages: a DDIM step of twice the size, then one step back up (section 2.7)


def any_stage_samplers() -> str:
  """The samplers that need no distillation, listed in words."""
  *names, last = (kind.value for kind in SamplerKind if kind is not SamplerKind.STOCHASTIC)
  return f"{', '.join(names)} or {last}"


class ThresholdKind(enum.Enum):
  NONE = "none"
  STATIC = "static"  # clip to [-1, 1]
  DYNAMIC = "dynamic"  # Imagen, section 2.3


@dataclasses.dataclass(frozen=True)
class GuidanceSpec:
  """Classifier-free guidance, (1 + w) x_cond - w x_uncond, constant or oscillating (section 2.6)."""

  weight: Annotated[float, _GUIDANCE] = 0.0
  low: Annotated[float, _GUIDANCE] | None = None  # None: constant; else `weight` and `low` alternate after the first steps
  constant_part: Share = 0.2  # share of the steps that keep `weight` before the alternation

  def __post_init__(self):
    check_ranges(self, "sampling.guidance.")


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
  """Default way to sample a stage."""

  sampler: SamplerKind = SamplerKind.DDIM
  steps: Steps = 32
  gamma: Share = 0.3  # ancestral: log variance = gamma log(upper) + (1 - gamma) log(lower)
  guidance: GuidanceSpec = GuidanceSpec()
  threshold: ThresholdKind = ThresholdKind.STATIC
  percentile: Annotated[float, Range(0, 100, words="0 to 100")] = 99.5  # dynamic threshold

  def __post_init__(self):
    check_ranges(self, "sampling.")


@dataclasses.dataclass(frozen=True)
class StudentSpec:
  """What a distilled stage learned from its teacher (Imagen Video, section 2.7). It reads the guidance weight w and is evaluated once.

  Attributes:
    teacher: SHA-256 of the teacher's weights (ivid.weights.tensors.tree_hash).
    steps: N, the number of steps it was made for, a power of two. 0 if only guidance was distilled: any sampler and number of steps.
    sampler: DDIM if it learned the jump 1/N from every t = i/N; STOCHASTIC if it learned the jump min(2/N, t).
    w_min, w_max: the guidance weights it was trained for.
  """

  teacher: str
  steps: Annotated[int, Range(0, MOST_SAMPLING_STEPS)] = 0
  sampler: SamplerKind = SamplerKind.DDIM
  w_min: Annotated[float, _GUIDANCE] = 0.0
  w_max: Annotated[float, _GUIDANCE] = 0.0

  def __post_init__(self):
    check_ranges(self, "student.")
    if self.steps and not is_power_of_two(self.steps):
      raise UserError(f"student.steps={self.steps}: expected a power of two, or 0 for guidance distillation alone")
    if self.sampler not in (SamplerKind.DDIM, SamplerKind.STOCHASTIC):
      raise UserError(f"student.sampler={self.sampler.value}: expected ddim or stochastic")
    if not self.w_min <= self.w_max:
      raise UserError(f"student.w_min={self.w_min} is above w_max={self.w_max}: expected a range of guidance weights")

  def check(self, sampling: SamplingSpec, stage: str) -> None:
    """Raises UserError if a student of `stage` cannot be sampled in this way."""
    if self.steps and sampling.steps != self.steps:
      raise UserError(f"stage {stage} was distilled for {self.steps} steps: steps={sampling.steps}, expected {self.steps}")
    if self.steps and sampling.sampler is not self.sampler:
      raise UserError(
        f"stage {stage} was distilled for the {self.sampler.value} sampler: sampler={sampling.sampler.value}, expected {self.sampler.value}"
      )
    if not self.steps and sampling.sampler is SamplerKind.STOCHASTIC:
      raise UserError(f"stage {stage} was distilled in guidance alone: sampler=stochastic, expected {any_stage_samplers()}")
    for w in (sampling.guidance.weight, sampling.guidance.low):
      if w is not None and not self.w_min <= w <= self.w_max:
        raise UserError(f"stage {stage} was distilled for guidance from {self.w_min:g} to {self.w_max:g}: guidance={w:g} is outside")


def is_power_of_two(value: int) -> bool:
  return value > 0 and value & (value - 1) == 0
