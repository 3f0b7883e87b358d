"""What a student of progressive distillation learns: two steps of its teacher in one (2202.00512, section 3; Imagen Video, section 2.7).

Clips are [B, ...], levels and times are [B].
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ivid.diffusion.samplers import Leaf, ddim_step
from ivid.diffusion.schedule import as_float, broadcast_from_left


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params", "steps"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Teacher:
  """The teacher's part of the inputs of a distillation step.

  Attributes:
    params: unboxed, frozen.
    steps: float32 scalar, the student's number of steps N; guidance distillation does not read it.
  """

  params: Any
  steps: Leaf


class JumpTimes(NamedTuple):
  """Times [B] in [0, 1]: where a jump starts, where the teacher stops half-way, and where the jump ends."""

  t: jax.Array
  mid: jax.Array
  s: jax.Array


def jump_times(u: jax.Array, steps: jax.Array | int, *, jump: int) -> JumpTimes:
  """The jump of an N-step student that the draw u in [0, 1) picks: i = floor(u N) + 1, from t = i/N to s = t - min(jump/N, t).

  Args:
    steps: N, scalar; may be traced.
    jump: 1 for a student for the DDIM sampler, whose teacher makes two steps of 1/(2N). 2 for a student for the stochastic sampler, whose
      teacher makes two steps of 1/N; i may then be odd, and from t = 1/N only one step is left (mid = s = 0).
  """
  i = jnp.clip(jnp.floor(as_float(u) * steps), 0, steps - 1) + 1.0
  s = jnp.maximum(i - jump, 0.0)
  mid = i - 0.5 * jump
  return JumpTimes(t=i / steps, mid=jnp.maximum(mid, s) / steps, s=s / steps)


def two_step_target(
  denoise: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  z_t: jax.Array,
  logsnr_t: jax.Array,
  logsnr_mid: jax.Array,
  logsnr_s: jax.Array,
  ends: jax.Array,
) -> jax.Array:
  """The x for which one DDIM step from t to s arrives where two steps of the teacher arrive, via mid.

  Progressive Distillation, algorithm 2: x = (z_s - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t) alpha_t). This equals
  a weighted mean of the teacher's two x_hat: the first weight is expm1((logsnr_mid - logsnr_t) / 2) / expm1((logsnr_s - logsnr_t) / 2), and
  the second is 1 minus the first. Unlike the quotient, the mean does not subtract nearly equal numbers.

  Args:
    denoise: the teacher, (z, logsnr [B]) -> x_hat.
    ends: [B] bool, True where s = 0: the target is then the teacher's last x_hat. If also mid = s, there is only one step.
  """
  logsnr_t, logsnr_mid, logsnr_s = map(as_float, (logsnr_t, logsnr_mid, logsnr_s))
  first = denoise(z_t, logsnr_t)
  second = denoise(ddim_step(z_t=z_t, x_hat=first, logsnr_t=logsnr_t, logsnr_s=logsnr_mid), logsnr_mid)
  share = jnp.expm1(0.5 * (logsnr_mid - logsnr_t)) / jnp.expm1(0.5 * (logsnr_s - logsnr_t))
  share = jnp.where(logsnr_mid >= logsnr_s, 1.0, jnp.where(ends, 0.0, share))
  return second + broadcast_from_left(share, first) * (first - second)
