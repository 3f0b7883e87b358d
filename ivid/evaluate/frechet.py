"""The Frechet distance between two sets of features, taken as Gaussians, in float64, and its uncertainty."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from ivid.evaluate.summary import CONFIDENCE
from ivid.spec.errors import UserError

BOOTSTRAP = 100  # bootstrap resamples
SIZES = 8  # sizes of subsets for the extrapolation to infinitely many samples
SMALLEST = 0.25  # share of the samples in the smallest subset
REPEATS = 4  # subsets of each size


@dataclasses.dataclass(frozen=True)
class Moments:
  """The moments of n samples in float64: `count`, their mean [D], and the sum of the outer products of the deviations from it [D, D]."""

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  @classmethod
  def of(cls, features: np.ndarray) -> Moments:
    """The moments of features [n, D], n at least 1.

    Raises:
      UserError: a feature is NaN or infinite.
    """
    x = np.asarray(features, np.float64)
    mean = x.mean(0)
    if not np.isfinite(mean).all():
      raise UserError(f"{int((~np.isfinite(x)).any(1).sum())} of {len(x)} features have a value that is no number: expected finite ones")
    x = x - mean
    return cls(len(x), mean, x.T @ x)

  def merge(self, other: Moments) -> Moments:
    """The moments of both sets together (Chan, Golub and LeVeque 1979, equation 2.1)."""
    count = self.count + other.count
    step = other.mean - self.mean
    scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
    return Moments(count, self.mean + step * (other.count / count), scatter)

  @property
  def covariance(self) -> np.ndarray:
    """The unbiased covariance [D, D]. Raises UserError for fewer than 2 samples."""
    if self.count < 2:
      raise UserError(f"the covariance of {self.count} samples: expected 2 or more")
    return self.scatter / (self.count - 1)


def merged(parts: Iterable[Moments]) -> Moments:
  """The moments of all parts together, of which there is at least one."""
  parts = iter(parts)
  whole = next(parts)
  for part in parts:
    whole = whole.merge(part)
  return whole


def frechet(a: Moments, b: Moments) -> float:
  """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau 1982), at least 0.

  With C = F F^T the trace of the root is the sum of the singular values of F_a^T F_b, which is never negative or complex, even
  if there are fewer samples than dimensions and a covariance is singular.
  """
  root = np.linalg.svd(_factor(a).T @ _factor(b), compute_uv=False).sum()
  traces = np.trace(a.covariance) + np.trace(b.covariance)
  return max(0.0, float(np.square(a.mean - b.mean).sum() + traces - 2 * root))


def _factor(moments: Moments) -> np.ndarray:
  """F [D, rank], where F F^T is the covariance, without directions that only hold rounding errors."""
  values, vectors = np.linalg.eigh(moments.covariance)
  kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
  return vectors[:, kept] * np.sqrt(values[kept])


@dataclasses.dataclass(frozen=True)
class Distance:
  """A distance between two sets, and its uncertainty.

  Attributes:
    value: the distance of the sets; it exceeds that of infinitely many samples by a term proportional to 1 over their number.
    low, high: 95% interval of `value` over sets of these sizes.
    infinite: extrapolation to infinitely many samples by a line in 1 over their number.
    linear: whether the smallest subset had more samples than dimensions; if not, the relation may not be linear.
  """

  value: float
  low: float
  high: float
  infinite: float
  linear: bool


def measure(a: np.ndarray, b: np.ndarray, *, seed: int = 0, bootstrap: int = BOOTSTRAP) -> Distance:
  """The distance between features a [n, k, D] and b [m, k, D] of n and m clips with k samples each.

  Whole clips are resampled, because the samples of a clip depend on each other. A resampled set is farther away than the set itself,
  since it has some clips twice, so the distances are shifted to have their mean at `value`.

  Raises:
    UserError: there are fewer than 2 clips, or a feature is NaN or infinite.
  """
  rng = np.random.default_rng(seed)
  value = _between(a, b)
  drawn = [_between(*(x[rng.integers(len(x), size=len(x))] for x in (a, b))) for _ in range(bootstrap)]
  tail = (1 - CONFIDENCE) / 2
  low, high = np.quantile(drawn, (tail, 1 - tail)) - np.mean(drawn) + value if drawn else (value, value)
  infinite, least = extrapolate(_between, a, b, rng=rng, value=value)
  return Distance(value, max(0.0, float(low)), float(high), infinite, least * a.shape[1] > a.shape[2])


def extrapolate(
  between: Callable[[np.ndarray, np.ndarray], float], a: np.ndarray, b: np.ndarray, *, rng: np.random.Generator, value: float
) -> tuple[float, int]:
  """The distance at infinitely many samples, by a line in 1/n through those of subsets (Chong and Forsyth, 1911.07023, section 4).

  Both sets shrink by the same shares, from 1 to SMALLEST, so that the bias from either finite number is linear in 1/n.

  Args:
    value: the distance of the whole sets.

  Returns:
    The line at 1/n = 0 (`value` if there are too few clips for subsets), and the number of clips in the smallest subset.
  """
  least = min(len(a), len(b))
  shares = [1 / inverse for inverse in np.linspace(1, 1 / SMALLEST, SIZES)]
  shares = [share for share in shares if share * least >= 2]
  if len(shares) < 2:
    return value, least
  points = [(1.0, value)] * REPEATS  # the whole sets give one value, with the same weight
  for share in shares[1:]:
    sizes = [round(share * len(x)) for x in (a, b)]
    for _ in range(REPEATS):
      some = (x[rng.permutation(len(x))[:size]] for x, size in zip((a, b), sizes, strict=True))
      points.append((1 / share, between(*some)))
  inverse, found = np.array(points).T
  _, at_zero = np.polyfit(inverse, found, 1)
  return float(at_zero), round(shares[-1] * least)


def _between(a: np.ndarray, b: np.ndarray) -> float:
  return frechet(*(Moments.of(x.reshape(-1, x.shape[-1])) for x in (a, b)))
