"""Noise schedule in continuous time: u in [0, 1] -> logsnr = log(alpha^2 / sigma^2) -> alpha, sigma."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ivid.spec.stage import DiffusionSpec

GOLDEN_STRIDE = 2654435769  # 2^32 / golden ratio, the step for which an additive recurrence has the most even gaps
U_MARGIN = 1e-5  # u stays this far from 0 and 1


def as_float(a: ArrayLike) -> jax.Array:
  """`a` as a float32 array, or float64 if it already is. Levels and everything computed with them are at least float32."""
  return jnp.asarray(a, dtype=jnp.promote_types(jnp.result_type(a), jnp.float32))


def broadcast_from_left(a: jax.Array, ndim_like: jax.Array | int) -> jax.Array:
  """`a`, scalar or [B], with axes of size 1 appended up to `ndim_like` axes (or those of that array), so that it scales rows."""
  ndim = ndim_like if isinstance(ndim_like, int) else jnp.ndim(ndim_like)
  a = jnp.asarray(a)
  assert a.ndim <= ndim or a.ndim == 0, (a.shape, ndim)
  return a if a.ndim == 0 else a.reshape(a.shape + (1,) * (ndim - a.ndim))


def alpha_sigma(logsnr: ArrayLike) -> tuple[jax.Array, jax.Array]:
  """alpha = sqrt(sigmoid(logsnr)) and sigma = sqrt(sigmoid(-logsnr)), so alpha^2 + sigma^2 = 1; shapes of `logsnr`."""
  logsnr = as_float(logsnr)
  return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
  """logsnr(u) = -2 log tan(a u + b) + shift, with a and b such that the unshifted ends are logsnr_max at 0 and logsnr_min at 1.

  Progressive Distillation, section 2; the shift is simple diffusion's, section 2.1, and moves both ends.
  """

  logsnr_min: float
  logsnr_max: float
  shift: float = 0.0

  def __call__(self, u: ArrayLike) -> jax.Array:
    """logsnr at time u in [0, 1], any shape; falls strictly."""
    u = as_float(u)
    start, span, rest = self._angles()
    # float32 cannot resolve angles near pi/2, so the later half is measured back from pi/2: tan(pi/2 - y) = 1 / tan(y).
    early = u <= 0.5
    angle = jnp.where(early, span * u + start, span * (1.0 - u) + rest)
    return jnp.where(early, -2.0, 2.0) * jnp.log(jnp.tan(angle)) + self.shift

  def u_from_logsnr(self, logsnr: ArrayLike) -> jax.Array:
    """The time u at which the schedule has this logsnr, any shape; beyond the ends it lies outside [0, 1]."""
    start, span, _ = self._angles()
    return (jnp.arctan(jnp.exp(-0.5 * (as_float(logsnr) - self.shift))) - start) / span

  def _angles(self) -> tuple[float, float, float]:
    """b, a and pi/2 - (a + b)."""
    start = math.atan(math.exp(-0.5 * self.logsnr_max))
    rest = math.atan(math.exp(0.5 * self.logsnr_min))
    return start, 0.5 * math.pi - rest - start, rest


def make_schedule(spec: DiffusionSpec) -> CosineSchedule:
  """The schedule of a stage: from logsnr_max + logsnr_shift at u = 0 to logsnr_min + logsnr_shift at u = 1."""
  return CosineSchedule(spec.logsnr_min, spec.logsnr_max, spec.logsnr_shift)


def normal_logsnr(u: ArrayLike, *, mean: float, std: float) -> jax.Array:
  """Training levels concentrated where there is most to learn: for u uniform in (0, 1), logsnr is normal with this mean and deviation.

  EDM (2206.00364, section 5) draws log sigma in this way, which for alpha = 1 is -logsnr / 2. Like a schedule, it falls strictly in u.
  """
  return mean - std * jax.scipy.special.ndtri(as_float(u))


def stratified_u(index: jax.Array, step_offset: ArrayLike) -> jax.Array:
  """Times u = index / golden ratio + step_offset mod 1, held within [1e-5, 1 - 1e-5].

  Any run of consecutive indices is spread evenly over [0, 1], whatever the batch size and however it is split, and u is uniform over all
  indices. The product is taken modulo 2^32, so that large indices lose no precision.

  Args:
    index: [B] int32 or uint32, the positions of the examples in the data (the lower words, if a position has two).
    step_offset: scalar in [0, 1), the same for all rows of a batch.

  Returns:
    [B] float32.
  """
  turns = jnp.asarray(index).astype(jnp.uint32) * jnp.uint32(GOLDEN_STRIDE)
  fraction = (turns >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)  # 24 bits are what float32 holds exactly
  u = jnp.mod(fraction + jnp.asarray(step_offset, jnp.float32), 1.0)
  return jnp.clip(u, U_MARGIN, 1.0 - U_MARGIN)
