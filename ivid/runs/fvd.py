"""FVD as a command gives it: the real clips that are asked for, features in the user's cache, a report and what is printed."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from ivid.evaluate import fvd
from ivid.evaluate.clip_sets import real_clips
from ivid.evaluate.features import ClipSet
from ivid.evaluate.prompts import GROUPS
from ivid.runs.cache import enable_compilation_cache, user_cache
from ivid.spec.real import RealClips


def evaluate(judged: ClipSet, wanted: RealClips, *, out: pathlib.Path, groups: Sequence[str] = (), seed: int = 0) -> str:
  """Compares the clips with real ones, writes fvd.RESULTS into `out`, and returns the table of the scores.

  Raises:
    UserError: as real_clips, fvd.conventions and fvd.score.
  """
  conventions = fvd.conventions(judged.shape, wanted.layers)
  of_folder = pathlib.Path(wanted.real).is_dir()
  count = wanted.real_clips or (0 if of_folder else judged.count)
  real = real_clips(wanted.real, judged.shape, count=count, aspect=judged.aspect, groups=groups or GROUPS, seed=seed)
  enable_compilation_cache()
  root = pathlib.Path(wanted.features) if wanted.features else user_cache() / "features"
  scores = fvd.score(judged, real, conventions, root, seed=seed)
  fvd.write_report(out, scores, judged, real)
  print(out / fvd.RESULTS, file=sys.stderr)
  return fvd.format_scores(scores)
