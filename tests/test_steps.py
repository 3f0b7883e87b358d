"""train_step on a one-parameter model whose updates are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivid.steps import init_state, train_step

KEY = jax.random.key(0)


def quadratic(params, batch, key):
  del key
  return jnp.square(params["a"] - batch["x"]), jnp.zeros_like(batch["x"])


def step(state, batch, **options):
  options = dict(loss_fn=quadratic, optimizer=optax.sgd(0.25), ema_decay=0.5, accumulation=1) | options
  return train_step(state, batch, KEY, **options)


@pytest.fixture
def state():
  return init_state({"a": jnp.asarray(3.0)}, optax.sgd(0.25))


def test_update_and_average(state):
  new, metrics = step(state, {"x": jnp.asarray([1.0, 1.0])})
  assert float(new.params["a"]) == 2.0  # 3 - 0.25 x 2 (3 - 1)
  assert float(metrics["loss"]) == 4.0
  assert float(metrics["grad_norm"]) == 4.0
  np.testing.assert_allclose(float(new.ema["a"]), 0.1 * 3.0 + 0.9 * 2.0, rtol=1e-6)  # decay min(0.5, 1 / 10) at the first step
  assert int(new.step) == 1


def test_average_reaches_its_decay(state):
  late = state.replace(step=jnp.asarray(1000, jnp.int32))
  new, _ = step(late, {"x": jnp.asarray([1.0, 1.0])})
  assert float(new.ema["a"]) == 2.5


def test_accumulation_equals_the_whole_batch(state):
  batch = {"x": jnp.asarray([1.0, -2.0, 5.0, 0.5])}
  whole, all_metrics = step(state, batch)
  parts, metrics = step(state, batch, accumulation=2)
  np.testing.assert_allclose(parts.params["a"], whole.params["a"], rtol=1e-6)
  np.testing.assert_allclose(metrics["loss"], all_metrics["loss"], rtol=1e-6)


def test_accumulation_keeps_rows_with_their_group(state):
  """Rows in groups of two, each group with an array of its own."""

  def loss(params, batch, key):
    rows, groups = batch["x"].reshape(-1, 2), batch["group"]
    return jnp.square(params["a"] * groups - rows).reshape(-1), jnp.zeros_like(batch["x"])

  batch = {"x": jnp.asarray([1.0, -2.0, 5.0, 0.5, 3.0, 1.0, 0.0, 2.0]), "group": jnp.asarray([[1.0], [2.0], [-1.0], [0.5]])}
  whole, parts = (step(state, batch, loss_fn=loss, accumulation=n)[0] for n in (1, 2))
  np.testing.assert_allclose(parts.params["a"], whole.params["a"], rtol=1e-6)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counter(state):
  new, metrics = step(state, {"x": jnp.asarray([1.0, jnp.inf])})
  assert not np.isfinite(float(metrics["loss"]))
  assert float(new.params["a"]) == 3.0
  assert float(new.ema["a"]) == 3.0
  assert int(new.step) == 1
