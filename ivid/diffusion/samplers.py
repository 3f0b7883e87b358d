"""Single steps of the samplers, z_t -> z_s with s < t, and the time grid they walk.

Clips are [B, ...] float32, levels are [B] or scalar. Steps follow Imagen Video, section 2.1 (ancestral, DDIM) and DPM-Solver++(2M),
arXiv 2211.01095, algorithm 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ivid.diffusion.process import posterior
from ivid.diffusion.schedule import alpha_sigma, as_float, broadcast_from_left
from ivid.spec.errors import UserError
from ivid.spec.stage import SamplerKind


def time_grid(steps: int) -> np.ndarray:
  """[steps + 1] float64 times from 1 to 0, uniform in u for every sampler, DPM-Solver++ too.

  DPM-Solver++ measures its step sizes in logsnr, so it takes this grid as it comes; a grid uniform in logsnr would spend most steps
  near the ends of the schedule, where nothing happens.

  Raises:
    UserError: fewer than one step.
  """
  if steps < 1:
    raise UserError(f"steps={steps}: expected 1 or more")
  return np.linspace(1.0, 0.0, steps + 1)


def ddim_step(*, z_t: jax.Array, x_hat: jax.Array, logsnr_t: jax.Array, logsnr_s: jax.Array) -> jax.Array:
  """z_s = alpha_s x_hat + sigma_s eps_hat (DDIM, 2010.02502), with eps_hat = (z_t - alpha_t x_hat) / sigma_t.

  The quotient sigma_s / sigma_t <= 1 is formed first: eps_hat itself would lose precision where sigma_t is small.
  """
  alpha_t, sigma_t = alpha_sigma(logsnr_t)
  alpha_s, sigma_s = alpha_sigma(logsnr_s)
  ratio = sigma_s / sigma_t
  return broadcast_from_left(ratio, z_t) * z_t + broadcast_from_left(alpha_s - ratio * alpha_t, z_t) * x_hat


def ancestral_step(
  *, z_t: jax.Array, x_hat: jax.Array, noise: jax.Array, logsnr_t: jax.Array, logsnr_s: jax.Array, gamma: float
) -> jax.Array:
  """z_s ~ N(mean of q(z_s | z_t, x_hat), exp(gamma log(upper) + (1 - gamma) log(lower))), from standard normal `noise`.

  lower = (1 - exp(logsnr_t - logsnr_s)) sigma_s^2 and upper = (1 - exp(logsnr_t - logsnr_s)) sigma_t^2; gamma in [0, 1].
  """
  mean, lower = posterior(z_t=z_t, x=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
  # upper / lower = (sigma_t / sigma_s)^2, so the deviation is that of the lower variance times (sigma_t / sigma_s)^gamma.
  log_ratio = jax.nn.log_sigmoid(-as_float(logsnr_t)) - jax.nn.log_sigmoid(-as_float(logsnr_s))
  widen = broadcast_from_left(jnp.exp(0.5 * gamma * log_ratio), z_t)
  return mean + jnp.sqrt(lower) * widen * noise


def dpmpp_2m_step(
  *,
  z_t: jax.Array,
  x_hat: jax.Array,
  x_hat_prev: jax.Array | None,
  logsnr_t: jax.Array,
  logsnr_s: jax.Array,
  logsnr_prev: jax.Array | None,
) -> jax.Array:
  """z_s = (sigma_s / sigma_t) z_t - alpha_s expm1(-h) d, the second-order multistep step.

  With lambda = logsnr / 2, h = lambda_s - lambda_t and h_prev = lambda_t - lambda_prev, d extrapolates x_hat linearly in lambda to the
  middle of the step: d = x_hat + h / (2 h_prev) (x_hat - x_hat_prev).

  Args:
    x_hat_prev: x_hat of the step before, at level logsnr_prev; on the first step any finite array, or None.
    logsnr_prev: on the first step equal to logsnr_t (may be traced), or None: d = x_hat, which is DDIM.
  """
  logsnr_t, logsnr_s = as_float(logsnr_t), as_float(logsnr_s)
  _, sigma_t = alpha_sigma(logsnr_t)
  alpha_s, sigma_s = alpha_sigma(logsnr_s)
  d = x_hat
  if logsnr_prev is not None and x_hat_prev is not None:
    gap = logsnr_t - as_float(logsnr_prev)
    slope = jnp.where(gap > 0.0, 0.5 * (logsnr_s - logsnr_t) / jnp.where(gap > 0.0, gap, 1.0), 0.0)
    d = x_hat + broadcast_from_left(slope, z_t) * (x_hat - x_hat_prev)
  from_x = -alpha_s * jnp.expm1(-0.5 * (logsnr_s - logsnr_t))
  return broadcast_from_left(sigma_s / sigma_t, z_t) * z_t + broadcast_from_left(from_x, z_t) * d


def stochastic_step(
  *, z_t: jax.Array, x_hat: jax.Array, noise: jax.Array, logsnr_t: jax.Array, logsnr_jump: jax.Array, logsnr_s: jax.Array
) -> jax.Array:
  """A DDIM step from t to `jump`, beyond s, then back up to s by the forward process: the sampler of distilled stages (section 2.7).

  q(z_s | z_jump) = N((alpha_s / alpha_jump) z_jump, (1 - exp(logsnr_s - logsnr_jump)) sigma_s^2), logsnr_jump >= logsnr_s >= logsnr_t.
  """
  z_jump = ddim_step(z_t=z_t, x_hat=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_jump)
  alpha_jump, _ = alpha_sigma(logsnr_jump)
  alpha_s, sigma_s = alpha_sigma(logsnr_s)
  deviation = sigma_s * jnp.sqrt(-jnp.expm1(as_float(logsnr_s) - as_float(logsnr_jump)))
  return broadcast_from_left(alpha_s / alpha_jump, z_t) * z_jump + broadcast_from_left(deviation, z_t) * noise


def adds_noise(kind: SamplerKind) -> bool:
  """Whether a step reads fresh noise."""
  return kind in (SamplerKind.ANCESTRAL, SamplerKind.STOCHASTIC)


def is_multistep(kind: SamplerKind) -> bool:
  """Whether a step reads the x_hat of the step before."""
  return kind is SamplerKind.DPM_SOLVER_PP_2M


def sampler_step(
  kind: SamplerKind,
  *,
  z_t: jax.Array,
  x_hat: jax.Array,
  x_hat_prev: jax.Array | None,
  noise: jax.Array | None,
  logsnr_t: jax.Array,
  logsnr_s: jax.Array,
  logsnr_prev: jax.Array | None,
  logsnr_jump: jax.Array | None,
  gamma: float,
  last: jax.Array | bool,
) -> jax.Array:
  """One step of the sampler `kind` (static); where `last` (scalar bool, may be traced) the result is x_hat, the limit s = 0.

  x_hat_prev and logsnr_prev are read by DPM-Solver++ alone, gamma by the ancestral sampler alone, logsnr_jump by the stochastic one alone,
  noise by these two.
  """
  match kind:
    case SamplerKind.DDIM:
      z_s = ddim_step(z_t=z_t, x_hat=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
    case SamplerKind.ANCESTRAL:
      z_s = ancestral_step(z_t=z_t, x_hat=x_hat, noise=noise, logsnr_t=logsnr_t, logsnr_s=logsnr_s, gamma=gamma)
    case SamplerKind.DPM_SOLVER_PP_2M:
      z_s = dpmpp_2m_step(z_t=z_t, x_hat=x_hat, x_hat_prev=x_hat_prev, logsnr_t=logsnr_t, logsnr_s=logsnr_s, logsnr_prev=logsnr_prev)
    case SamplerKind.STOCHASTIC:
      z_s = stochastic_step(z_t=z_t, x_hat=x_hat, noise=noise, logsnr_t=logsnr_t, logsnr_jump=logsnr_jump, logsnr_s=logsnr_s)
  return jnp.where(last, x_hat.astype(z_s.dtype), z_s)
