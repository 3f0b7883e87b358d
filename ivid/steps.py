"""train_step, distill_step and eval_step: pure functions, state in, state out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

# loss_fn(params, batch, key) -> (loss [B], u [B])
LossFn = Callable[[Any, Any, jax.Array], tuple[jax.Array, jax.Array]]


class TrainState(flax.struct.PyTreeNode):
  """Everything that training changes.

  Attributes:
    step: int32 scalar, the number of updates so far.
    params: float32 parameters.
    ema: exponential moving average of the parameters, which is used for sampling and shipped.
    opt_state: the optimizer's.
    averages: power-function averages of the parameters, one tree per width that the run keeps (ivid.weights.averages).
  """

  step: Any
  params: Any
  ema: Any
  opt_state: Any
  averages: tuple[Any, ...] = ()


def init_state(params: Any, optimizer: optax.GradientTransformation, *, averages: int = 0) -> TrainState:
  """The state before the first update. The EMA and `averages` power-function averages start at the parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.copy, params),
    opt_state=optimizer.init(params),
    averages=tuple(jax.tree.map(jnp.copy, params) for _ in range(averages)),
  )


def train_step(
  state: TrainState,
  batch: Any,
  key: jax.Array,
  *,
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
  accumulation: int,
  exponents: Sequence[float] = (),
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update. If the loss or the gradient is not finite, only the counter changes, so the state stays usable.

  Args:
    exponents: the gamma of each power-function average in the state.

  Returns: the state and scalars: loss, grad_norm.
  """
  loss, grads = _gradients(state.params, batch, key, loss_fn=loss_fn, accumulation=accumulation)
  grad_norm = optax.tree.norm(grads)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  # The average follows quickly at first; otherwise it would remember the initial values for 1 / (1 - decay) steps.
  decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
  ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, params)
  averages = tuple(_power_average(a, params, gamma, state.step) for a, gamma in zip(state.averages, exponents, strict=True))
  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  new = TrainState(step=state.step, params=params, ema=ema, opt_state=opt_state, averages=averages)
  kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
  return kept.replace(step=state.step + 1), {"loss": loss, "grad_norm": grad_norm}


def distill_step(
  state: TrainState,
  teacher: Any,
  batch: Any,
  key: jax.Array,
  *,
  loss_fn: Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, jax.Array]],
  **options: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """train_step with a frozen `teacher` (ivid.stage.Teacher); loss_fn(params, teacher, batch, key) -> (loss [B], u [B])."""

  def loss_of_lesson(params: Any, rows: Any, step_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    return loss_fn(params, teacher, rows, step_key)

  return train_step(state, batch, key, loss_fn=loss_of_lesson, **options)


def eval_step(params: Any, batch: Any, key: jax.Array, *, loss_fn: LossFn) -> tuple[jax.Array, jax.Array]:
  """Loss [B] and diffusion time u [B] of a batch, to be averaged per level."""
  return loss_fn(params, batch, key)


def _power_average(average: Any, params: Any, gamma: float, step: jax.Array) -> Any:
  """The average after one more update, `step` of them before: beta a + (1 - beta) p, beta = (1 - 1 / t)^(gamma + 1) (EDM2, section 3.1)."""
  t = step.astype(jnp.float32) + 1.0
  share = -jnp.expm1((gamma + 1.0) * jnp.log1p(-1.0 / t))  # 1 - beta is small, so it is not computed as a difference
  return jax.tree.map(lambda a, p: a + share * (p - a), average, params)


def _gradients(params: Any, batch: Any, key: jax.Array, *, loss_fn: LossFn, accumulation: int) -> tuple[jax.Array, Any]:
  """The mean loss of the batch and its gradient, computed one microbatch after another."""

  def mean_loss(p: Any, rows: Any) -> jax.Array:
    return jnp.mean(loss_fn(p, rows, key)[0])

  if accumulation == 1:
    return jax.value_and_grad(mean_loss)(params, batch)
  # Groups of rows are dealt out in turn, so that each microbatch has the mixture of the whole batch and stays spread over the devices.
  turns = min(a.shape[0] for a in jax.tree.leaves(batch)) // accumulation

  def deal(a: jax.Array) -> jax.Array:
    hands = jnp.moveaxis(a.reshape(turns, accumulation, -1, *a.shape[1:]), 1, 0)
    return hands.reshape(accumulation, -1, *a.shape[1:])

  micro = jax.tree.map(deal, batch)

  def add(total: Any, rows: Any) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, jax.value_and_grad(mean_loss)(params, rows)), None

  zeros = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params))
  total, _ = jax.lax.scan(add, zeros, micro)
  return jax.tree.map(lambda a: a / accumulation, total)
