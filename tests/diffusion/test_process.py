"""Process: round trips of the conversions, and the posterior against the joint Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.diffusion import process
from ivid.diffusion.schedule import alpha_sigma
from ivid.spec.stage import Prediction

SHAPE = (4, 2, 3, 3, 1)


@pytest.fixture
def clip():
  keys = jax.random.split(jax.random.key(0), 2)
  x, eps = jax.random.normal(keys[0], SHAPE), jax.random.normal(keys[1], SHAPE)
  logsnr = jnp.array([-4.0, -0.5, 1.0, 5.0])
  return x, eps, logsnr, process.q_sample(x=x, eps=eps, logsnr=logsnr)


def test_q_sample_row_by_row(clip):
  x, eps, logsnr, z_t = clip
  for row in range(4):
    snr = np.exp(float(logsnr[row]))
    expected = np.sqrt(snr / (1 + snr)) * x[row] + np.sqrt(1 / (1 + snr)) * eps[row]
    np.testing.assert_allclose(z_t[row], expected, atol=1e-6)


def test_conversions_round_trip(clip):
  x, eps, logsnr, z_t = clip
  v = process.v_from_x_eps(x=x, eps=eps, logsnr=logsnr)
  level = {"z_t": z_t, "logsnr_t": logsnr}
  close = {"rtol": 1e-4, "atol": 1e-4}
  np.testing.assert_allclose(process.x_from_v(v=v, **level), x, **close)
  np.testing.assert_allclose(process.eps_from_v(v=v, **level), eps, **close)
  np.testing.assert_allclose(process.x_from_eps(eps=eps, **level), x, **close)
  np.testing.assert_allclose(process.eps_from_x(x=x, **level), eps, **close)
  np.testing.assert_allclose(process.v_from_x(x=x, **level), v, **close)
  np.testing.assert_allclose(process.v_from_eps(eps=eps, **level), v, **close)
  for kind, prediction in ((Prediction.X, x), (Prediction.EPS, eps), (Prediction.V, v)):
    np.testing.assert_allclose(process.x_from_prediction(kind, prediction=prediction, **level), x, **close)
    np.testing.assert_allclose(process.v_from_prediction(kind, prediction=prediction, **level), v, **close)


def test_v_is_accurate_at_both_ends():
  x, eps = jnp.full((2, 3), 0.3), jnp.full((2, 3), -0.8)
  logsnr = jnp.array([-20.0, 20.0])
  z_t = process.q_sample(x=x, eps=eps, logsnr=logsnr)
  v = process.v_from_x_eps(x=x, eps=eps, logsnr=logsnr)
  np.testing.assert_allclose(process.x_from_v(z_t=z_t, v=v, logsnr_t=logsnr), x, atol=1e-6)
  np.testing.assert_allclose(process.eps_from_v(z_t=z_t, v=v, logsnr_t=logsnr), eps, atol=1e-6)


@pytest.mark.parametrize("logsnr_t,logsnr_s", [(-3.0, 0.5), (0.0, 0.3), (1.0, 6.0)])
def test_posterior_is_bayes_rule(logsnr_t, logsnr_s):
  """q(z_s | x) q(z_t | z_s), multiplied and normalised on a fine grid of z_s, has the mean and variance of `posterior`."""
  with jax.enable_x64(True):
    x, z_t = 0.4, -0.9
    alpha_s, sigma_s = (float(a) for a in alpha_sigma(logsnr_s))
    alpha_t, sigma_t = (float(a) for a in alpha_sigma(logsnr_t))
    forward = alpha_t / alpha_s
    forward_variance = sigma_t**2 - forward**2 * sigma_s**2
    grid = np.linspace(-12.0, 12.0, 200_001)
    log_density = -0.5 * ((grid - alpha_s * x) / sigma_s) ** 2 - 0.5 * (z_t - forward * grid) ** 2 / forward_variance
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = (density * grid).sum()
    variance = (density * (grid - mean) ** 2).sum()
    got_mean, got_variance = process.posterior(z_t=jnp.array([z_t]), x=jnp.array([x]), logsnr_t=logsnr_t, logsnr_s=logsnr_s)
    np.testing.assert_allclose(got_mean, mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(got_variance, variance, rtol=1e-6)


def test_posterior_takes_a_level_per_row(clip):
  x, _, logsnr, z_t = clip
  mean, variance = process.posterior(z_t=z_t, x=x, logsnr_t=logsnr, logsnr_s=logsnr + 1.0)
  assert mean.shape == SHAPE and variance.shape == (4, 1, 1, 1, 1)
  one_mean, one_variance = process.posterior(z_t=z_t[2:3], x=x[2:3], logsnr_t=logsnr[2], logsnr_s=logsnr[2] + 1.0)
  np.testing.assert_allclose(mean[2:3], one_mean, rtol=1e-6)
  np.testing.assert_allclose(variance[2].ravel()[0], one_variance, rtol=1e-6)


def test_small_steps_keep_their_variance():
  """For logsnr_s - logsnr_t = d << 1 the variance is d sigma_s^2 to first order; 1 - exp(-d) in float32 would lose half the digits."""
  gap = 2.0**-14
  _, variance = process.posterior(z_t=jnp.zeros(1), x=jnp.zeros(1), logsnr_t=1.0 - gap, logsnr_s=1.0)
  expected = -np.expm1(-gap) / (1 + np.exp(1.0))
  np.testing.assert_allclose(variance, expected, rtol=1e-6)
