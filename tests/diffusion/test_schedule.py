"""Schedule: closed form, ends, inverse; stratified times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.diffusion.schedule import CosineSchedule, alpha_sigma, broadcast_from_left, make_schedule, normal_logsnr, stratified_u
from ivid.spec.clip import ClipShape, resolution_logsnr_shift
from ivid.spec.stage import DiffusionSpec


@pytest.mark.parametrize("shift", [0.0, -2.5])
def test_ends_formula_and_monotone(shift):
  schedule = CosineSchedule(-20.0, 20.0, shift)
  u = np.linspace(0.0, 1.0, 1001).astype(np.float32).astype(np.float64)
  logsnr = np.asarray(schedule(u))
  assert logsnr.dtype == np.float32
  b = np.arctan(np.exp(-10.0))
  a = np.arctan(np.exp(10.0)) - b
  np.testing.assert_allclose(logsnr, -2.0 * np.log(np.tan(a * u + b)) + shift, rtol=2e-6, atol=2e-6)
  np.testing.assert_allclose(logsnr[[0, -1]], [20.0 + shift, -20.0 + shift], rtol=1e-6)
  assert np.all(np.diff(logsnr) < 0)


def test_asymmetric_ends():
  np.testing.assert_allclose(CosineSchedule(-12.0, 7.0)(jnp.array([0.0, 1.0])), [7.0, -12.0], rtol=1e-6)


def test_inverse():
  schedule = CosineSchedule(-20.0, 20.0, 1.5)
  u = jnp.linspace(0.0, 1.0, 101)
  np.testing.assert_allclose(schedule.u_from_logsnr(schedule(u)), u, atol=1e-6)


def test_resolution_shift():
  size = ClipShape(frames=2, height=192, width=320, fps=6)
  assert resolution_logsnr_shift(size) == pytest.approx(2 * np.log(64 / np.sqrt(192 * 320)))
  assert resolution_logsnr_shift(ClipShape(frames=2, height=64, width=64, fps=6)) == 0.0


def test_shift_is_added_everywhere():
  plain, shifted = make_schedule(DiffusionSpec()), make_schedule(DiffusionSpec(logsnr_shift=-1.5))
  assert float(plain(0.5)) == pytest.approx(0.0, abs=1e-5) and float(shifted(0.5)) == pytest.approx(-1.5, abs=1e-5)
  np.testing.assert_allclose(shifted(jnp.asarray([0.0, 1.0])), [18.5, -21.5], rtol=1e-4)  # the ends move too
  u = jnp.linspace(0.0, 1.0, 33)
  np.testing.assert_allclose(shifted(u) - plain(u), -1.5, atol=1e-5)


def test_normal_levels():
  levels = np.asarray(normal_logsnr(jnp.linspace(0.0, 1.0, 4001)[1:-1], mean=-1.0, std=2.0))
  assert levels.mean() == pytest.approx(-1.0, abs=0.01) and levels.std() == pytest.approx(2.0, rel=0.01)
  assert np.mean(levels > 1.0) == pytest.approx(0.1587, abs=0.001)  # one deviation above
  assert (np.diff(levels) < 0).all()
  ends = normal_logsnr(stratified_u(jnp.arange(4096), 0.3), mean=0.0, std=2.0)
  assert np.isfinite(ends).all()


@pytest.mark.parametrize("shift", [float("nan"), float("-inf")])
def test_shift_that_is_no_number(shift):
  with pytest.raises(ValueError, match="diffusion.logsnr_shift=.*: expected a finite number"):
    DiffusionSpec(logsnr_shift=shift)


def test_alpha_sigma():
  logsnr = jnp.linspace(-20.0, 20.0, 81)
  alpha, sigma = alpha_sigma(logsnr)
  np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=3e-7)
  np.testing.assert_allclose(2.0 * jnp.log(alpha / sigma), logsnr, atol=1e-5)
  assert alpha_sigma(jnp.zeros(3, jnp.bfloat16))[0].dtype == jnp.float32
  np.testing.assert_allclose(alpha_sigma(np.log(3.0))[0] ** 2, 0.75, rtol=1e-6)


def test_broadcast_from_left():
  assert broadcast_from_left(jnp.ones(2), jnp.ones((2, 3, 4))).shape == (2, 1, 1)
  assert broadcast_from_left(jnp.ones(2), 5).shape == (2, 1, 1, 1, 1)
  assert broadcast_from_left(jnp.float32(1.0), jnp.ones((2, 3))).shape == ()


@pytest.mark.parametrize("start", [0, 12_345, 2**31 - 40])
@pytest.mark.parametrize("count", [16, 24, 33])
def test_stratified_gaps(start, count):
  """By the three-gap theorem, n golden-ratio points leave no gap above (golden ratio + 1) / n."""
  u = np.sort(np.asarray(stratified_u(jnp.arange(start, start + count, dtype=jnp.int32), 0.37)))
  gaps = np.diff(np.append(u, u[0] + 1.0))
  assert gaps.max() <= 2.619 / count
  assert gaps.min() >= 0.38 / count


def test_stratified_does_not_depend_on_the_split():
  index = jnp.arange(1000, 1024, dtype=jnp.int32)
  whole = stratified_u(index, 0.2)
  parts = jnp.concatenate([stratified_u(index[:5], 0.2), stratified_u(index[5:17], 0.2), stratified_u(index[17:], 0.2)])
  np.testing.assert_array_equal(whole, parts)
  np.testing.assert_array_equal(whole[::-1], stratified_u(index[::-1], 0.2))


def test_stratified_is_exact_at_large_indices():
  index = np.array([0, 1, 7, 2**30 + 5, 2**31 - 1], np.int64)
  exact = np.array([int(i) * 2654435769 % 2**32 / 2**32 for i in index])
  np.testing.assert_allclose(stratified_u(jnp.asarray(index, jnp.int32), 0.0)[1:], exact[1:], atol=1e-6)


def test_stratified_stays_inside_and_wraps():
  u = stratified_u(jnp.zeros(3, jnp.int32), jnp.float32(0.0))
  assert np.all(np.asarray(u) == np.float32(1e-5))
  u = np.asarray(stratified_u(jnp.arange(4096, dtype=jnp.int32), jnp.float32(1.0 - 2**-24)))
  assert u.min() >= np.float32(1e-5) and u.max() <= 1.0 - 1e-5
  assert abs(u.mean() - 0.5) < 1e-3


def test_float64_stays_float64():
  with jax.enable_x64(True):
    assert CosineSchedule(-20.0, 20.0)(np.float64(0.3)).dtype == jnp.float64
