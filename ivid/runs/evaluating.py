"""`ivid evaluate`: what is measured and printed once all of it is there, whichever process that finds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ivid.evaluate import adherence, upsampling
from ivid.evaluate.ground_truth import Truth, compare_share
from ivid.evaluate.judged import Judging, made_by
from ivid.media.places import local_path
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder

Process = tuple[int, int] | None  # which of how many; None: one that does all


def report_adherence(judging: Judging, out: str | os.PathLike[str], process: Process) -> None:
  """Judges the process's share of the clips, and writes and prints the report if none is missing. Errors as of adherence.judge_share."""
  folder = local_path(out, "--out")
  results = adherence.judge_share(judging, folder, process)
  if results is not None:
    print(adherence.format_summary(adherence.write_report(folder, results, judging.made_by)))
    print(folder / adherence.RESULTS, file=sys.stderr)


def report_upsampling(
  cascade: CascadeFolder,
  stages: Sequence[StageSpec],
  truths: Sequence[Truth],
  out: str | os.PathLike[str],
  process: Process,
  *,
  seed: int,
  source: str,
) -> None:
  """As `report_adherence`, of ground truth through stages. `source`: where it comes from. Errors as of ground_truth.compare_share."""
  folder = local_path(out, "--out")
  comparisons = compare_share(cascade, stages, truths, folder, seed=seed, process=process)
  if comparisons is not None:
    made = made_by(cascade, stages, seed=seed) | dict(clips=source)
    print(upsampling.format_rows(upsampling.write_report(folder, comparisons, made)))
    print(folder / upsampling.RESULTS, file=sys.stderr)
