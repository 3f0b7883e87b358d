"""What is measured of clips, and which flags go with it."""

from __future__ import annotations

from collections.abc import Sequence

from ivid.spec.errors import UsageError, UserError, nearest

METRICS = ADHERENCE, FVD, RETRIEVAL, UPSAMPLING = ("adherence", "fvd", "retrieval", "upsampling")
MIN_CLIPS = 8  # of an FVD, below which an interval says nothing


def check_fvd_clips(name: str, count: int) -> None:
  """Raises UserError if the set of this name has fewer clips than MIN_CLIPS."""
  if count < MIN_CLIPS:
    raise UserError(f"{name} has {count} clips: expected {MIN_CLIPS} or more for FVD, and some thousands for a score to be compared")


def check_measures(
  metrics: Sequence[str], *, clips: str, cascade: str, start_stage: str, stop_stage: str, images: bool, batch_size: int
) -> None:
  """Refuses flags of `ivid evaluate` that do not go together before anything is read or computed.

  Raises:
    UsageError: flags that contradict each other, or no metric.
    UserError: an unknown metric, or a batch of nothing.
  """
  if not metrics:
    raise UsageError(f"--metrics is empty: expected one of {', '.join(METRICS)}, or several with commas")
  for metric in metrics:
    if metric not in METRICS:
      raise UserError(f"metric {metric!r}: {nearest(metric, METRICS)}")
  if batch_size < 1:
    raise UserError(f"batch_size={batch_size}: expected 1 or more")
  if images and set(metrics) != {ADHERENCE}:
    raise UsageError(f"--images with metric {next(metric for metric in metrics if metric != ADHERENCE)}: expected --metrics=adherence")
  if images and clips:
    raise UsageError(f"--images beside --clips={clips}: expected --cascade, whose base stage makes the images")
  if UPSAMPLING in metrics:
    return
  if start_stage:
    raise UsageError(f"--start_stage={start_stage} with metric {metrics[0]}: expected --metrics=upsampling, or --stop_stage alone")
  if clips and (cascade or stop_stage):
    raise UsageError("--clips beside --cascade or --stop_stage: expected clips to judge, or a cascade to sample")
