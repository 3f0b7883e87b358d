"""`ivid evaluate`: measures, and lets the process that completes the results print the report."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from ivid.evaluate import adherence, retrieval, upsampling
from ivid.evaluate.dual_encoder import load_network
from ivid.evaluate.ground_truth import compare_share, drawn_clips, real_clips
from ivid.evaluate.judged import Judging, made_by, made_once
from ivid.evaluate.prompts import Prompt
from ivid.media.files import naming_errors
from ivid.media.places import local_path
from ivid.media.scratch import scratch_folder
from ivid.runs.cache import enable_compilation_cache
from ivid.spec.errors import UserError
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder
from ivid.weights.opening import retrieval_folder

Process = tuple[int, int] | None  # index and number of processes; None: a single one


def report_adherence(judging: Judging, out: str | os.PathLike[str], process: Process) -> None:
  """Judges the process's share of the clips, and writes and prints the report if none is missing. Errors as of adherence.judge_share."""
  folder = local_path(out, "--out")
  results = adherence.judge_share(judging, folder, process)
  if results is not None:
    print(adherence.format_summary(adherence.write_report(folder, results, judging.made_by)))
    print(folder / adherence.RESULTS, file=sys.stderr)


def report_retrieval(judging: Judging, network: str, out: str | os.PathLike[str], process: Process) -> None:
  """As `report_adherence`, for retrieval. `network`: its folder, or a shipped cascade. Raises the errors of retrieval.judge_share."""
  folder = local_path(out, "--out")
  loaded = load_network(retrieval_folder(network))
  seen = retrieval.judge_share(judging, loaded, folder, process)
  if seen is not None:
    print(retrieval.format_figures(retrieval.write_report(folder, judging, seen, loaded), loaded))
    print(folder / retrieval.RESULTS, file=sys.stderr)


@contextlib.contextmanager
def clips_made_once(metrics: Sequence[str], out: str | os.PathLike[str]) -> Iterator[Callable[[Judging], Judging]]:
  """A context in which several metrics share a cascade's clips, which are made once and kept in `out` until it ends."""
  enable_compilation_cache()
  if len(set(metrics)) < 2:
    yield lambda judging: judging
    return
  folder = local_path(out, "--out")
  with naming_errors(folder):
    folder.mkdir(parents=True, exist_ok=True)
  with scratch_folder(folder) as place:
    yield functools.partial(made_once, folder=place)


def report_upsampling(
  cascade: CascadeFolder,
  stages: Sequence[StageSpec],
  truth: str | Sequence[Prompt],
  out: str | os.PathLike[str],
  process: Process,
  *,
  seed: int,
) -> None:
  """As `report_adherence`, for ground truth sent through stages.

  Args:
    truth: a folder of clips, or prompts of drawn clips.

  Raises:
    UserError: the first stage has no input; and as ground_truth.compare_share.
  """
  if stages[0].lowres is None:
    raise UserError(f"start_stage={stages[0].name} has no input: expected one of {', '.join(cascade.spec.stage_names[1:])}")
  folder, aspect = local_path(out, "--out"), cascade.spec.aspect
  of_folder = isinstance(truth, str)
  truths = real_clips(truth, stages, aspect=aspect) if of_folder else drawn_clips(truth, seed=seed, aspect=aspect)
  comparisons = compare_share(cascade, stages, truths, folder, seed=seed, process=process)
  if comparisons is not None:
    made = made_by(cascade, stages, seed=seed) | dict(clips=truth if of_folder else "moving_shapes")
    print(upsampling.format_rows(upsampling.write_report(folder, comparisons, made)))
    print(folder / upsampling.RESULTS, file=sys.stderr)
