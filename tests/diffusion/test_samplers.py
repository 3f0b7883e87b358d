"""Samplers driven by exact denoisers: moments of Gaussian mixtures, orders of convergence, first and last steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.diffusion import samplers
from ivid.diffusion.schedule import CosineSchedule, alpha_sigma
from ivid.programs import Program
from ivid.spec.sampling import SamplerKind, SamplingSpec

SCHEDULE = CosineSchedule(-20.0, 20.0)
CAPACITY = 2049  # times a walk can hold


def make_walk(kind, denoise, *, gamma=0.0, finish=True):
  """(z, times, key) -> the end of a sampling loop along `times`; one compiled loop serves every number of steps.

  With `finish` the last step returns x_hat, as sampling does; without it the flow stops at the last time.
  """

  def run(z, times, steps, key):
    logsnr = SCHEDULE(times)

    def body(i, carry):
      x_hat = denoise(carry.z, logsnr[i])
      step = samplers.StepInputs(
        logsnr_t=logsnr[i],
        logsnr_s=logsnr[i + 1],
        logsnr_prev=logsnr[jnp.maximum(i - 1, 0)],
        logsnr_jump=logsnr[jnp.minimum(i + 2, steps)],
        w=jnp.zeros(()),
        last=(i == steps - 1) & finish,
      )
      noise = jax.random.normal(jax.random.fold_in(key, i), carry.z.shape, carry.z.dtype) if samplers.adds_noise(kind) else None
      return samplers.sampler_step(SamplingSpec(sampler=kind, gamma=gamma), carry, x_hat, step=step, noise=noise)

    state = samplers.SampleState(z, jnp.zeros_like(z) if samplers.is_multistep(kind) else None)
    return jax.lax.fori_loop(0, steps, body, state).z

  compiled = Program("walk", run).jit()

  def walk(z, times, key=None):
    padded = np.pad(times, (0, CAPACITY - len(times)), mode="edge")
    return compiled(z, padded, len(times) - 1, jax.random.key(0) if key is None else key)

  return walk


# Tolerance of each entry of mean and covariance: about three standard errors of 20,000 samples (0.0045 in the mean, 0.004 in the
# covariance) in all cases, and in the first-order samplers the step size (DDIM with 128 steps is 0.005 off in the covariance).
@pytest.mark.parametrize(
  "kind,steps,gamma,tolerance",
  [
    (SamplerKind.DDIM, 128, 0.0, 0.012),
    (SamplerKind.DPM_SOLVER_PP_2M, 32, 0.0, 0.012),
    (SamplerKind.ANCESTRAL, 128, 0.0, 0.016),
    (SamplerKind.ANCESTRAL, 128, 0.3, 0.012),
  ],
)
def test_mixture_moments(correlated_mixture, kind, steps, gamma, tolerance):
  z = jax.random.normal(jax.random.key(1), (20_000, 2))
  walk = make_walk(kind, correlated_mixture.denoise, gamma=gamma)
  sample = walk(z, samplers.time_grid(steps), jax.random.key(2))
  assert sample.dtype == jnp.float32
  np.testing.assert_allclose(np.mean(sample, axis=0), correlated_mixture.mean, atol=tolerance)
  np.testing.assert_allclose(np.cov(sample, rowvar=False), correlated_mixture.covariance, atol=tolerance)


def test_mixture_components_keep_their_shares(correlated_mixture):
  """Not only two moments: the share of samples right of a line between the components equals that of exact samples."""
  rng = np.random.default_rng(0)
  which = rng.random(20_000) < correlated_mixture.weights[0]
  draws = [rng.multivariate_normal(m, c, 20_000) for m, c in zip(correlated_mixture.means, correlated_mixture.covariances, strict=True)]
  exact = np.where(which[:, None], draws[0], draws[1])
  z = jax.random.normal(jax.random.key(1), (20_000, 2))
  sample = make_walk(SamplerKind.DPM_SOLVER_PP_2M, correlated_mixture.denoise)(z, samplers.time_grid(32))
  for line in (-0.8, -0.3, 0.3, 0.8):
    assert np.mean(np.asarray(sample)[:, 0] > line) == pytest.approx(np.mean(exact[:, 0] > line), abs=0.015)


# Against a reference of 2048 second-order steps, whose own error is below 1 / 50 of the smallest error measured.
@pytest.mark.parametrize(
  "kind,counts,lowest,highest",
  [(SamplerKind.DDIM, (32, 64, 128, 256), 0.8, 1.4), (SamplerKind.DPM_SOLVER_PP_2M, (32, 64, 128, 256), 1.7, 2.3)],
)
def test_order_of_convergence(correlated_mixture, kind, counts, lowest, highest):
  """Least-squares slope of log error against log steps, for the flow from u = 0.95 to u = 0.1 in float64."""
  with jax.enable_x64(True):
    z = jax.random.normal(jax.random.key(3), (64, 2), jnp.float64)
    reference = make_walk(SamplerKind.DPM_SOLVER_PP_2M, correlated_mixture.denoise, finish=False)(z, np.linspace(0.95, 0.1, 2049))
    walk = make_walk(kind, correlated_mixture.denoise, finish=False)
    ends = [walk(z, np.linspace(0.95, 0.1, n + 1)) for n in counts]
  errors = [np.sqrt(np.mean(np.square(np.asarray(end - reference)))) for end in ends]
  order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
  print(f"{kind.value}: order {order:.2f}, errors {errors}")
  assert lowest < order < highest


@pytest.mark.parametrize("kind,steps,tolerance", [(SamplerKind.DDIM, 2048, 2e-3), (SamplerKind.DPM_SOLVER_PP_2M, 256, 2e-3)])
def test_flow_of_one_gaussian_in_closed_form(kind, steps, tolerance):
  """For x ~ N(0, c) the flow scales: z_s = z_t sqrt((alpha_s^2 c + sigma_s^2) / (alpha_t^2 c + sigma_t^2))."""
  c = 0.2

  def denoise(z_t, logsnr):
    alpha, sigma = alpha_sigma(logsnr)
    return alpha * c * z_t / (alpha**2 * c + sigma**2)

  with jax.enable_x64(True):
    z = jnp.linspace(-2.0, 2.0, 10)[:, None]
    times = np.linspace(1.0, 0.1, steps + 1)
    end = make_walk(kind, denoise, finish=False)(z, times)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (alpha_sigma(SCHEDULE(u)) for u in (1.0, 0.1))
    exact = z * jnp.sqrt((alpha_s**2 * c + sigma_s**2) / (alpha_t**2 * c + sigma_t**2))
  np.testing.assert_allclose(end, exact, atol=tolerance)


def arrays(seed=0):
  return jax.random.normal(jax.random.key(seed), (3, 4, 3, 2, 2, 3))


def test_first_step_of_dpmpp_is_ddim():
  z_t, x_hat, x_hat_prev = arrays()[:3]
  levels = {"logsnr_t": jnp.float32(-2.0), "logsnr_s": jnp.float32(-1.0)}
  ddim = samplers.ddim_step(z_t=z_t, x_hat=x_hat, **levels)
  for prev, logsnr_prev in ((x_hat_prev, jnp.float32(-2.0)), (None, None)):
    step = samplers.dpmpp_2m_step(z_t=z_t, x_hat=x_hat, x_hat_prev=prev, logsnr_prev=logsnr_prev, **levels)
    np.testing.assert_allclose(step, ddim, atol=1e-5)
  second = samplers.dpmpp_2m_step(z_t=z_t, x_hat=x_hat, x_hat_prev=x_hat_prev, logsnr_prev=jnp.float32(-3.0), **levels)
  assert float(jnp.abs(second - ddim).max()) > 0.1


@pytest.mark.parametrize("kind", list(SamplerKind))
def test_last_returns_x_hat_and_rows_have_their_own_level(kind):
  z_t, x_hat, noise = arrays()[:3]
  logsnr_t = jnp.array([-3.0, -1.0, 0.0, 2.0])
  levels = {"logsnr_t": logsnr_t, "logsnr_s": logsnr_t + 1.0, "logsnr_prev": logsnr_t - 0.5, "logsnr_jump": logsnr_t + 1.5}

  def step(rows, last):
    inputs = samplers.StepInputs(**{name: value[rows] for name, value in levels.items()}, w=jnp.zeros(()), last=last)
    state = samplers.SampleState(z_t[rows], 0.5 * x_hat[rows])
    return samplers.sampler_step(SamplingSpec(sampler=kind, gamma=0.3), state, x_hat[rows], step=inputs, noise=noise[rows])

  whole = slice(None)
  np.testing.assert_array_equal(step(whole, jnp.array(True)).z, x_hat)
  made = step(whole, False)
  for row in range(4):
    np.testing.assert_allclose(made.z[row : row + 1], step(slice(row, row + 1), False).z, atol=1e-5)
  assert (made.x_hat is None) != samplers.is_multistep(kind)


def test_ancestral_variance_interpolates_in_log():
  z_t, noise = jnp.zeros((1, 1)), jnp.ones((1, 1))
  logsnr_t, logsnr_s = -1.0, 0.5
  rest = 1.0 - np.exp(logsnr_t - logsnr_s)
  lower, upper = rest / (1 + np.exp(logsnr_s)), rest / (1 + np.exp(logsnr_t))
  for gamma in (0.0, 0.3, 1.0):
    step = samplers.ancestral_step(z_t=z_t, x_hat=z_t, noise=noise, logsnr_t=logsnr_t, logsnr_s=logsnr_s, gamma=gamma)
    np.testing.assert_allclose(step**2, upper**gamma * lower ** (1 - gamma), rtol=1e-5)


def test_time_grid():
  np.testing.assert_allclose(samplers.time_grid(4), [1.0, 0.75, 0.5, 0.25, 0.0], atol=0)
  assert samplers.time_grid(7).dtype == np.float64
  with pytest.raises(ValueError, match="steps=0"):
    samplers.time_grid(0)


def test_going_back_up_keeps_the_forward_process():
  """z_s ~ q(z_s | x) goes to q(z_t | x): mean alpha_t x, deviation sigma_t."""
  logsnr_s, logsnr_t = SCHEDULE(jnp.array([0.3, 0.6]))
  alpha_s, sigma_s = alpha_sigma(logsnr_s)
  alpha_t, sigma_t = alpha_sigma(logsnr_t)
  eps, noise = jax.random.normal(jax.random.key(0), (2, 1, 200_000))
  z_t = samplers.forward_step(z_s=alpha_s * 0.7 + sigma_s * eps, noise=noise, logsnr_s=logsnr_s, logsnr_t=logsnr_t)
  np.testing.assert_allclose([z_t.mean(), z_t.std()], [0.7 * alpha_t, sigma_t], atol=5e-3)
