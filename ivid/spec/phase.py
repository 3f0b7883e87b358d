"""A named part of a run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ivid.spec.errors import UserError
from ivid.spec.limits import LARGEST_NUMBER, MOST_CLIPS, MOST_FRAMES, MOST_UPDATES
from ivid.spec.ranges import Range, Share, check_ranges
from ivid.spec.stage import Logsnr

Updates = Annotated[int, Range(1, MOST_UPDATES)]
Clips = Annotated[int, Range(1, MOST_CLIPS)]
Rate = Annotated[float, Range(0, LARGEST_NUMBER, above=True)]  # of learning
Deviation = Annotated[float, Range(0, LARGEST_NUMBER, above=True, words="a positive number such as 2.0, or None")]


@dataclasses.dataclass(frozen=True)
class PhaseSpec:
  """A part of a run that differs from the rest; a value of None is taken from the run's TrainSpec.

  Attributes:
    name: used in the log, in errors and in metrics.
    steps: updates.
    frames: as in TrainSpec, spread evenly over the clip; with `neighbours`, so many consecutive frames from a random start.
    learning_rate: peak. A phase warms up from the last rate of the phase before, and decays over its own steps.
    logsnr_shift, logsnr_std: of the noise in training, as in TrainSpec; sampling keeps the stage's.
  """

  name: str
  steps: Updates
  frames: Annotated[int, Range(0, MOST_FRAMES)] | None = None
  neighbours: bool | None = None
  image_fraction: Share | None = None
  batch_size: Clips | None = None
  accumulation: Clips | None = None
  learning_rate: Rate | None = None
  logsnr_shift: Logsnr | None = None
  logsnr_std: Deviation | None = None

  def __post_init__(self):
    check_ranges(self, f"phases: phase {self.name!r} has ")
    if self.neighbours and not self.frames:
      raise UserError(f"phases: phase {self.name!r} has neighbours=True and frames={self.frames}: expected how many, such as 4")


def check_course(phases: tuple[PhaseSpec, ...], steps: int | None, *, names: tuple[str, str]) -> None:
  """Raises UserError if phases share a name, or if `steps` exceeds the sum of their steps; `names` are the names of the two fields."""
  given = [phase.name for phase in phases]
  if len(set(given)) < len(given):
    raise UserError(f"{names[0]}: names {', '.join(given)}: expected a name of its own for each")
  longest = sum(phase.steps for phase in phases)
  if phases and steps is not None and steps > longest:
    raise UserError(f"{names[1]}={steps}: expected at most the {longest} of {names[0]}, or None")
