"""`ivid evaluate`: what is measured and printed once all of it is there, whichever process that finds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ivid.evaluate import adherence, upsampling
from ivid.evaluate.ground_truth import compare_share, drawn_clips, real_clips
from ivid.evaluate.judged import Judging, made_by
from ivid.evaluate.prompts import Prompt
from ivid.media.places import local_path
from ivid.spec.errors import UserError
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
  prompts: Sequence[Prompt],
  out: str | os.PathLike[str],
  process: Process,
  *,
  seed: int,
  folder: str = "",
) -> None:
  """As `report_adherence`, of ground truth through stages: the clips of a `folder`, or else scenes drawn of prompts.

  Raises:
    UserError: a first stage that has no input; as of real_clips and compare_share of ivid.evaluate.ground_truth.
  """
  if stages[0].lowres is None:
    raise UserError(f"start_stage={stages[0].name} has no input: expected one of {', '.join(cascade.spec.stage_names[1:])}")
  aspect, source = cascade.spec.aspect, folder or "moving_shapes"
  truths = real_clips(folder, stages, aspect=aspect) if folder else drawn_clips(prompts, seed=seed, aspect=aspect)
  place = local_path(out, "--out")
  comparisons = compare_share(cascade, stages, truths, place, seed=seed, process=process)
  if comparisons is not None:
    made = made_by(cascade, stages, seed=seed) | dict(clips=source)
    print(upsampling.format_rows(upsampling.write_report(place, comparisons, made)))
    print(place / upsampling.RESULTS, file=sys.stderr)
