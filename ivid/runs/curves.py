"""All curves by their metric: hooks of training draw them, and `ivid evaluate --watch` draws them from checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ivid.runs.adherence import adherence_curves
from ivid.runs.curve import Curve
from ivid.runs.fvd_curve import fvd_curves
from ivid.runs.retrieval_curve import retrieval_curves
from ivid.spec.measures import ADHERENCE, FVD, RETRIEVAL
from ivid.spec.run import RunSpec, TrainSpec
from ivid.stage import Stage
from ivid.text.embedder import Embedder


@dataclasses.dataclass(frozen=True)
class CurveKind:
  """The curves of a metric.

  Attributes:
    every: updates between two evaluations in training; 0: never.
    headline: suffix of the figures that a printed line shows.
    make: makes the curves for a stage's training.
  """

  every: Callable[[TrainSpec], int]
  headline: str
  make: Callable[[Stage, RunSpec, Embedder], list[Curve]]


CURVES = {
  ADHERENCE: CurveKind(lambda train: train.adherence_every, "/all", adherence_curves),
  FVD: CurveKind(lambda train: train.fvd_every, "/value", fvd_curves),
  RETRIEVAL: CurveKind(lambda train: train.retrieval_every, "/score", retrieval_curves),
}
