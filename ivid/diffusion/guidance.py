"""Classifier-free guidance and its weights over the steps, constant or oscillating (Imagen Video, section 2.6)."""

from __future__ import annotations

import jax
import numpy as np
from jax.typing import ArrayLike

from ivid.diffusion.schedule import as_float, broadcast_from_left
from ivid.spec.sampling import GuidanceSpec


def guided(*, x_cond: jax.Array, x_uncond: jax.Array, w: ArrayLike) -> jax.Array:
  """(1 + w) x_cond - w x_uncond; w scalar or [B], exactly x_cond at w = 0."""
  return x_cond + broadcast_from_left(as_float(w), x_cond) * (x_cond - x_uncond)


def guidance_weights(spec: GuidanceSpec, steps: int) -> np.ndarray:
  """[steps] float32, the weight w of each step, in the order they run (from noise to data).

  Constant: `weight` throughout. Oscillating: `weight` for the first round(constant_part x steps) steps, then low, weight, low, weight, ...:
  the alternation begins with the low weight, since the steps before it had the high one.
  """
  weights = np.full(steps, spec.weight, np.float32)
  if spec.low is not None:
    weights[round(spec.constant_part * steps) :: 2] = spec.low
  return weights
