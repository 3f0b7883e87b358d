"""Given frames for networks that cannot read them: replacement with resampling (RePaint, arXiv 2201.09865, algorithm 1).

If x_hat contains the given frames, a step of any sampler takes their z_t to what the forward process has at the next level. This is the
replacement; the other frames are sampled. To make these agree with the given ones, each step is repeated: the forward process takes the
clip back up to the level where the step began, and the step is made again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from ivid.diffusion.samplers import StepInputs, forward_step
from ivid.programs import Program
from ivid.spec.limits import MOST_SAMPLING_STEPS
from ivid.spec.record import GivenMethod
from ivid.spec.stage import StageSpec

RESAMPLINGS = 5  # number of times that each step is made; RePaint makes 10, at ten times the work


class Turn(NamedTuple):
  """One evaluation of the sampler.

  Attributes:
    step: its number.
    again: how many times the step was made before.
    inputs: its scalars.
  """

  step: int
  again: int
  inputs: StepInputs

  @property
  def draw(self) -> int:
    """The index of its noise in a stream; when a step is made for the first time, this is the number of the step."""
    return self.step + self.again * MOST_SAMPLING_STEPS


def given_method(spec: StageSpec) -> GivenMethod:
  """The method by which frames are given to a stage."""
  return GivenMethod.TRAINED if spec.unet.given else GivenMethod.REPLACEMENT


def turns(inputs: list[StepInputs], times: int) -> Iterator[Turn]:
  """Every step so many times, except the last, which ends at the clip and is made once, as in RePaint.

  A repeated step has no previous step that a multistep sampler could read.
  """
  for step, scalars in enumerate(inputs):
    for again in range(times if step < len(inputs) - 1 else 1):
      yield Turn(step, again, dataclasses.replace(scalars, logsnr_prev=scalars.logsnr_t) if again else scalars)


def count_turns(steps: int, times: int) -> int:
  """How many `turns` there are."""
  return (steps - 1) * times + 1


@functools.lru_cache(maxsize=1)
def back_up() -> Callable[..., jax.Array]:
  """Compiled function (z_s, noise, StepInputs) -> z_t at the level where the step began."""

  def up(z, noise, inputs):
    return forward_step(z_s=z, noise=noise, logsnr_s=inputs.logsnr_s, logsnr_t=inputs.logsnr_t)

  return Program("sample_back_up", up).jit()
