"""Targets of progressive distillation against exact DDIM steps, and a small student that learns them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivid.diffusion import distill, samplers
from ivid.diffusion.process import q_sample
from ivid.diffusion.schedule import CosineSchedule, alpha_sigma, broadcast_from_left

SCHEDULE = CosineSchedule(-20.0, 20.0)


@pytest.fixture
def x64():
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", False)


def row_by_row(mixture):
  """The mixture's denoiser with a level for each row."""
  one = lambda z, level: mixture.denoise(z[None], level)[0]  # noqa: E731
  return lambda z, level: jax.vmap(one)(z, jnp.broadcast_to(level, z.shape[:1]))


def two_ddim_steps(denoise, z_t, times):
  """Where two steps of the sampler arrive, each with its own rounding."""
  z = z_t
  for t, s in ((times.t, times.mid), (times.mid, times.s)):
    x_hat = denoise(z, SCHEDULE(t))
    stepped = samplers.ddim_step(z_t=z, x_hat=x_hat, logsnr_t=SCHEDULE(t), logsnr_s=SCHEDULE(s))
    z = jnp.where((t == s)[:, None], z, jnp.where((s == 0.0)[:, None], x_hat, stepped))
  return z


@pytest.mark.parametrize("jump", [1, 2])
@pytest.mark.parametrize("steps", [1024, 8, 1])
def test_one_step_to_the_target_is_two_of_the_teachers(x64, correlated_mixture, steps, jump):
  if jump > steps:
    pytest.skip("a jump of two steps where there is one")
  u = (jnp.arange(16) + 0.5) / 16 if steps > 8 else (jnp.arange(steps) + 0.5) / steps
  times = distill.jump_times(u.astype(jnp.float64), steps, jump=jump)
  denoise = row_by_row(correlated_mixture)
  z_t = jax.random.normal(jax.random.key(0), (len(u), 2), jnp.float64)
  levels = dict(logsnr_t=SCHEDULE(times.t), logsnr_mid=SCHEDULE(times.mid), logsnr_s=SCHEDULE(times.s))
  target = distill.two_step_target(denoise, z_t=z_t, ends=times.s == 0.0, **levels)
  arrived = samplers.ddim_step(z_t=z_t, x_hat=target, logsnr_t=levels["logsnr_t"], logsnr_s=levels["logsnr_s"])
  arrived = jnp.where((times.s == 0.0)[:, None], target, arrived)
  np.testing.assert_allclose(arrived, two_ddim_steps(denoise, z_t, times), rtol=0, atol=1e-10)


