"""Noise conditioning augmentation of the low-resolution clip (Imagen Video, section 2.5): one function for training and sampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ivid.diffusion.process import q_sample
from ivid.diffusion.schedule import as_float


def augment(*, lowres: jax.Array, logsnr: jax.Array, noise: jax.Array) -> jax.Array:
  """The conditioning clip [B, ...] noised by the forward process at level logsnr ([B] or scalar), before it is resized or repeated.

  One draw of standard normal `noise` per low-resolution value, kept for all steps of a sample.
  """
  return q_sample(x=lowres, eps=noise, logsnr=logsnr)


def logsnr_from_snr(snr: ArrayLike) -> jax.Array:
  """log(snr) of a power ratio alpha^2 / sigma^2 > 0: 3 is alpha^2 = 0.75."""
  return jnp.log(as_float(snr))
