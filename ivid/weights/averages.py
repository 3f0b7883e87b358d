"""Power-function averages of weights, and averages of any width made from kept ones (Karras et al., EDM2, 2312.02696, section 3).

The average of relative width w at update t weights the parameters of update tau by (gamma + 1) tau^gamma / t^(gamma + 1); w is the
standard deviation of this profile divided by t. A weighted sum of a few kept averages, each with its t and gamma, approximates any other.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ivid.spec.errors import UserError
from ivid.spec.run import WIDEST_EMA
from ivid.spec.stage import StageSpec
from ivid.weights.ema import SNAPSHOTS, load_snapshot, load_spec, read_widths, snapshot_path, snapshot_steps
from ivid.weights.kept import run_and_step

FAR = 0.05  # of a profile's norm: an average that misses by more than this is refused


def exponent(width: float) -> float:
  """gamma of a relative width: the largest root of w^2 (gamma + 2)^2 (gamma + 3) = gamma + 1 (algorithm 2)."""
  inverse = width**-2
  return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def combination(kept: Sequence[tuple[int, float]], *, step: int, width: float) -> tuple[np.ndarray, float]:
  """Weights for the kept averages whose sum is the least-squares fit to the profile of `width` at `step` (algorithm 3).

  Args:
    kept: update and gamma of each kept average.

  Returns: float64 [len(kept)], and the norm of the residual divided by the norm of the requested profile.
  """
  target = (step, exponent(width))
  products = np.array([[_product(a, b) for b in kept] for a in kept])
  with_target = np.array([_product(a, target) for a in kept])
  weights = np.linalg.lstsq(products, with_target, rcond=None)[0]
  missed = _product(target, target) - 2 * weights @ with_target + weights @ products @ weights
  return weights, float(np.sqrt(max(missed, 0.0) / _product(target, target)))


def load_average(workdir: str | pathlib.Path, width: float) -> tuple[StageSpec, Any, int]:
  """The stage of a run, its weights averaged with that relative width up to its last snapshot, and the step of that.

  For the folder of one checkpoint (ivid.weights.ema.run_and_step), it is the last snapshot up to that step.

  Raises:
    UserError: there are no snapshots, or none from which this width can be made.
  """
  if not 0.0 < width < WIDEST_EMA:
    raise UserError(f"--ema={width:g}: expected above 0 and below {WIDEST_EMA:.3f}, such as 0.08")
  named, (workdir, until) = workdir, run_and_step(workdir)
  steps = [step for step in snapshot_steps(workdir) if until is None or step <= until]
  if not steps:
    raise UserError(f"--ema={width:g}: {workdir / SNAPSHOTS} has no snapshots: expected a run with train.ema_widths")
  last, spec = steps[-1], load_spec(named)
  widths = {step: read_widths(snapshot_path(workdir, step)) for step in steps}
  kept = [(step, place, exponent(given)) for step in steps for place, given in enumerate(widths[step])]
  weights, missed = combination([(step, gamma) for step, _, gamma in kept], step=last, width=width)
  if missed > FAR:
    given = ", ".join(f"{value:g}" for value in widths[last])
    raise UserError(
      f"--ema={width:g}: {len(steps)} snapshots of widths {given} come within {missed:.0%} of it, expected {FAR:.0%}: "
      f"a width nearer to {given}, or more snapshots (train.ema_snapshot_every)"
    )
  total = None
  for step in steps:
    trees = load_snapshot(workdir, step)
    for (at, place, _), weight in zip(kept, weights, strict=True):
      if at == step:
        part = jax.tree.map(lambda a, weight=weight: np.float64(weight) * np.asarray(a, np.float64), trees[place])
        total = part if total is None else jax.tree.map(np.add, total, part)
  return spec, jax.tree.map(lambda a: a.astype(np.float32), total), last


def _product(one: tuple[int, float], other: tuple[int, float]) -> float:
  """Inner product of two profiles, each an update and a gamma: the integral over tau of one times the other."""
  (ta, a), (tb, b) = one, other
  least = min(ta, tb)
  # Ratios are formed before powers, because gammas of narrow profiles are in the hundreds.
  return (a + 1) * (b + 1) / (a + b + 1) * (least / ta) ** a * (least / tb) ** b * least / (float(ta) * tb)
