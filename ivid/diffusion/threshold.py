"""Thresholding of x_hat to the range of the data, [-1, 1] (Imagen, section 2.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ivid.diffusion.schedule import broadcast_from_left
from ivid.spec.sampling import ThresholdKind


def threshold(x_hat: jax.Array, kind: ThresholdKind, percentile: float) -> jax.Array:
  """x_hat [B, ...] within [-1, 1], or unchanged if kind is NONE.

  Static: clipped. Dynamic: per example over all other axes, s = max(1, percentile of |x_hat|); clipped to [-s, s] and divided by s.

  Args:
    percentile: 0 to 100, dynamic only.
  """
  match kind:
    case ThresholdKind.NONE:
      return x_hat
    case ThresholdKind.STATIC:
      return jnp.clip(x_hat, -1.0, 1.0)
    case ThresholdKind.DYNAMIC:
      size = jnp.quantile(jnp.abs(x_hat).reshape(x_hat.shape[0], -1), percentile / 100.0, axis=1)
      s = broadcast_from_left(jnp.maximum(size, 1.0), x_hat)
      return jnp.clip(x_hat, -s, s) / s
