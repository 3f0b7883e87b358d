"""Rates with 95% intervals, by group of prompts and by attribute, and confusion counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binomtest

from ivid.spec.errors import UserError

CONFIDENCE = 0.95

Scores = Mapping[str, bool | None]  # by attribute: right, wrong, or None if it cannot be told at this size


def rate(right: int, of: int) -> dict[str, float | int | None]:
  """{"rate", "low", "high", "right", "of"} with Wilson's interval; None instead of numbers if `of` is 0."""
  if not of:
    return dict(rate=None, low=None, high=None, right=0, of=0)
  interval = binomtest(right, of).proportion_ci(CONFIDENCE, method="wilson")
  return dict(rate=right / of, low=float(interval.low), high=float(interval.high), right=right, of=of)


def summarize(groups: Sequence[str], scores: Sequence[Scores]) -> dict[str, dict[str, dict]]:
  """By group, in order of appearance, then by attribute: `rate` over the clips of that group whose score is not None.

  Args:
    groups: the group of each clip.
    scores: the scores of each clip.
  """
  summary: dict[str, dict[str, dict]] = {}
  for group in dict.fromkeys(groups):
    mine = [score for name, score in zip(groups, scores, strict=True) if name == group]
    names = dict.fromkeys(name for score in mine for name in score)
    told = {name: [score[name] for score in mine if score.get(name) is not None] for name in names}
    summary[group] = {name: rate(sum(map(bool, values)), len(values)) for name, values in told.items()}
  return summary


def confusion(asked: Sequence[str], seen: Sequence[str], names: Sequence[str]) -> np.ndarray:
  """Counts [len(names), len(names)]: row asked, column seen.

  Raises:
    UserError: a name is not in `names`.
  """
  counts = np.zeros((len(names), len(names)), np.int64)
  index = {name: i for i, name in enumerate(names)}
  for pair in zip(asked, seen, strict=True):
    unknown = [name for name in pair if name not in index]
    if unknown:
      raise UserError(f"confusion of {unknown[0]!r}: expected one of {', '.join(names)}")
    counts[index[pair[0]], index[pair[1]]] += 1
  return counts
