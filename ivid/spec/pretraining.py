"""How the small text encoder is trained."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ivid.spec.errors import UsageError
from ivid.spec.limits import LARGEST_SEED, MOST_CLIPS, MOST_UPDATES
from ivid.spec.options import option
from ivid.spec.ranges import Range, check_ranges


@dataclasses.dataclass(frozen=True)
class TextTraining:
  """Every field is a flag of that name."""

  out: str = option("", "Folder of the run")
  steps: Annotated[int, Range(1, MOST_UPDATES)] = option(500, "Steps in all")
  batch_size: Annotated[int, Range(1, MOST_CLIPS)] = option(16, "Captions per step")
  learning_rate: Annotated[float, Range(0, 1, above=True)] = option(1.2e-3, "Peak learning rate of Adam")
  seed: Annotated[int, Range(0, LARGEST_SEED)] = option(0, "Seed of parameters and captions")

  def __post_init__(self):
    check_ranges(self, "--")

  def check(self) -> None:
    """UsageError without a folder."""
    if not self.out:
      raise UsageError("--out is missing: expected the folder of the run, such as runs/text")
