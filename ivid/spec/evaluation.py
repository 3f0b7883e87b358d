"""Ways of `ivid evaluate` beside measuring clips once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ivid.spec.errors import UsageError
from ivid.spec.options import option

# Flags beside --watch, and the field of a run's TrainSpec that each stands for.
WATCH_FIELDS = {"prompts": "adherence_prompts", "real_clips": "fvd_clips", "steps": "sample_steps", "batch_size": "num_samples"}


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """Every field is a flag of that name; at most one of them is given."""

  watch: str = option("", "Work folder of a run whose checkpoints are measured as they appear, until it ends")

  def check(self, given: Sequence[str]) -> None:
    """UsageError for a flag beside those that it does not go with; `given`: names of the flags that were typed."""
    if self.watch:
      _check_beside(f"--watch={self.watch}", given, ("watch", "metrics", "metric", "out", *WATCH_FIELDS))


def _check_beside(mode: str, given: Sequence[str], known: Sequence[str]) -> None:
  for name in given:
    if name not in known:
      raise UsageError(f"--{name} beside {mode}: expected no other flags than {', '.join(sorted(set(known) - {'metric'}))}")
