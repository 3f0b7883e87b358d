"""Single steps of the samplers, z_t -> z_s with s < t, and their time grid.

Clips are [B, ...] float32, levels are [B] or scalar. Steps follow Imagen Video, section 2.1 (ancestral, DDIM) and DPM-Solver++(2M),
arXiv 2211.01095, algorithm 2.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ivid.diffusion.process import posterior
from ivid.diffusion.schedule import alpha_sigma, as_float, broadcast_from_left
from ivid.spec.errors import UserError
from ivid.spec.sampling import SamplerKind, SamplingSpec


def time_grid(steps: int) -> np.ndarray:
  """[steps + 1] float64 times from 1 to 0, uniform in u for every sampler, including DPM-Solver++.

  DPM-Solver++ measures its step sizes in logsnr, so it works with this grid. A grid uniform in logsnr would spend most steps near the ends
  of the schedule, where nothing happens.

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
    x_hat_prev: x_hat of the previous step, at level logsnr_prev; on the first step any finite array, or None.
    logsnr_prev: may be traced. If it equals logsnr_t, as on the first step, or is None, then d = x_hat, which is DDIM.
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
  """A DDIM step from t beyond s to `jump`, then back up to s by the forward process: the sampler of distilled stages (section 2.7).

  q(z_s | z_jump) = N((alpha_s / alpha_jump) z_jump, (1 - exp(logsnr_s - logsnr_jump)) sigma_s^2), logsnr_jump >= logsnr_s >= logsnr_t.
  """
  z_jump = ddim_step(z_t=z_t, x_hat=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_jump)
  return forward_step(z_s=z_jump, noise=noise, logsnr_s=logsnr_jump, logsnr_t=logsnr_s)


def forward_step(*, z_s: jax.Array, noise: jax.Array, logsnr_s: jax.Array, logsnr_t: jax.Array) -> jax.Array:
  """z_t ~ q(z_t | z_s) = N((alpha_t / alpha_s) z_s, (1 - exp(logsnr_t - logsnr_s)) sigma_t^2), logsnr_t <= logsnr_s, from normal `noise`.

  Going back up and repeating a step lets the sampled frames agree with the given ones: the "resampling" of RePaint (2201.09865, algorithm
  1, lines 9 and 10) with a jump length of 1.
  """
  alpha_s, _ = alpha_sigma(logsnr_s)
  alpha_t, sigma_t = alpha_sigma(logsnr_t)
  deviation = sigma_t * jnp.sqrt(-jnp.expm1(as_float(logsnr_t) - as_float(logsnr_s)))
  return broadcast_from_left(alpha_t / alpha_s, z_s) * z_s + broadcast_from_left(deviation, z_s) * noise


def adds_noise(kind: SamplerKind) -> bool:
  """Whether a step reads fresh noise."""
  return kind in (SamplerKind.ANCESTRAL, SamplerKind.STOCHASTIC)


def is_multistep(kind: SamplerKind) -> bool:
  """Whether a step reads the x_hat of the previous step."""
  return kind is SamplerKind.DPM_SOLVER_PP_2M


Leaf = Any  # a jax.Array, or what takes its place in a tree of the same structure: a NumPy array, an abstract array or a sharding


@functools.partial(jax.tree_util.register_dataclass, data_fields=["z", "x_hat"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class SampleState:
  """What one sampling step passes to the next, [B, ...] float32: z_t and, if the sampler reads it, the previous x_hat."""

  z: Leaf
  x_hat: Leaf | None = None


LEVELS = ("logsnr_t", "logsnr_s", "logsnr_prev", "logsnr_jump")


@functools.partial(jax.tree_util.register_dataclass, data_fields=[*LEVELS, "w", "last"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class StepInputs:
  """The scalars of one sampling step. They are inputs, so that one compiled program serves all steps.

  Attributes:
    logsnr_t, logsnr_s: levels at which the step starts and ends.
    logsnr_prev: level at which the previous step started; equal to logsnr_t in the first step.
    logsnr_jump: level that the stochastic sampler's DDIM step reaches before it goes back up to logsnr_s.
    w: guidance weight.
    last: bool; the last step returns x_hat.
  """

  logsnr_t: Leaf
  logsnr_s: Leaf
  logsnr_prev: Leaf
  logsnr_jump: Leaf
  w: Leaf
  last: Leaf


def sampler_step(
  sampling: SamplingSpec, state: SampleState, x_hat: jax.Array, *, step: StepInputs, noise: jax.Array | None = None
) -> SampleState:
  """One step of the spec's sampler (static), from x_hat at the level where `step` starts. The last step returns x_hat.

  Args:
    noise: standard normal, like state.z; only for samplers that add noise (`adds_noise`).
  """
  z = STEPS[sampling.sampler](sampling, state, x_hat, noise, step)
  return SampleState(z=jnp.where(step.last, x_hat.astype(z.dtype), z), x_hat=x_hat if is_multistep(sampling.sampler) else None)


def _ddim(sampling: SamplingSpec, state: SampleState, x_hat: jax.Array, noise: None, step: StepInputs) -> jax.Array:
  del sampling, noise
  return ddim_step(z_t=state.z, x_hat=x_hat, logsnr_t=step.logsnr_t, logsnr_s=step.logsnr_s)


def _ancestral(sampling: SamplingSpec, state: SampleState, x_hat: jax.Array, noise: jax.Array, step: StepInputs) -> jax.Array:
  levels = dict(logsnr_t=step.logsnr_t, logsnr_s=step.logsnr_s)
  return ancestral_step(z_t=state.z, x_hat=x_hat, noise=noise, gamma=sampling.gamma, **levels)


def _dpmpp_2m(sampling: SamplingSpec, state: SampleState, x_hat: jax.Array, noise: None, step: StepInputs) -> jax.Array:
  del sampling, noise
  levels = dict(logsnr_t=step.logsnr_t, logsnr_s=step.logsnr_s, logsnr_prev=step.logsnr_prev)
  return dpmpp_2m_step(z_t=state.z, x_hat=x_hat, x_hat_prev=state.x_hat, **levels)


def _stochastic(sampling: SamplingSpec, state: SampleState, x_hat: jax.Array, noise: jax.Array, step: StepInputs) -> jax.Array:
  del sampling
  levels = dict(logsnr_t=step.logsnr_t, logsnr_jump=step.logsnr_jump, logsnr_s=step.logsnr_s)
  return stochastic_step(z_t=state.z, x_hat=x_hat, noise=noise, **levels)


# To add a sampler: its kind in ivid.spec.sampling, its step above, and a line here; adds_noise and is_multistep say what it reads.
STEPS = {
  SamplerKind.DDIM: _ddim,
  SamplerKind.ANCESTRAL: _ancestral,
  SamplerKind.DPM_SOLVER_PP_2M: _dpmpp_2m,
  SamplerKind.STOCHASTIC: _stochastic,
}
