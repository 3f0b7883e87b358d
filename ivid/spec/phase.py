"""A named part of a run."""

from __future__ import annotations

import dataclasses

from ivid.spec.errors import UserError


@dataclasses.dataclass(frozen=True)
class PhaseSpec:
  """A part of a run that differs from the rest; what is None is as the run's TrainSpec has it.

  Attributes:
    name: in the log, in errors and in metrics.
    steps: updates.
    frames: as in TrainSpec, spread evenly over the clip; with `neighbours` that many frames one after the other, from a random one on.
    learning_rate: peak; a phase warms up from where the one before ended, and has the run's decay over its own steps.
    logsnr_shift, logsnr_std: of the noise in training, as in TrainSpec; sampling keeps the stage's.
  """

  name: str
  steps: int
  frames: int | None = None
  neighbours: bool | None = None
  image_fraction: float | None = None
  batch_size: int | None = None
  accumulation: int | None = None
  learning_rate: float | None = None
  logsnr_shift: float | None = None
  logsnr_std: float | None = None

  def __post_init__(self):
    if self.steps < 1:
      raise UserError(f"phases: phase {self.name!r} has steps={self.steps}: expected 1 or more")
    if self.neighbours and not self.frames:
      raise UserError(f"phases: phase {self.name!r} has neighbours=True and frames={self.frames}: expected how many, such as 4")
    check_logsnr_std(self.logsnr_std, f"phases: phase {self.name!r} has logsnr_std")


def check_logsnr_std(std: float | None, said: str) -> None:
  """UserError unless it is None or a deviation; `said`: what the message calls it."""
  if std is not None and not 0.0 < std < float("inf"):
    raise UserError(f"{said}={std}: expected a positive number such as 2.0, or None")


def check_course(phases: tuple[PhaseSpec, ...], steps: int | None, *, names: tuple[str, str]) -> None:
  """UserError where phases share a name, or are to go on for more `steps` than they have; `names`: of the two fields."""
  given = [phase.name for phase in phases]
  if len(set(given)) < len(given):
    raise UserError(f"{names[0]}: names {', '.join(given)}: expected a name of its own for each")
  longest = sum(phase.steps for phase in phases)
  if phases and steps is not None and steps > longest:
    raise UserError(f"{names[1]}={steps}: expected at most the {longest} of {names[0]}, or None")
