"""Training losses: a weight on the squared error of x, evaluated in the space of the network's output.

Progressive Distillation, section 4. Levels are [B] or scalar, losses [B].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ivid.diffusion.process import eps_from_x, v_from_x, v_from_x_eps
from ivid.diffusion.schedule import alpha_sigma, as_float
from ivid.spec.stage import LossWeight, Prediction

MIN_SNR_CAP = 5.0  # Min-SNR, arXiv 2303.09556


def x_weight(kind: LossWeight, *, prediction: Prediction, logsnr: jax.Array, sigma_floor: float) -> jax.Array:
  """Weight on the squared error of x, of logsnr's shape, with SNR = alpha^2 / sigma^2 and SNR + 1 = 1 / sigma^2.

  For an x output, sigma in these denominators is at least sigma_floor, because the error of x does not vanish with sigma.
  """
  alpha, sigma = alpha_sigma(logsnr)
  if prediction is Prediction.X:
    sigma = jnp.maximum(sigma, sigma_floor)
  snr = jnp.square(alpha / sigma)
  match kind:
    case LossWeight.X:
      return jnp.ones_like(snr)
    case LossWeight.EPS:
      return snr
    case LossWeight.V:
      return 1.0 / jnp.square(sigma)
    case LossWeight.TRUNCATED_SNR:
      return jnp.maximum(snr, 1.0)
    case LossWeight.MIN_SNR:
      return jnp.minimum(snr, MIN_SNR_CAP)


def weighted_loss(
  *,
  kind: LossWeight,
  prediction: Prediction,
  output: jax.Array,
  x: jax.Array,
  eps: jax.Array | None,
  z_t: jax.Array,
  logsnr: jax.Array,
  sigma_floor: float,
  asked: jax.Array | None = None,
) -> jax.Array:
  """x_weight times the squared error of x, mean over all axes but the batch's: [B] float32.

  The error is that between `output` and a target of the same kind, with the weight adjusted: the squared error of x is sigma^2 times that
  of v, and 1 / SNR times that of eps. Converting the output to x first would subtract nearly equal numbers.

  Args:
    output: [B, ...] the network's output, of kind `prediction`.
    x: [B, ...] the target.
    eps: [B, ...] noise with z_t = alpha x + sigma eps; None if only x and z_t are known (distillation), from which it then follows.
    logsnr: [B] level of z_t.
    asked: [B, T] bool, the frames that the mean includes; None: all.
  """
  weight = x_weight(kind, prediction=prediction, logsnr=logsnr, sigma_floor=sigma_floor)
  match prediction:
    case Prediction.X:
      target = x
    case Prediction.V:
      target = v_from_x(z_t=z_t, x=x, logsnr_t=logsnr) if eps is None else v_from_x_eps(x=x, eps=eps, logsnr=logsnr)
      weight = weight * jax.nn.sigmoid(-as_float(logsnr))
    case Prediction.EPS:
      target = eps_from_x(z_t=z_t, x=x, logsnr_t=logsnr) if eps is None else eps
      weight = weight * jnp.exp(-as_float(logsnr))
  error = jnp.square(as_float(output) - as_float(target))
  if asked is None:
    return weight * jnp.mean(error, axis=tuple(range(1, error.ndim)))
  per_place = jnp.mean(error, axis=tuple(range(2, error.ndim)))
  return weight * jnp.sum(per_place * asked, axis=1) / jnp.maximum(jnp.sum(asked, axis=1), 1)


def logsnr_buckets(*, loss: jax.Array, level: jax.Array, low: float, high: float, buckets: int) -> tuple[jax.Array, jax.Array]:
  """Sum and count of per-example losses in `buckets` equal intervals of [low, high]; their quotient is the mean loss by noise level.

  Unlike means, sums and counts can be added over batches and devices.

  Args:
    loss: [B].
    level: [B] logsnr (or u) of each example; levels beyond the range fall in the first or last interval.

  Returns:
    sum [buckets] float32, count [buckets] float32; bucket 0 starts at `low`.
  """
  place = jnp.floor((as_float(level) - low) / (high - low) * buckets)
  place = jnp.clip(place, 0, buckets - 1).astype(jnp.int32)
  member = jax.nn.one_hot(place, buckets, dtype=jnp.float32)
  return jnp.sum(member * as_float(loss)[:, None], axis=0), jnp.sum(member, axis=0)
