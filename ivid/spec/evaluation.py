"""What `ivid evaluate` measures: clips that are there or are made, a run's checkpoints, or a table of settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from ivid.spec.errors import UsageError
from ivid.spec.limits import LARGEST_SEED, MOST_CLIPS
from ivid.spec.options import option
from ivid.spec.ranges import Range, check_ranges

# Flags beside --watch, and the field of a run's TrainSpec that each stands for.
WATCH_FIELDS = {"prompts": "adherence_prompts", "real_clips": "fvd_clips", "steps": "sample_steps", "batch_size": "num_samples"}

TABLE_FLAGS = (
  "table",
  "metrics",
  "metric",
  "out",
  "prompts",
  "prompts_file",
  "groups",
  "seed",
  "batch_size",
  "real",
  "real_clips",
  "features",
)


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """Every field is a flag of that name."""

  clips: str = option("", "Folder of clips to judge instead of sampling a cascade; with upsampling: of ground truth")
  prompts_file: str = option("", "Text file with a prompt per line, in the grammar of moving_shapes")
  prompts: Annotated[int, Range(1, MOST_CLIPS)] = option(
    25, "Prompts of each seeded group: one and two objects, drawn in training and held out from it"
  )
  seed: Annotated[int, Range(0, LARGEST_SEED)] = option(0, "Of the prompts and of the samples")
  cascade: str = option("", "Folder of a cascade, or the name of one that ships (default: nano)")
  stop_stage: str = option("", "Stage whose clips are judged (default: the last trained one of the chain)")
  batch_size: Annotated[int, Range(1, MOST_CLIPS)] = option(8, "Clips or images sampled together")
  out: str = option("eval", "Folder of the results")
  retrieval: str = option("nano", "With retrieval: folder of its network, or a cascade that ships with one")
  start_stage: str = option("", "With upsampling: the stage whose input the ground truth is shrunk to (default: the second)")
  watch: str = option("", "Work folder of a run whose checkpoints are measured as they appear, until it ends")
  table: str = option("", "JSON file of settings to compare, a row of the table each")

  def __post_init__(self):
    check_ranges(self, "--")

  def check(self, given: Sequence[str]) -> None:
    """UsageError for a flag beside those that it does not go with; `given`: names of the flags that were typed."""
    if self.watch:
      _check_beside(f"--watch={self.watch}", given, ("watch", "metrics", "metric", "out", *WATCH_FIELDS))
    if self.table:
      _check_beside(f"--table={self.table}", given, TABLE_FLAGS)


def _check_beside(mode: str, given: Sequence[str], known: Sequence[str]) -> None:
  for name in given:
    if name not in known:
      raise UsageError(f"--{name} beside {mode}: expected no other flags than {', '.join(sorted(set(known) - {'metric'}))}")