def test_target_is_the_papers_quotient(x64, correlated_mixture):
  """x = (z_s - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t) alpha_t), as the paper writes it."""
  times = distill.jump_times(jnp.asarray([0.3, 0.6, 0.9], jnp.float64), 16, jump=1)
  denoise = row_by_row(correlated_mixture)
  z_t = jax.random.normal(jax.random.key(1), (3, 2), jnp.float64)
  levels = [SCHEDULE(time) for time in times]
  target = distill.two_step_target(denoise, z_t=z_t, logsnr_t=levels[0], logsnr_mid=levels[1], logsnr_s=levels[2], ends=times.s == 0.0)
  (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(levels[0]), alpha_sigma(levels[2])
  ratio = (sigma_s / sigma_t)[:, None]
  z_s = two_ddim_steps(denoise, z_t, times)
  np.testing.assert_allclose(target, (z_s - ratio * z_t) / (alpha_s[:, None] - ratio * alpha_t[:, None]), atol=1e-10)


def test_jumps_are_the_grids():
  u = jnp.asarray([0.0, 0.3, 0.6, 0.99])
  ddim = distill.jump_times(u, 4, jump=1)
  np.testing.assert_allclose(ddim, [[0.25, 0.5, 0.75, 1.0], [0.125, 0.375, 0.625, 0.875], [0.0, 0.25, 0.5, 0.75]])
  stochastic = distill.jump_times(u, 4, jump=2)
  np.testing.assert_allclose(stochastic, [[0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.5, 0.75], [0.0, 0.0, 0.25, 0.5]])


def test_from_the_last_odd_place_there_is_but_one_step(correlated_mixture):
  times = distill.jump_times(jnp.asarray([0.01]), 8, jump=2)
  denoise = row_by_row(correlated_mixture)
  z_t = jnp.asarray([[0.4, -0.3]])
  levels = dict(logsnr_t=SCHEDULE(times.t), logsnr_mid=SCHEDULE(times.mid), logsnr_s=SCHEDULE(times.s))
  target = distill.two_step_target(denoise, z_t=z_t, ends=times.s == 0.0, **levels)
  np.testing.assert_allclose(target, denoise(z_t, SCHEDULE(times.t)), atol=1e-6)


def test_a_student_learns_two_steps_of_its_teacher(correlated_mixture):
  """A network of two layers, with the level as input, trained on the targets alone, arrives where the teacher's two steps do."""
  steps, rows = 4, 512
  teacher = row_by_row(correlated_mixture)

  def init(key):
    a, b, c = jax.random.split(key, 3)
    return {
      "in": jax.random.normal(a, (2 + steps, 64)) * 0.5,
      "mid": jax.random.normal(b, (64, 64)) / 8,
      "out": jax.random.normal(c, (64, 2)) * 0.01,
    }

  def student(params, z, t):
    place = jax.nn.one_hot(jnp.round(t * steps).astype(jnp.int32) - 1, steps)
    h = jnp.tanh(jnp.concatenate([z, place], 1) @ params["in"])
    return jnp.tanh(h @ params["mid"]) @ params["out"]

  def draw(key):
    parts = jax.random.split(key, 4)
    component = jax.random.bernoulli(parts[0], 0.7, (rows,)).astype(jnp.int32)
    roots = jnp.asarray(np.linalg.cholesky(correlated_mixture.covariances), jnp.float32)
    x = jnp.asarray(correlated_mixture.means, jnp.float32)[component]
    x = x + jnp.einsum("bij,bj->bi", roots[component], jax.random.normal(parts[1], (rows, 2)))
    times = distill.jump_times(jax.random.uniform(parts[2], (rows,)), steps, jump=1)
    return times, q_sample(x=x, eps=jax.random.normal(parts[3], (rows, 2)), logsnr=SCHEDULE(times.t))

  def loss(params, key):
    times, z_t = draw(key)
    levels = dict(logsnr_t=SCHEDULE(times.t), logsnr_mid=SCHEDULE(times.mid), logsnr_s=SCHEDULE(times.s))
    target = distill.two_step_target(teacher, z_t=z_t, ends=times.s == 0.0, **levels)
    return jnp.mean(jnp.square(student(params, z_t, times.t) - target))

  optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 1500))

  @jax.jit
  def train(params, key):
    def update(carry, i):
      params, state = carry
      grads = jax.grad(loss)(params, jax.random.fold_in(key, i))
      changes, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, changes), state), None

    return jax.lax.scan(update, (params, optimizer.init(params)), jnp.arange(1500))[0][0]

  start = init(jax.random.key(0))
  params = train(start, jax.random.key(1))
  times, z_t = draw(jax.random.key(2))
  inner = times.s > 0.0
  reached = samplers.ddim_step(z_t=z_t, x_hat=student(params, z_t, times.t), logsnr_t=SCHEDULE(times.t), logsnr_s=SCHEDULE(times.s))
  wanted = two_ddim_steps(teacher, z_t, times)
  error = jnp.sqrt(jnp.mean(jnp.square(jnp.where(inner[:, None], reached - wanted, 0.0))))
  far = samplers.ddim_step(z_t=z_t, x_hat=student(start, z_t, times.t), logsnr_t=SCHEDULE(times.t), logsnr_s=SCHEDULE(times.s))
  untrained = jnp.sqrt(jnp.mean(jnp.square(jnp.where(inner[:, None], far - wanted, 0.0))))
  assert error < 0.005 < untrained / 10, (error, untrained)


@pytest.mark.parametrize(("i", "steps"), [(8, 8), (5, 8), (2, 8)])
def test_stochastic_step_keeps_the_marginal(x64, i, steps):
  """From z_t of a known x the step's mean and variance are those of q(z_s | x), whatever the jump."""
  t, s, jump = (SCHEDULE(jnp.float64(max(k, 0) / steps)) for k in (i, i - 1, i - 2))
  x = jnp.asarray([[0.3, -0.8]])

  def step(eps, noise):
    z_t = q_sample(x=x, eps=eps, logsnr=t)
    return samplers.stochastic_step(z_t=z_t, x_hat=x, noise=noise, logsnr_t=t, logsnr_jump=jump, logsnr_s=s)

  zero, one = jnp.zeros_like(x), jnp.ones_like(x)
  mean = step(zero, zero)
  variance = jnp.square(step(one, zero) - mean) + jnp.square(step(zero, one) - mean)
  alpha_s, sigma_s = alpha_sigma(s)
  np.testing.assert_allclose(mean, broadcast_from_left(alpha_s, x) * x, atol=1e-12)
  np.testing.assert_allclose(variance, np.full(x.shape, sigma_s**2), atol=1e-12)
