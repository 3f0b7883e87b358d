"""Settings of a training command that are not part of the config: what watches it, how long it runs, and where it resumes."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ivid.spec.errors import UserError, nearest
from ivid.spec.limits import LARGEST_NUMBER, MOST_UPDATES
from ivid.spec.options import option
from ivid.spec.ranges import Range, check_ranges

TENSORBOARD, WANDB = "tensorboard", "wandb"
TRACKERS = (TENSORBOARD, WANDB)


@dataclasses.dataclass(frozen=True)
class Watch:
  """Every field is a flag of that name in all commands that train."""

  trackers: str = option(TENSORBOARD, f"Where metrics go beside metrics.jsonl, any of {', '.join(TRACKERS)}; empty: nowhere")
  profile_steps: str = option("", "Trace the updates between two steps, such as 100:105, for xprof, in WORKDIR/profile")

  def __post_init__(self):
    for name in self.tracker_names:
      if name not in TRACKERS:
        raise UserError(f"--trackers={self.trackers}: {nearest(name, TRACKERS)}")
    self.profiled  # noqa: B018  raises if the value is wrong

  @property
  def tracker_names(self) -> tuple[str, ...]:
    """The trackers, each once."""
    return tuple(dict.fromkeys(name.strip() for name in self.trackers.split(",") if name.strip()))

  @property
  def profiled(self) -> range | None:
    """The indices of the updates that are traced; None: no trace."""
    if not self.profile_steps:
      return None
    words = self.profile_steps.split(":")
    if len(words) != 2 or not all(word.isascii() and word.isdecimal() and len(word) < 20 for word in words):
      raise UserError(f"--profile_steps={self.profile_steps}: expected two steps, such as 100:105")
    first, end = map(int, words)
    if not first < end <= MOST_UPDATES:
      near = f"{first}:{min(first + 5, MOST_UPDATES)}" if first < MOST_UPDATES else "100:105"
      raise UserError(
        f"--profile_steps={self.profile_steps}: expected a later step after the colon, at most {MOST_UPDATES}, such as {near}"
      )
    return range(first, end)

  def check_profiled(self, total: int) -> None:
    """Raises UserError if the trace would begin after the end of a run of `total` updates."""
    if self.profiled is not None and self.profiled.start >= total:
      near = f"{max(0, total - len(self.profiled))}:{total}"
      raise UserError(f"--profile_steps={self.profile_steps}: the run has {total} steps: expected earlier ones, the nearest are {near}")


@dataclasses.dataclass(frozen=True)
class Session(Watch):
  """Options of `ivid train`."""

  max_minutes: Annotated[float, Range(0, LARGEST_NUMBER, words="a positive number, or 0 for no limit")] = option(
    0.0, "Save and end after so many minutes; the same command goes on. 0: no limit"
  )
  resume_step: Annotated[int, Range(0, MOST_UPDATES)] = option(
    0, "Go back to the checkpoint of this step, and go on from it. 0: the last one"
  )

  def __post_init__(self):
    super().__post_init__()
    check_ranges(self, "--")
