"""The Frechet distance: scipy's square root, closed forms, parts merged, and what is said of infinitely many samples."""

import warnings

import numpy as np
import pytest
import scipy.linalg

from ivid.evaluate.frechet import Moments, frechet, measure, merged
from ivid.spec.errors import UserError


def features(n, d, *, seed=0, scale=1.0, shift=0.0):
  rng = np.random.default_rng(seed)
  mix = rng.standard_normal((d, d)) / np.sqrt(d)
  return (scale * np.random.default_rng(seed + 1000).standard_normal((n, d)) @ mix + shift).astype(np.float32)


def exactly(mean, covariance, count=1000):
  return Moments(count, np.asarray(mean, float), np.asarray(covariance, float) * (count - 1))


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 12), (100, 900, 40)])
def test_is_what_scipys_square_root_gives(n, m, d):
  a, b = features(n, d), features(m, d, seed=3, scale=1.7, shift=0.3)
  covariances = [np.cov(x.astype(np.float64), rowvar=False) for x in (a, b)]
  means = [x.astype(np.float64).mean(0) for x in (a, b)]
  root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
  want = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
  assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(want, rel=1e-9)


def test_closed_forms():
  # One dimension: (m - n)^2 + (s - t)^2. Covariances that commute: the same along each axis.
  assert frechet(exactly([1.0], [[4.0]]), exactly([3.5], [[9.0]])) == pytest.approx(2.5**2 + 1, rel=1e-12)
  turn = scipy.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
  a = exactly([0, 0, 0], turn @ np.diag([1.0, 4.0, 0.0]) @ turn.T)
  b = exactly(turn @ [1, 2, 2], turn @ np.diag([9.0, 1.0, 25.0]) @ turn.T)
  assert frechet(a, b) == pytest.approx(9 + 4 + 1 + 25, rel=1e-9)
  # Rank one each: tr (C D)^(1/2) is |u v|.
  u, v = np.array([1.0, 2.0, 0.0]), np.array([3.0, -1.0, 1.0])
  assert frechet(exactly([0] * 3, np.outer(u, u)), exactly([0] * 3, np.outer(v, v))) == pytest.approx(5 + 11 - 2 * abs(u @ v), rel=1e-9)


def test_fewer_samples_than_dimensions():
  """Against the same on the samples' own span, where the covariances are whole; and scipy's root, which has no such span, is no help."""
  a, b = features(20, 100), features(30, 100, seed=5, shift=0.1)
  span = scipy.linalg.orth(np.concatenate([a, b]).T.astype(np.float64))
  small = [x.astype(np.float64) @ span for x in (a, b)]
  centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in small]
  root = np.linalg.norm(centred[0] @ centred[1].T, "nuc")
  want = np.square(small[0].mean(0) - small[1].mean(0)).sum() + sum(np.square(x).sum() for x in centred) - 2 * root
  assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("n", [20, 500])
def test_a_set_with_itself_is_zero(n):
  moments = Moments.of(100 * features(n, 60))
  assert 0 <= frechet(moments, moments) < 1e-9 * np.trace(moments.covariance)


@pytest.mark.parametrize("parts", [1, 3, 5])
def test_parts_merge_to_the_whole(parts):
  x, other = features(997, 30, shift=50.0), Moments.of(features(300, 30, seed=9))
  whole, made = Moments.of(x), merged(Moments.of(x[n::parts]) for n in range(parts))
  assert made.count == 997
  np.testing.assert_allclose(made.mean, whole.mean, rtol=1e-13)
  np.testing.assert_allclose(made.scatter, whole.scatter, rtol=0, atol=1e-12 * np.abs(whole.scatter).max())
  assert frechet(made, other) == pytest.approx(frechet(whole, other), rel=1e-11)


def test_infinitely_many_samples():
  """Sets of one distribution: what is measured is the samples' number alone, and the line takes most of that away."""
  found = [measure(*(np.random.default_rng([seed, k]).standard_normal((400, 1, 10)) for k in (0, 1)), bootstrap=20) for seed in range(8)]
  values, infinite = (np.mean([getattr(one, name) for one in found]) for name in ("value", "infinite"))
  assert values > 0.05 and abs(infinite) < values / 8
  assert all(one.linear for one in found)
  # A true distance stays: 4 from the means.
  far = [
    measure(*(np.random.default_rng([s, k]).standard_normal((400, 1, 10)) + k * np.sqrt(0.4) for k in (0, 1)), bootstrap=0)
    for s in range(8)
  ]
  assert np.mean([one.infinite for one in far]) == pytest.approx(4, abs=0.15)


def test_the_interval_covers_what_other_sets_give():
  def sets(seed):
    return [np.random.default_rng([seed, k]).standard_normal((100, 1, 4)) + k for k in (0, 1)]

  others = np.array([measure(*sets(seed), bootstrap=0).value for seed in range(200)])
  found = [measure(*sets(seed), bootstrap=60) for seed in range(300, 312)]
  covered = [np.mean((one.low < others.mean()) & (others.mean() < one.high)) for one in found]
  assert np.mean(covered) > 0.7
  width = np.quantile(others, 0.975) - np.quantile(others, 0.025)
  assert 0.7 < np.mean([one.high - one.low for one in found]) / width < 1.4


def test_too_few_samples_for_a_line_are_said():
  a, b = features(30, 16), features(30, 16, seed=4)
  assert not measure(a[:, None], b[:, None], bootstrap=2).linear  # 8 clips in the smallest subset


def test_bad_features():
  with pytest.raises(UserError, match="the covariance of 1 samples: expected 2 or more"):
    frechet(Moments.of(np.ones((1, 3))), Moments.of(np.ones((5, 3))))
  broken = features(5, 3)
  broken[2, 1] = np.nan
  with pytest.raises(UserError, match="1 of 5 features have a value that is no number"), warnings.catch_warnings():
    warnings.simplefilter("error")
    Moments.of(broken)
