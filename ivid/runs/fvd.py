"""FVD for the command: finds the real clips, keeps features in the user's cache, writes and prints the report."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence

from ivid.evaluate import fvd
from ivid.evaluate.clip_sets import real_clips
from ivid.evaluate.features import ClipSet
from ivid.evaluate.prompts import GROUPS
from ivid.media.copies import user_cache
from ivid.media.places import local_path
from ivid.runs.cache import enable_compilation_cache
from ivid.spec.real import RealClips

FEATURES = "features"  # folder in the user's cache, or beside the report if several processes share the work


def report_fvd(
  judged: ClipSet,
  wanted: RealClips,
  out: str | os.PathLike[str],
  process: tuple[int, int] | None,
  *,
  groups: Sequence[str] = (),
  seed: int = 0,
) -> None:
  """Compares the clips with real ones, writes fvd.RESULTS into `out`, and prints the table of the scores.

  Args:
    process: index and number of processes; each computes its share of the features, and the one that completes them writes and prints.

  Raises:
    UserError: as real_clips, fvd.conventions and fvd.score; a folder in a bucket.
  """
  folder, kept = local_path(out, "--out"), local_path(wanted.features, "--features")
  conventions = fvd.conventions(judged.shape, wanted.layers)
  of_folder = pathlib.Path(wanted.real).is_dir()
  count = wanted.real_clips or (0 if of_folder else judged.count)
  real = real_clips(wanted.real, judged.shape, count=count, aspect=judged.aspect, groups=groups or GROUPS, seed=seed)
  enable_compilation_cache()
  root = kept if wanted.features else (folder if process else user_cache()) / FEATURES
  scores = fvd.score(judged, real, conventions, root, seed=seed, process=process)
  if scores is not None:
    fvd.write_report(folder, scores, judged, real)
    print(fvd.format_scores(scores))
    print(folder / fvd.RESULTS, file=sys.stderr)
