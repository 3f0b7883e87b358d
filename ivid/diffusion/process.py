"""The forward process z_t = alpha_t x + sigma_t eps, its posterior, and conversions between x, eps and v = alpha_t eps - sigma_t x.

Progressive Distillation, section 2 and appendix D. Clips are [B, ...] float32; logsnr is [B] or scalar and scales whole rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ivid.diffusion.schedule import alpha_sigma, as_float, broadcast_from_left
from ivid.spec.stage import Prediction


def q_sample(*, x: jax.Array, eps: jax.Array, logsnr: jax.Array) -> jax.Array:
  """z ~ q(z | x) = N(alpha x, sigma^2), from standard normal `eps`."""
  alpha, sigma = _levels(logsnr, x)
  return alpha * x + sigma * eps


def x_from_v(*, z_t: jax.Array, v: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """x = alpha z - sigma v."""
  alpha, sigma = _levels(logsnr_t, z_t)
  return alpha * z_t - sigma * v


def eps_from_v(*, z_t: jax.Array, v: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """eps = sigma z + alpha v."""
  alpha, sigma = _levels(logsnr_t, z_t)
  return sigma * z_t + alpha * v


def x_from_eps(*, z_t: jax.Array, eps: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """x = (z - sigma eps) / alpha; ill-conditioned as alpha -> 0."""
  alpha, sigma = _levels(logsnr_t, z_t)
  return (z_t - sigma * eps) / alpha


def eps_from_x(*, z_t: jax.Array, x: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """eps = (z - alpha x) / sigma; ill-conditioned as sigma -> 0."""
  alpha, sigma = _levels(logsnr_t, z_t)
  return (z_t - alpha * x) / sigma


def v_from_x(*, z_t: jax.Array, x: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """v = (alpha z - x) / sigma; ill-conditioned as sigma -> 0."""
  alpha, sigma = _levels(logsnr_t, z_t)
  return (alpha * z_t - x) / sigma


def v_from_eps(*, z_t: jax.Array, eps: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """v = (eps - sigma z) / alpha; ill-conditioned as alpha -> 0."""
  alpha, sigma = _levels(logsnr_t, z_t)
  return (eps - sigma * z_t) / alpha


def v_from_x_eps(*, x: jax.Array, eps: jax.Array, logsnr: jax.Array) -> jax.Array:
  """v = alpha eps - sigma x, by definition: well-conditioned everywhere."""
  alpha, sigma = _levels(logsnr, x)
  return alpha * eps - sigma * x


def x_from_prediction(kind: Prediction, *, z_t: jax.Array, prediction: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """x_hat of a network whose output `prediction` is of that kind."""
  match kind:
    case Prediction.X:
      return prediction
    case Prediction.EPS:
      return x_from_eps(z_t=z_t, eps=prediction, logsnr_t=logsnr_t)
    case Prediction.V:
      return x_from_v(z_t=z_t, v=prediction, logsnr_t=logsnr_t)


def v_from_prediction(kind: Prediction, *, z_t: jax.Array, prediction: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """v_hat of a network whose output `prediction` is of that kind."""
  match kind:
    case Prediction.X:
      return v_from_x(z_t=z_t, x=prediction, logsnr_t=logsnr_t)
    case Prediction.EPS:
      return v_from_eps(z_t=z_t, eps=prediction, logsnr_t=logsnr_t)
    case Prediction.V:
      return prediction


def posterior(*, z_t: jax.Array, x: jax.Array, logsnr_t: jax.Array, logsnr_s: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and variance of q(z_s | z_t, x) for s < t, that is logsnr_s >= logsnr_t (Imagen Video, section 2.1).

  With r = exp(logsnr_t - logsnr_s): mean = r (alpha_s / alpha_t) z_t + (1 - r) alpha_s x, variance = (1 - r) sigma_s^2.

  Returns:
    mean of z_t's shape; variance broadcastable to it.
  """
  logsnr_t, logsnr_s = as_float(logsnr_t), as_float(logsnr_s)
  ratio, rest = jnp.exp(logsnr_t - logsnr_s), -jnp.expm1(logsnr_t - logsnr_s)
  alpha_s, sigma_s = alpha_sigma(logsnr_s)
  alpha_t, _ = alpha_sigma(logsnr_t)
  from_z, from_x = broadcast_from_left(ratio * alpha_s / alpha_t, z_t), broadcast_from_left(rest * alpha_s, z_t)
  return from_z * z_t + from_x * x, broadcast_from_left(rest * jnp.square(sigma_s), z_t)


def _levels(logsnr: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
  """alpha and sigma, ready to scale the rows of `like`."""
  alpha, sigma = alpha_sigma(logsnr)
  return broadcast_from_left(alpha, like), broadcast_from_left(sigma, like)
