"""Frechet distances of clips from real ones by I3D's features: FVD (Unterthiner et al., 1812.01717), and of single frames by any layer.

Distances of single frames or of layers other than the logits are not FVD, and none is FID, which uses another network.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ivid.evaluate import i3d
from ivid.evaluate.features import ClipSet, Convention, Features
from ivid.evaluate.frechet import BOOTSTRAP, Distance, measure
from ivid.media.files import write_whole
from ivid.spec import formats
from ivid.spec.clip import ClipShape
from ivid.spec.measures import check_fvd_clips

RESULTS = "fvd.json"


@dataclasses.dataclass(frozen=True)
class Score:
  """A distance, its convention, and the numbers of clips in each set and of dimensions."""

  convention: Convention
  distance: Distance
  clips: int
  real_clips: int
  dimensions: int

  @property
  def few(self) -> bool:
    """Whether a covariance lacks full rank. If so, the distance depends more on the number of clips than on the clips."""
    return min(self.clips, self.real_clips) * self.convention.samples <= self.dimensions


def conventions(shape: ClipShape, frame_layers: Sequence[str] = ()) -> tuple[Convention, ...]:
  """The conventions of FVD and of these layers frame by frame. Raises UserError for unknown layers or too short clips."""
  return (Convention(shape), *(Convention(shape, layer=layer, still=True) for layer in frame_layers))


def score(
  judged: ClipSet,
  real: ClipSet,
  conventions: Sequence[Convention],
  root: pathlib.Path,
  *,
  seed: int = 0,
  bootstrap: int = BOOTSTRAP,
  process: tuple[int, int] | None = None,
) -> list[Score] | None:
  """The distance of two sets by each convention; None, with a message, while features of other processes are missing.

  Args:
    root: the folder in which features are kept.
    seed: seed of the bootstrap.
    process: index and number of processes, each of which computes its share of the features; None: compute all.

  Raises:
    UserError: there are fewer clips than MIN_CLIPS (checked first) or no weights; and as Features.fill.
  """
  for clips in (judged, real):
    check_fvd_clips(clips.name, clips.count)
  params = functools.cache(i3d.load_i3d)
  index, processes = process or (0, 1)
  kept = [[Features(clips, convention, root) for clips in (judged, real)] for convention in conventions]
  for features in itertools.chain(*kept):
    features.fill(params, process=index, processes=processes)
  if left := sum(len(part) for features in itertools.chain(*kept) for part in features.missing()):
    line = f"process {index}/{processes}: its features are there; those of {left} clips of other processes are missing"
    print(f"{line}: the last of them writes the report", file=sys.stderr, flush=True)
    return None
  found = []
  for convention, pair in zip(conventions, kept, strict=True):
    ours, theirs = (features.read() for features in pair)
    found.append(Score(convention, measure(ours, theirs, seed=seed, bootstrap=bootstrap), len(ours), len(theirs), ours.shape[-1]))
  return found


def write_report(folder: pathlib.Path, scores: Sequence[Score], judged: ClipSet, real: ClipSet) -> list[dict[str, Any]]:
  """Writes RESULTS into the folder and returns its scores."""
  rows = [
    dict(
      metric=one.convention.name,
      **dataclasses.asdict(one.distance),
      clips=one.clips,
      real_clips=one.real_clips,
      dimensions=one.dimensions,
      fewer_samples_than_dimensions=one.few,
      convention=one.convention.record,
    )
    for one in scores
  ]
  sets = {key: dict(name=clips.name, **clips.identity) for key, clips in (("judged", judged), ("real", real))}
  write_whole(folder / RESULTS, json.dumps(formats.stamped(dict(metric="fvd", **sets, scores=rows)), indent=1) + "\n")
  return rows


def format_scores(scores: Sequence[Score]) -> str:
  """One row per score, with its convention below it."""
  lines = [f"{'distance':24} {'value':>9} {'95% interval':>19} {'infinitely many':>15} {'clips':>6} {'real':>6}"]
  for one in scores:
    found = one.distance
    interval = f"{found.low:.2f} to {found.high:.2f}"
    infinite = f"{'' if found.linear else '~'}{found.infinite:.2f}"
    lines.append(f"{one.convention.name:24} {found.value:9.2f} {interval:>19} {infinite:>15} {one.clips:6} {one.real_clips:6}")
    lines.append(f"  {one.convention}")
    if one.few:
      lines.append(f"  fewer samples than the {one.dimensions} dimensions: it is to be compared only with scores of as many clips")
    elif not found.linear:
      lines.append(f"  ~: from subsets of fewer samples than the {one.dimensions} dimensions, where the line may not hold")
  return "\n".join(lines)
